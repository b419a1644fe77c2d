"""`mallee walrus`: is the object store whole, a copy of it, its keys, and who may put how much."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, TextColumn

from cli.client import Client
from cli.keys import app as keys_app
from cli.options import Home, site
from cli.output import Json, err, gib, out, plain_errors, print_json
from cli.quota import quota, usage
from common.config import CloudConfig
from common.errors import Unavailable
from common.rpc.channel import cloud_errors, connect
from deploy import machine
from deploy.cloud import Site
from mallee.walrus.v1 import upkeep_pb2
from mallee.walrus.v1.upkeep_pb2_grpc import UpkeepServiceStub

app = typer.Typer(help="The object store.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.command()(quota)
app.command()(usage)


@app.command()
def scrub(
    home: Home,
    limit: Annotated[float, typer.Option(help="MiB read each second at most; 0: as fast as the disk goes.")] = 0.0,
    as_json: Json = False,
) -> None:
    """Compares all that is stored with its checksums, and says whose is damaged or missing. Exit status 1 if any is."""
    with plain_errors():
        shown = asyncio.run(_scrub(Client.of(site(home)), int(limit * (1 << 20))))
    if as_json:
        print_json(shown)
    else:
        _print_findings(shown)
        out.print(
            f"{gib(shown['ScrubbedBytes'])} in {shown['Compared']} pieces were compared: "
            f"{len(shown['Findings']) or 'nothing'} found.",
            markup=False,
        )
    if shown["Findings"]:
        raise typer.Exit(1)


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="On this machine; another disk than the cloud's is best.")],
    home: Home,
    as_json: Json = False,
) -> None:
    """Copies the whole store as it stands at one moment, while clients write. Repeated, it copies what is new.

    Exit status 1 if something could not be copied. On the file system of the cloud's home blobs are linked, not copied:
    that outlives deletions and not the disk.
    """
    with plain_errors():
        place = site(home)
        client = Client.of(place)
        _lend(folder, client.config.user)
        shown = asyncio.run(_backup(client, folder.resolve()))
    if as_json:
        print_json(shown)
    else:
        _print_findings(shown)
        out.print(
            f"{folder} has the store's {shown['Blobs']} blobs: {shown['NewBlobs']} are new, "
            f"{gib(shown['CopiedBytes'])} were copied.",
            markup=False,
        )
    if shown["Findings"]:
        raise typer.Exit(1)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="That `backup` wrote to.", exists=True, file_okay=False)],
    home: Home,
    replace: Annotated[bool, typer.Option("--replace", help="Move what the store has aside.")] = False,
    as_json: Json = False,
) -> None:
    """Makes a backup the store of a cloud that is down. Says what is missing, damaged or left over in it: then the rest
    is restored, and the exit status is 1."""
    with plain_errors():
        place = site(home)
        config = place.config()
        shown = _restored(place, config, folder.resolve(), replace=replace)
    if as_json:
        print_json(shown)
    else:
        _print_findings(shown)
        out.print(f"The store is as it was on {shown['Made']}, with {shown['Blobs']} blobs.", markup=False)
    if shown["Findings"]:
        raise typer.Exit(1)


def _lend(folder: Path, user: str) -> None:
    """A new folder is Walrus' own; one that is there must be."""
    if folder.exists():
        return
    try:
        machine.own([folder], user, 0o700)
    except OSError as error:
        raise Unavailable(f"{folder}: {error.strerror}") from error


async def _backup(client: Client, folder: Path) -> dict[str, Any]:
    shown: dict[str, Any] = {"Blobs": 0, "NewBlobs": 0, "CopiedBytes": 0, "Findings": []}
    request = upkeep_pb2.BackupStoreRequest(folder=str(folder))
    with _progress() as bars:
        bar = bars.add_task("", total=None)
        for member in client.walruses():
            async with connect(member.address, client.identity, member.id) as channel:
                answer = upkeep_pb2.BackupStoreResponse()
                with cloud_errors():
                    async for answer in UpkeepServiceStub(channel).BackupStore(request):
                        shown["Findings"] += map(_finding, answer.findings)
                        bars.update(bar, description=f"{shown['Blobs'] + answer.blobs} blobs")
                shown["Blobs"] += answer.blobs
                shown["NewBlobs"] += answer.new_blobs
                shown["CopiedBytes"] += answer.copied_bytes
    return shown


def _restored(place: Site, config: CloudConfig, folder: Path, *, replace: bool) -> dict[str, Any]:
    """All stores of the cloud, or none if a backup of one is not there."""
    for member in config.walrus.shards:
        _run_restore(place, config, [member, "--check", str(folder)])
    shown: dict[str, Any] = {"Blobs": 0, "Findings": []}
    for member in config.walrus.shards:
        *findings, last = _run_restore(place, config, [member, *(["--replace"] if replace else []), str(folder)])
        shown["Findings"] += [
            {"Kind": f["kind"], "What": f["what"], "Owners": f["owners"], "Why": f["why"]} for f in findings
        ]
        shown["Blobs"] += last["restored"]
        # They are copied one after the other.
        shown["Made"] = min(shown.get("Made", last["made"]), last["made"])
    return shown


def _run_restore(place: Site, config: CloudConfig, arguments: list[str]) -> list[dict[str, Any]]:
    """The lines that it prints. Raises Unavailable."""
    command = [sys.executable, "-m", "services.walrus.restore", "--config", str(place.config_file), "--member"]
    command += arguments
    uid, gid = machine.ids_of(config.user)
    as_user: dict[str, Any] = {"user": uid, "group": gid, "extra_groups": []} if config.user else {}
    environment = os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment, **as_user)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    last = lines[-1] if lines else {"refused": f"it ended with status {done.returncode}"}
    if "refused" in last:
        raise Unavailable(last["refused"])
    return lines


async def _scrub(client: Client, bytes_per_second: int) -> dict[str, Any]:
    shown: dict[str, Any] = {"ScrubbedBytes": 0, "Compared": 0, "Findings": []}
    request = upkeep_pb2.ScrubStoreRequest(bytes_per_second=bytes_per_second)
    with _progress() as bars:
        bar = bars.add_task("", total=None)
        for member in client.walruses():
            async with connect(member.address, client.identity, member.id) as channel:
                answer = upkeep_pb2.ScrubStoreResponse()
                with cloud_errors():
                    async for answer in UpkeepServiceStub(channel).ScrubStore(request):
                        shown["Findings"] += map(_finding, answer.findings)
                        bars.update(bar, description=f"{gib(shown['ScrubbedBytes'] + answer.scrubbed_bytes)} compared")
                shown["ScrubbedBytes"] += answer.scrubbed_bytes
                shown["Compared"] += answer.compared
    return shown


def _finding(one: upkeep_pb2.StoreFinding) -> dict[str, Any]:
    kind = upkeep_pb2.FindingKind.Name(one.kind).removeprefix("FINDING_KIND_").lower()
    return {"Kind": kind, "What": one.what, "Owners": list(one.owners), "Why": one.why}


def _print_findings(shown: dict[str, Any]) -> None:
    for finding in shown["Findings"]:
        owners = ", ".join(finding["Owners"]) or "nobody's"
        out.print(f"{finding['Kind']}: {owners} ({finding['What']}): {finding['Why']}", markup=False)


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), console=err, transient=True)

"""`mallee walrus`: is the object store whole, a copy of it, and who may put how much."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from rich.progress import Progress, TextColumn

from cli.client import Client
from cli.options import Home, site
from cli.output import Json, err, gib, out, plain_errors, print_json
from common.rpc.channel import cloud_errors, connect
from mallee.walrus.v1 import upkeep_pb2
from mallee.walrus.v1.upkeep_pb2_grpc import UpkeepServiceStub

app = typer.Typer(help="The object store.", no_args_is_help=True)


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
        for finding in shown["Findings"]:
            out.print(_line(finding), markup=False)
        out.print(
            f"{gib(shown['ScrubbedBytes'])} in {shown['Compared']} pieces were compared, {shown['Unchecked']} of them "
            f"are older than checksums: {len(shown['Findings']) or 'nothing'} found.",
            markup=False,
        )
    if shown["Findings"]:
        raise typer.Exit(1)


async def _scrub(client: Client, bytes_per_second: int) -> dict[str, Any]:
    shown: dict[str, Any] = {"ScrubbedBytes": 0, "Compared": 0, "Unchecked": 0, "Findings": []}
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
                shown["Unchecked"] += answer.unchecked
    return shown


def _finding(one: upkeep_pb2.StoreFinding) -> dict[str, Any]:
    kind = upkeep_pb2.FindingKind.Name(one.kind).removeprefix("FINDING_KIND_").lower()
    return {"Kind": kind, "What": one.what, "Owners": list(one.owners), "Why": one.why}


def _line(finding: dict[str, Any]) -> str:
    owners = ", ".join(finding["Owners"]) or "nobody's"
    return f"{finding['Kind']}: {owners} ({finding['What']}): {finding['Why']}"


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), console=err, transient=True)

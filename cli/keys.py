"""`mallee walrus keys`: the master keys that objects are encrypted with."""

from __future__ import annotations

import asyncio
from typing import Any

import typer

from cli.client import Client
from cli.options import Home, site
from cli.output import Json, out, plain_errors, print_json
from common import keyring
from common.errors import Unavailable
from common.rpc.channel import cloud_errors, connect
from mallee.walrus.v1 import upkeep_pb2
from mallee.walrus.v1.upkeep_pb2_grpc import UpkeepServiceStub

app = typer.Typer(help="The master keys that objects are encrypted with.", no_args_is_help=True)


@app.command()
def rotate(home: Home, as_json: Json = False) -> None:
    """Makes a new master key: it seals the keys of objects from now on, also those that older ones sealed.

    The older keys stay in the file: backups from before need them. Keep a copy of the file apart from the backups, and
    renew it now. Exit status 1 if there are objects that no key opens.
    """
    with plain_errors():
        client = Client.of(site(home))
        # It must run, or nobody takes the key into use.
        client.walruses()
        path = client.config.pki_path / keyring.OBJECT_KEYS
        try:
            keyring.add_line(path)
        except OSError as error:
            raise Unavailable(f"{path}: {error.strerror}") from error
    _reseal(client, as_json)


@app.command()
def reseal(home: Home, as_json: Json = False) -> None:
    """Seals by the newest master key what older ones sealed: after a `rotate` that broke off, or when a copy of the
    file was put back. Exit status 1 if there are objects that no key opens."""
    with plain_errors():
        client = Client.of(site(home))
    _reseal(client, as_json)


def _reseal(client: Client, as_json: bool) -> None:
    with plain_errors():
        shown = asyncio.run(_resealed(client))
    if as_json:
        print_json(shown)
    else:
        for owner in shown["Unopened"]:
            out.print(f"no master key opens {owner}", markup=False)
        out.print(
            f"The keys of {shown['Resealed']} objects were sealed by the newest master key, {shown['Newest']}. Copy "
            f"{shown['File']} to where you keep it, apart from your backups.",
            markup=False,
        )
    if shown["Unopened"]:
        raise typer.Exit(1)


async def _resealed(client: Client) -> dict[str, Any]:
    file = client.config.pki_path / keyring.OBJECT_KEYS
    shown: dict[str, Any] = {"Newest": "", "Resealed": 0, "Unopened": [], "File": str(file)}
    for member in client.walruses():
        async with connect(member.address, client.identity, member.id) as channel:
            answer = upkeep_pb2.ResealKeysResponse()
            with cloud_errors():
                async for answer in UpkeepServiceStub(channel).ResealKeys(upkeep_pb2.ResealKeysRequest()):
                    shown["Unopened"] += answer.unopened
            shown["Resealed"] += answer.resealed
            shown["Newest"] = answer.newest
    return shown

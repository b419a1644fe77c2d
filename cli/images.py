"""`mallee images`: builds guest images and brings them into the cloud through its public API, as any user would."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import credentials
from cli.client import Client
from cli.options import Home, site
from cli.output import Json, out, plain_errors, print_json

SMALL = "small"
app = typer.Typer(help="Guest images.", no_args_is_help=True)


@app.command()
def install(
    home: Home,
    name: Annotated[str, typer.Argument(help="Which one.")] = SMALL,
    as_json: Json = False,
) -> None:
    """Builds an image from Debian packages, uploads and registers it."""
    with plain_errors():
        client = Client.of(site(home))
        image_id = ensure_small(client, credentials.fetch(client, ""))
    if as_json:
        print_json({"ImageId": image_id, "Name": name})
    else:
        out.print(f"{image_id} is ready.", markup=False)


def ensure_small(client: Client, mine: credentials.Credentials) -> str | None:
    return None

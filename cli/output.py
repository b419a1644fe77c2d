"""How the command speaks: tables and colours for people, JSON for scripts, one line on stderr for what went wrong."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from common.config import ConfigError
from common.errors import CloudError
from deploy.cloud import NoCloud
from deploy.layout import LayoutError
from deploy.machine import Unmet
from deploy.s6 import SupervisorError
from images.packages import ImageBuildError

# Not cut to 80 columns where there is no terminal.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="JSON, for scripts.")]


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """What a person can do something about is one line and exit status 1; a bug keeps its traceback."""
    try:
        yield
    except (CloudError, ConfigError, ImageBuildError, LayoutError, NoCloud, SupervisorError, Unmet) as error:
        message = error.message if isinstance(error, CloudError) else str(error)
        err.print(f"mallee: {message}", markup=False, style="red")
        raise typer.Exit(1) from error


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    out.print(table)


def gib(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"

"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from deploy.cloud import Site


def default_home() -> Path:
    """Root's cloud is the machine's; another user's is that user's own."""
    if os.geteuid() == 0:
        return Path("/var/lib/mallee")
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "mallee"


Home = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="MALLEE_HOME",
        default_factory=default_home,
        show_default="/var/lib/mallee, or ~/.local/state/mallee",
        help="The folder that holds the cloud.",
        resolve_path=True,
    ),
]


def site(home: Path) -> Site:
    return Site(home)

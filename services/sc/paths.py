"""Where a storage controller keeps what on its host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.config import CloudConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ScPaths:
    # Files of volumes: nobody but the controller and its storage daemons looks into it.
    volumes: Path
    # Scratch of snapshots, imports and exports, on the file system of the volumes.
    work: Path
    # What serves snapshots to volumes that are made of them.
    sources: Path
    # `mallee up` makes it: QEMU's user passes through to the sockets in it.
    sockets: Path


def paths_of(config: CloudConfig, member: str) -> ScPaths:
    folder = config.home_path / "volumes" / member
    return ScPaths(
        volumes=folder / "engine",
        work=folder / "work",
        sources=folder / "sources",
        sockets=config.sockets_path / member,
    )

"""What stands on disk of a volume: its bytes, its record, and where its sockets are.

<folder>/<volume id>/data        the volume's bytes, sparse, at their own offsets
<folder>/<volume id>/map         while its source comes: a qcow2 that knows which bytes of `data` count
<folder>/<volume id>/pad         beside it: an empty qcow2 over the source, that is larger than any volume
<folder>/<volume id>/record      what should be, as JSON
<folder>/<volume id>/<id>.point  what a frozen point keeps of what was overwritten since
<sockets>/q/…                    the controller's own sockets and pid files: nobody else passes through
<sockets>/<16 digits>-<n>.sock   a guest's way to the export of one grant
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from common.ids import SnapshotId, VolumeId
from common.threads import to_the_end
from services.sc.drivers.base import ExportGrant, Limits, NbdSource

_SOCKET: Final = ".sock"
_PRIVATE: Final = "q"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What should be of a volume. Its size is its file's."""

    limits: Limits = field(default_factory=Limits)
    # Until all of it is here.
    source: NbdSource | None = None
    grant: ExportGrant | None = None
    # Of a client elsewhere: its door's.
    port: int = 0

    def encoded(self) -> bytes:
        return json.dumps(asdict(self), default=str).encode()

    @staticmethod
    def decoded(text: bytes) -> Record:
        told: dict[str, Any] = json.loads(text)
        source = told["source"]
        return Record(
            limits=Limits(**told["limits"]),
            source=source and NbdSource(**{**source, "socket": Path(source["socket"])}),
            grant=told["grant"] and ExportGrant(**told["grant"]),
            port=told["port"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumePlace:
    """Everything of one volume has a name that is told from its id alone."""

    volume_id: VolumeId
    folder: Path
    sockets: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def map(self) -> Path:
        return self.folder / "map"

    @property
    def pad(self) -> Path:
        return self.folder / "pad"

    def point(self, snapshot_id: SnapshotId) -> Path:
        return self.folder / f"{snapshot_id}.point"

    def points(self) -> list[Path]:
        return list(self.folder.glob("*.point"))

    def private(self, name: str) -> Path:
        return self.sockets / _PRIVATE / f"{self._tail}.{name}"

    def guest_socket(self, grant: ExportGrant) -> Path:
        return self.sockets / f"{self._tail}-{grant.generation}{_SOCKET}"

    def guest_sockets(self) -> list[Path]:
        return list(self.sockets.glob(f"{self._tail}-*{_SOCKET}"))

    def load(self) -> Record | None:
        try:
            return Record.decoded(self._record.read_bytes())
        except FileNotFoundError:
            return None

    async def save(self, record: Record) -> None:
        """Whole, and durable when it returns. A busy disk takes its time."""
        await to_the_end(partial(_write, self._record, record.encoded()))

    def wipe(self) -> None:
        """Nothing is left. The record goes first: without it a volume is none."""
        self._record.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        for path in (*self.guest_sockets(), *(self.sockets / _PRIVATE).glob(f"{self._tail}.*")):
            path.unlink(missing_ok=True)

    @property
    def _record(self) -> Path:
        return self.folder / "record"

    @property
    def _tail(self) -> str:
        return self.volume_id.removeprefix("vol-")


class Layout:
    """The folders of one controller."""

    def __init__(self, folder: Path, sockets: Path) -> None:
        self.folder = folder
        self.sockets = sockets

    def make(self) -> None:
        """The folder of private sockets takes on the group of the one around it, so that a link to a socket lets the
        guests' engine in."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.sockets.mkdir(mode=0o750, parents=True, exist_ok=True)
        private = self.sockets / _PRIVATE
        private.mkdir(mode=0o700, exist_ok=True)

    def remove(self) -> None:
        for folder in (self.folder, self.sockets / _PRIVATE):
            shutil.rmtree(folder, ignore_errors=True)

    def place(self, volume_id: VolumeId) -> VolumePlace:
        return VolumePlace(volume_id=volume_id, folder=self.folder / volume_id, sockets=self.sockets)

    def volumes(self) -> list[VolumeId]:
        """Those that are whole."""
        return [one for one in self.begun() if (self.folder / one / "record").exists()]

    def begun(self) -> list[VolumeId]:
        if not self.folder.exists():
            return []
        return sorted(VolumeId(path.name) for path in self.folder.iterdir() if VolumeId.matches(path.name))


def _write(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    os.replace(name, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

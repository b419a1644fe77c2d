"""The folder that a storage controller and its server of snapshots share: which snapshots, who serves, and where.

served/<snapshot id>   to be served: its manifest, empty until it was read from Walrus
blocks/                the cache
lock                   held by the server, with its pid in it
log                    what the server says
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from common.ids import SnapshotId


@dataclass(frozen=True, slots=True)
class SourceFiles:
    folder: Path

    @property
    def served(self) -> Path:
        return self.folder / "served"

    @property
    def blocks(self) -> Path:
        return self.folder / "blocks"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def manifest(self, snapshot_id: SnapshotId) -> Path:
        return self.served / snapshot_id

    def prepare(self) -> None:
        for folder in (self.folder, self.served, self.blocks):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def serving(self) -> frozenset[SnapshotId]:
        try:
            names = os.listdir(self.served)
        except FileNotFoundError:
            return frozenset()
        return frozenset(SnapshotId(name) for name in names if SnapshotId.matches(name))

    def take_lock(self) -> int | None:
        """The descriptor to keep, with our pid in the file. None: another process has it."""
        descriptor = self._open_lock()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        return descriptor

    def holder(self) -> int | None:
        """The pid of the process that serves. None: there is none."""
        descriptor = self._open_lock()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            said = os.pread(descriptor, 20, 0)
            # Without one it began just now: the caller looks again.
            return int(said) if said else None
        finally:
            os.close(descriptor)
        return None

    def _open_lock(self) -> int:
        return os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

"""What stands in for the way to Walrus where there is none: snapshots wait."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from common.errors import Unavailable
from common.ids import SnapshotId
from mallee.sc.v1.snapshot_pb2 import ImportSpec
from services.sc.clients import Progress, Upload, Uploaded
from services.sc.drivers.base import NbdSource


class NoUploads:
    """Uploader and Sources."""

    async def open(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def destroy(self) -> None:
        return None

    async def upload(self, upload: Upload, tell: Callable[[Progress], None]) -> Uploaded:
        raise _NOWHERE

    async def forget(self, snapshot_id: SnapshotId) -> None:
        return None

    async def serve(self, snapshot_id: SnapshotId) -> NbdSource:
        raise _NOWHERE

    async def stop(self, snapshot_id: SnapshotId) -> None:
        return None

    async def serving(self) -> frozenset[SnapshotId]:
        return frozenset()


async def no_import(spec: ImportSpec, folder: Path, tell: Callable[[Progress], None]) -> tuple[Uploaded, int]:
    raise _NOWHERE


_NOWHERE = Unavailable("this storage controller was given no way to Walrus")

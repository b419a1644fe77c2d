"""Disk images on this host: their formats as qemu-img calls them, and a raw one read as what a snapshot is made of."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mallee.sc.v1 import snapshot_pb2
from services.sc.drivers.base import Extent
from services.sc.drivers.extents import whole_blocks
from services.sc.drivers.sparse import data_of

FORMATS: Final = {
    snapshot_pb2.DISK_FORMAT_RAW: "raw",
    snapshot_pb2.DISK_FORMAT_QCOW2: "qcow2",
    snapshot_pb2.DISK_FORMAT_VMDK: "vmdk",
}


class ImageContent:
    """base.py Frozen. Nobody writes to the file any more."""

    def __init__(self, path: Path) -> None:
        self.size_bytes = path.stat().st_size
        self._path = path

    async def changed(self) -> Sequence[Extent]:
        """What is no hole."""
        return await asyncio.to_thread(self._data)

    async def read(self, extent: Extent) -> bytes:
        return await asyncio.to_thread(self._read, extent)

    def _data(self) -> list[Extent]:
        with self._path.open("rb") as file:
            return whole_blocks(data_of(file.fileno()), self.size_bytes)

    def _read(self, extent: Extent) -> bytes:
        with self._path.open("rb") as file:
            return os.pread(file.fileno(), extent.length, extent.start)

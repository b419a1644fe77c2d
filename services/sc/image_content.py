"""A raw disk image on this host, read as what a snapshot is made of."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from services.sc.drivers.base import BLOCK_BYTES, Extent
from services.sc.drivers.sparse import data_of


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
        extents: list[Extent] = []
        with self._path.open("rb") as file:
            for start, length in data_of(file.fileno()):
                first = start // BLOCK_BYTES * BLOCK_BYTES
                end = min(-(-(start + length) // BLOCK_BYTES) * BLOCK_BYTES, self.size_bytes)
                if extents and first <= extents[-1].start + extents[-1].length:
                    first = extents.pop().start
                extents.append(Extent(start=first, length=end - first))
        return extents

    def _read(self, extent: Extent) -> bytes:
        with self._path.open("rb") as file:
            return os.pread(file.fileno(), extent.length, extent.start)

"""Parts of a volume, as an engine or a file system tells them, as the extents that snapshots are made of. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from common.blocks import BLOCK_BYTES
from services.sc.drivers.base import Extent


def whole_blocks(parts: Iterable[tuple[int, int]], size_bytes: int) -> list[Extent]:
    """Of starts and lengths in order: rounded outwards to blocks, joined where they touch."""
    extents: list[Extent] = []
    for start, length in parts:
        begin = start // BLOCK_BYTES * BLOCK_BYTES
        end = min(-(-(start + length) // BLOCK_BYTES) * BLOCK_BYTES, size_bytes)
        if extents and begin <= extents[-1].start + extents[-1].length:
            last = extents.pop()
            begin, end = last.start, max(end, last.start + last.length)
        extents.append(Extent(start=begin, length=end - begin))
    return extents

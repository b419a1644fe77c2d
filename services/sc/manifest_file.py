"""Where a snapshot's blocks are, as a sparse file: a header, and 32 bytes for each block; a hole where it is zero.

So a block is found without reading the rest, and what is larger than memory may be.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from common.blocks import BLOCK_BYTES, DIGEST_BYTES

_MAGIC: Final = b"mallee snapshot 1"
_HEADER: Final = struct.Struct(">17sQ")
_FIRST: Final = 4096
_ZERO: Final = bytes(DIGEST_BYTES)


class ManifestWriter:
    """Durable, and under its name, once it is finished. Blocks the caller."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._draft = draft_of(path)
        self._file = self._draft.open("wb")
        self._file.write(_HEADER.pack(_MAGIC, size_bytes))
        self._file.truncate(_FIRST + _count(size_bytes) * DIGEST_BYTES)

    def add(self, entries: Iterable[tuple[int, bytes]]) -> None:
        """In the order of blocks: those that follow each other are written at once."""
        run, start, following = bytearray(), 0, -1
        for index, digest in entries:
            if index != following:
                self._write(start, run)
                run, start = bytearray(), index
            run += digest
            following = index + 1
        self._write(start, run)

    def _write(self, index: int, digests: bytearray) -> None:
        if digests:
            os.pwrite(self._file.fileno(), digests, _FIRST + index * DIGEST_BYTES)

    def finish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._draft.rename(self._path)


class Manifest:
    """Raises ValueError for a file that is none."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
            # Empty: it is noted, and yet to be read from Walrus.
            if len(head) < _HEADER.size or not head.startswith(_MAGIC):
                raise ValueError(f"{path} is no manifest of a snapshot")
            _, self.size_bytes = _HEADER.unpack(head)
            self.count = _count(self.size_bytes)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def digest(self, index: int) -> bytes:
        """Empty: the block is zero."""
        start = _FIRST + index * DIGEST_BYTES
        found = self._map[start : start + DIGEST_BYTES]
        return b"" if found == _ZERO else found

    def zeros(self, start: int, length: int) -> Iterator[tuple[int, bool]]:
        """Lengths that cover it, and whether they are zero; neighbours differ."""
        end = start + length
        run, was_zero = 0, False
        while start < end:
            index = start // BLOCK_BYTES
            step = min(end, (index + 1) * BLOCK_BYTES) - start
            zero = not self.digest(index)
            if run and zero != was_zero:
                yield run, was_zero
                run = 0
            run, was_zero = run + step, zero
            start += step
        if run:
            yield run, was_zero


def draft_of(path: Path) -> Path:
    """Of a manifest that is being written."""
    return path.with_name(f"{path.name}.new")


def _count(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES)

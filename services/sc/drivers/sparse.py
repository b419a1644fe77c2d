"""Sparse files: copying and comparing them without reading their holes. Blocks the caller."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_CHUNK_BYTES: Final = 1 << 20


def make(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        file.truncate(size_bytes)


def copy(source: Path, target: Path) -> None:
    """Durable when it returns."""
    with source.open("rb") as old, target.open("wb") as new:
        new.truncate(os.fstat(old.fileno()).st_size)
        for start, length in data_of(old.fileno()):
            for at in range(start, start + length, _CHUNK_BYTES):
                piece = os.pread(old.fileno(), min(_CHUNK_BYTES, start + length - at), at)
                os.pwrite(new.fileno(), piece, at)
        os.fsync(new.fileno())


def data_of(descriptor: int) -> Iterator[tuple[int, int]]:
    """(start, length) of what is no hole."""
    end = os.fstat(descriptor).st_size
    at = 0
    while at < end:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            # ENXIO: only a hole follows.
            return
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, at - start


def used_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512

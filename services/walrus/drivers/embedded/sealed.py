"""A blob's file, open for reading: no byte leaves it before the piece that it stands in was checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from services.walrus.drivers.base import BlobId
from services.walrus.drivers.blobs import BlobDamaged, BlobMissing
from services.walrus.drivers.embedded import pieces
from services.walrus.drivers.embedded.pieces import Malformed, Pieces

CHUNK_BYTES: Final = 1 << 20
# Read at once from the end: the footer of a blob of up to 64 MiB, and all of a small one.
_TAIL_BYTES: Final = 4096


class SealedFile:
    """Opened by the first use of it; closing one that was never opened is no error. Its methods block."""

    def __init__(self, folder: Path, blob: BlobId) -> None:
        self.blob = blob
        self._folder = folder
        self._descriptor = -1
        self._size = 0
        self._pieces = Pieces(0, pieces.PIECE_BYTES, b"")

    @property
    def descriptor(self) -> int:
        return self._descriptor

    @property
    def size(self) -> int:
        """Of the content."""
        return self._size

    def open(self) -> None:
        """Raises BlobMissing, BlobDamaged."""
        if self._descriptor >= 0:
            return
        path = self._folder / f"{self.blob}{pieces.SUFFIX}"
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise BlobMissing(f"blob {self.blob} is not there") from error
        self._size = os.fstat(self._descriptor).st_size
        self._read_footer()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` on: at least one, at most 1 MiB, none behind `end`.

        Raises BlobMissing, BlobDamaged.
        """
        self.open()
        if end > self._size:
            raise BlobMissing(f"blob {self.blob} ends at byte {self._size}")
        piece = self._pieces.piece_bytes
        first = start // piece * piece
        last = min(-(-end // piece) * piece, first + max(CHUNK_BYTES, piece), self._size)
        content = self._at(first, last)
        self._check(first, memoryview(content))
        return content[start - first : end - first]

    def footer(self) -> bytes:
        """What stands behind the content."""
        return self._at(self._size, os.fstat(self._descriptor).st_size)

    def verify(self, start: int, end: int, *, fresh: bool = False) -> None:
        """That the pieces which hold the bytes [start, end) are what was written. It holds one of them at a time.

        `fresh`: on the disk, whatever the page cache has. Raises BlobMissing, BlobDamaged.
        """
        self.open()
        if end > self._size:
            raise BlobMissing(f"blob {self.blob} ends at byte {self._size}")
        if fresh:
            # Dropped before, so that the disk is asked; and behind, so that others' pages stay.
            os.posix_fadvise(self._descriptor, start, end - start, os.POSIX_FADV_DONTNEED)
        piece = self._pieces.piece_bytes
        # Not mapped: a sector that cannot be read would be a signal that ends the process.
        for first in range(start // piece * piece, end, piece):
            self._check(first, memoryview(self._at(first, min(first + piece, self._size))))
        if fresh:
            os.posix_fadvise(self._descriptor, start, end - start, os.POSIX_FADV_DONTNEED)

    def _read_footer(self) -> None:
        try:
            tail = self._at(max(self._size - _TAIL_BYTES, 0), self._size)
            needed = pieces.footer_bytes(tail)
            if needed > len(tail):
                tail = self._at(max(self._size - needed, 0), self._size)
            self._pieces = pieces.parsed(tail, self._size)
        except Malformed as error:
            raise BlobDamaged(f"blob {self.blob}: {error}") from error
        self._size = self._pieces.size

    def _check(self, start: int, content: memoryview) -> None:
        damaged = self._pieces.damaged(start, content)
        if damaged is not None:
            raise BlobDamaged(f"blob {self.blob} is not what was written, from byte {damaged} on")

    def _at(self, start: int, end: int) -> bytes:
        content = b""
        try:
            while more := os.pread(self._descriptor, end - start - len(content), start + len(content)):
                content = content + more if content else more
        except OSError as error:
            raise BlobDamaged(f"blob {self.blob} cannot be read: {error.strerror}") from error
        if len(content) < end - start:
            raise BlobDamaged(f"blob {self.blob} was cut off")
        return content

"""The checksums of a blob's pieces, and the footer that carries them behind its bytes. Pure.

A blob file of this format is called `<id>.1` and is: the content; the CRC64NVME of each piece of 128 KiB, the last as
long as the content goes on, 8 bytes each; and a trailer of 32 bytes: the magic, the version, the logarithm of a piece,
the length of the content, and the CRC64NVME of the table and the trailer so far. All numbers are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import awscrt.checksums

SUFFIX: Final = ".1"
PIECE_BITS: Final = 17
PIECE_BYTES: Final = 1 << PIECE_BITS

_MAGIC: Final = b"\x89MALLEE\n"
_VERSION: Final = 1
_TRAILER: Final = struct.Struct(">8sHHIQ")
_SUM: Final = struct.Struct(">Q")
TRAILER_BYTES: Final = _TRAILER.size + _SUM.size


class Malformed(Exception):
    """It is not a footer of this format, or not whole."""


def crc(content: bytes | memoryview, previous: int = 0) -> int:
    return int(awscrt.checksums.crc64nvme(content, previous))


class Sums:
    """Of content that comes in chunks of any size."""

    def __init__(self) -> None:
        self._table = bytearray()
        self._size = 0
        self._current = 0

    def update(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            room = PIECE_BYTES - self._size % PIECE_BYTES
            self._current = crc(rest[:room], self._current)
            self._size += len(rest[:room])
            rest = rest[room:]
            if self._size % PIECE_BYTES == 0:
                self._end_piece()

    def footer(self) -> bytes:
        """Of the content so far, which is all of it."""
        if self._size % PIECE_BYTES:
            self._end_piece()
        body = bytes(self._table) + _TRAILER.pack(_MAGIC, _VERSION, PIECE_BITS, 0, self._size)
        return body + _SUM.pack(crc(body))

    def _end_piece(self) -> None:
        self._table += _SUM.pack(self._current)
        self._current = 0


@dataclass(frozen=True, slots=True)
class Pieces:
    """What a footer says."""

    # Of the content, in bytes.
    size: int
    piece_bytes: int
    # 8 bytes for each piece.
    table: bytes

    def damaged(self, start: int, content: memoryview) -> int | None:
        """The first byte of the first piece that is not what was written; None: all are.

        `start` begins a piece, and the content ends with one.
        """
        for offset in range(0, len(content), self.piece_bytes):
            (wanted,) = _SUM.unpack_from(self.table, (start + offset) // self.piece_bytes * _SUM.size)
            if crc(content[offset : offset + self.piece_bytes]) != wanted:
                return start + offset
        return None


def footer_bytes(trailer: bytes) -> int:
    """How long the footer is that ends with this. Raises Malformed."""
    if len(trailer) < TRAILER_BYTES:
        raise Malformed("it ends early")
    magic, version, bits, _, size = _TRAILER.unpack_from(trailer, len(trailer) - TRAILER_BYTES)
    if magic != _MAGIC or version != _VERSION or not 9 <= bits <= 30:
        raise Malformed("it does not end as a blob does")
    return int(-(-size // (1 << bits))) * _SUM.size + TRAILER_BYTES


def parsed(footer: bytes, file_bytes: int) -> Pieces:
    """`footer`: the last bytes of a file of that size, as many as `footer_bytes` says or more. Raises Malformed."""
    needed = footer_bytes(footer)
    if needed > len(footer):
        raise Malformed("it is cut off")
    footer = footer[len(footer) - needed :]
    body, (wanted,) = footer[: -_SUM.size], _SUM.unpack(footer[-_SUM.size :])
    _, _, bits, _, size = _TRAILER.unpack_from(body, len(body) - _TRAILER.size)
    if crc(body) != wanted:
        raise Malformed("its checksums are damaged")
    if size + len(footer) != file_bytes:
        raise Malformed(f"it is {file_bytes - len(footer)} bytes long where {size} were written")
    return Pieces(size, 1 << bits, body[: -_TRAILER.size])

"""The form of encrypted bytes: a salt, then the plaintext in pieces, each sealed by AES-256-GCM. Pure.

The key of the pieces is derived from the object's key and the salt, so that one key may serve any number of bodies. The
nonce of a piece is its number and whether it is the last: pieces that were changed, moved or cut off are noticed, and
any of them can be read alone (as in STREAM, https://eprint.iacr.org/2015/189).
"""

from __future__ import annotations

import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES: Final = 32
SALT_BYTES: Final = 32
PIECE_BYTES: Final = 64 << 10
_TAG_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_SEALED_BYTES: Final = PIECE_BYTES + _TAG_BYTES
_PURPOSE: Final = b"mallee object pieces"


class NotAuthentic(Exception):
    """These are not bytes that were sealed with this key, at this place."""


class Sealer:
    """Plaintext in, what is to be stored out."""

    def __init__(self, key: bytes) -> None:
        self._salt = secrets.token_bytes(SALT_BYTES)
        self._aead = _aead(key, self._salt)
        self._held = bytearray()
        self._number = 0

    def update(self, chunk: bytes) -> bytes:
        self._held += chunk
        # One piece at least stays: that it is the last is known only at the end.
        whole = max(len(self._held) - 1, 0) // PIECE_BYTES
        if not whole:
            return b""
        out = [self._begin()]
        with memoryview(self._held) as held:
            for number in range(whole):
                out.append(self._seal(held[number * PIECE_BYTES : (number + 1) * PIECE_BYTES], last=False))
        del self._held[: whole * PIECE_BYTES]
        return b"".join(out)

    def finish(self) -> bytes:
        return self._begin() + self._seal(self._held, last=True)

    def _begin(self) -> bytes:
        return b"" if self._number else self._salt

    def _seal(self, piece: bytearray | memoryview, *, last: bool) -> bytes:
        sealed = self._aead.encrypt(_nonce(self._number, last=last), piece, None)
        self._number += 1
        return sealed


class Opener:
    """The plaintext [start, end) of a body of `size` bytes, out of the stored bytes that `stored_span` names."""

    def __init__(self, key: bytes, salt: bytes, *, size: int, start: int, end: int) -> None:
        self._aead = _aead(key, salt)
        self._size = size
        self._last = _count(size) - 1
        self._number = start // PIECE_BYTES
        self._skip = start % PIECE_BYTES
        self._left = end - start
        self._held = bytearray()

    def update(self, stored: bytes) -> bytes:
        """Raises NotAuthentic."""
        self._held += stored
        out, position = [], 0
        with memoryview(self._held) as held:
            while self._left and len(held) - position >= (length := self._stored_bytes()):
                plain = self._open(held[position : position + length])
                position += length
                out.append(plain[self._skip : self._skip + self._left])
                self._left -= len(out[-1])
                self._skip = 0
        del self._held[:position]
        return b"".join(out)

    def _stored_bytes(self) -> int:
        return min(PIECE_BYTES, self._size - self._number * PIECE_BYTES) + _TAG_BYTES

    def _open(self, sealed: memoryview) -> bytes:
        try:
            plain = self._aead.decrypt(_nonce(self._number, last=self._number == self._last), sealed, None)
        except InvalidTag as error:
            raise NotAuthentic(f"piece {self._number} is not what was sealed") from error
        self._number += 1
        return plain


def stored_bytes(size: int) -> int:
    return SALT_BYTES + size + _count(size) * _TAG_BYTES


def stored_span(size: int, start: int, end: int) -> tuple[int, int]:
    """The stored bytes that hold the plaintext [start, end), which is not empty."""
    first, behind = start // PIECE_BYTES, (end - 1) // PIECE_BYTES + 1
    return SALT_BYTES + first * _SEALED_BYTES, min(SALT_BYTES + behind * _SEALED_BYTES, stored_bytes(size))


def opened(key: bytes, stored: bytes, *, size: int, start: int, end: int) -> bytes:
    """The plaintext [start, end) of a body that is here as a whole. Raises NotAuthentic."""
    if start >= end:
        return b""
    first, behind = stored_span(size, start, end)
    plain = Opener(key, stored[:SALT_BYTES], size=size, start=start, end=end).update(stored[first:behind])
    if len(plain) != end - start:
        raise NotAuthentic("its end is not there")
    return plain


def _count(size: int) -> int:
    """An empty body has a piece too."""
    return max(-(-size // PIECE_BYTES), 1)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(_NONCE_BYTES - 1, "big") + bytes([last])


def _aead(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=_PURPOSE).derive(key))

"""Master keys, which seal the keys of data and lie outside it: a file with one in hex on each line, the newest first.

The newest seals, all of them open. To rotate, a line is put before the others, and who reads the file reads it anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# In the cloud's folder of keys: those that Walrus encrypts objects with.
OBJECT_KEYS: Final = "object.keys"
_KEY_BYTES: Final = 32
_KEY: Final = re.compile("[0-9a-f]{64}")
_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12


class KeyUnknown(Exception):
    """None of the master keys opens it."""


class Keyring:
    def __init__(self, keys: Sequence[bytes]) -> None:
        """The newest first; with none of them nothing is sealed or opened."""
        self._keys = {_id(key): key for key in keys}
        self._newest = _id(keys[0]) if keys else b""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises ValueError."""
        lines = path.read_text().split()
        if not lines or any(not _KEY.fullmatch(line) for line in lines):
            raise ValueError(f"{path} must have keys of {_KEY_BYTES} bytes in hex, one on a line")
        return cls([bytes.fromhex(line) for line in lines])

    @property
    def newest(self) -> str:
        """The id of the key that seals, in hex; empty: there is none."""
        return self._newest.hex()

    def is_newest(self, sealed: bytes) -> bool:
        """It was sealed by that key."""
        return sealed[:_ID_BYTES] == self._newest

    def seal(self, secret: bytes) -> bytes:
        """Behind the id of the key that seals it. Raises KeyUnknown if there is none."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return self._newest + nonce + self._aead(self._newest).encrypt(nonce, secret, self._newest)

    def open(self, sealed: bytes) -> bytes:
        """Raises KeyUnknown."""
        name, nonce = sealed[:_ID_BYTES], sealed[_ID_BYTES : _ID_BYTES + _NONCE_BYTES]
        try:
            return self._aead(name).decrypt(nonce, sealed[_ID_BYTES + _NONCE_BYTES :], name)
        except InvalidTag as error:
            raise KeyUnknown(f"master key {name.hex()} does not open it") from error

    def _aead(self, name: bytes) -> AESGCM:
        if name not in self._keys:
            raise KeyUnknown(f"there is no master key {name.hex()}")
        return AESGCM(self._keys[name])


def new_line(size: int = _KEY_BYTES) -> bytes:
    """A key as its file has it."""
    return secrets.token_hex(size).encode() + b"\n"


def add_line(path: Path) -> None:
    """A new key before those of the file, which keeps its owner and mode: in one step, and on disk."""
    there = path.stat()
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, stat.S_IMODE(there.st_mode))
    with os.fdopen(descriptor, "wb") as file:
        os.fchown(file.fileno(), there.st_uid, there.st_gid)
        file.write(new_line() + path.read_bytes())
        file.flush()
        os.fsync(file.fileno())
    os.rename(draft, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _id(key: bytes) -> bytes:
    return hashlib.sha256(b"mallee master key" + key).digest()[:_ID_BYTES]

"""Private keys as PuTTY keeps them: PPK version 2, which each of its versions reads. Pure.

(PuTTY User Manual, Appendix C, "PPK file format".)
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

_LINE: Final = 64
_MAC_KEY: Final = hashlib.sha1(b"putty-private-key-file-mac-key", usedforsecurity=False).digest()


def ppk(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, *, comment: str) -> str:
    """Not encrypted. `comment` is a single line."""
    openssh = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    algorithm, encoded = openssh.split()
    public, private = base64.b64decode(encoded), _private(key)
    sealed = b"".join(map(_string, (algorithm, b"none", comment.encode(), public, private)))
    lines = [
        f"PuTTY-User-Key-File-2: {algorithm.decode()}",
        "Encryption: none",
        f"Comment: {comment}",
        *_lines("Public", public),
        *_lines("Private", private),
        f"Private-MAC: {hmac.new(_MAC_KEY, sealed, hashlib.sha1).hexdigest()}",
    ]
    return "\r\n".join(lines) + "\r\n"


def _private(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        raw = serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
        return _string(key.private_bytes(*raw))
    numbers = key.private_numbers()
    return b"".join(map(_integer, (numbers.d, numbers.p, numbers.q, numbers.iqmp)))


def _lines(title: str, blob: bytes) -> list[str]:
    text = base64.b64encode(blob).decode()
    cut = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
    return [f"{title}-Lines: {len(cut)}", *cut]


def _string(value: bytes) -> bytes:
    """As SSH writes one (RFC 4251)."""
    return struct.pack(">I", len(value)) + value


def _integer(value: int) -> bytes:
    """A positive one, with room for its sign."""
    return _string(value.to_bytes(value.bit_length() // 8 + 1, "big"))

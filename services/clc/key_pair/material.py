"""Key pairs: making, reading and fingerprinting them as EC2 does. Pure but for the random key.

Fingerprints (EC2 User Guide, "Verify the fingerprint of your key pair"): SHA-1 of the PKCS#8 private key for RSA pairs
that EC2 made, MD5 of the public key's DER for imported RSA, and base64 SHA-256 of the OpenSSH key for ED25519.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from common.errors import InvalidArgument
from services.clc.key_pair.putty import ppk

_TYPES = ("rsa", "ed25519")
_FORMATS = ("pem", "ppk")
_RSA_SIZES = (1024, 2048, 4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    key_type: str
    fingerprint: str
    # `ssh-rsa AAAA…`, without a comment.
    openssh: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    public: PublicKey
    # In the format that was asked for, as CreateKeyPair hands it out once.
    private: str


def check_type(key_type: str) -> str:
    """Raises InvalidArgument."""
    if key_type not in _TYPES:
        raise InvalidArgument(f"Value ({key_type}) for parameter KeyType is invalid. Known: {', '.join(_TYPES)}.")
    return key_type


def check_format(key_format: str) -> str:
    """Raises InvalidArgument."""
    if key_format not in _FORMATS:
        raise InvalidArgument(f"Value ({key_format}) for parameter KeyFormat is invalid. Known: {', '.join(_FORMATS)}.")
    return key_format


def create(key_type: str, *, key_format: str = "pem", name: str = "") -> NewKey:
    """Takes some 0.1 s of CPU for rsa: call it in a thread."""
    key, public, pem = _create_rsa() if check_type(key_type) == "rsa" else _create_ed25519()
    return NewKey(public=public, private=pem if key_format == "pem" else ppk(key, comment=name))


def _create_rsa() -> tuple[rsa.RSAPrivateKey, PublicKey, str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    fingerprint = _colons(hashlib.sha1(der, usedforsecurity=False).hexdigest())
    public = PublicKey(key_type="rsa", fingerprint=fingerprint, openssh=_openssh(key.public_key()))
    return key, public, pem.decode()


def _create_ed25519() -> tuple[ed25519.Ed25519PrivateKey, PublicKey, str]:
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    return key, _ed25519_public(key.public_key()), pem.decode()


def read_public(material: bytes) -> PublicKey:
    """What ImportKeyPair takes: an OpenSSH line, its base64 alone, or PEM/DER of an RSA key (RFC 4716 too).

    Raises InvalidArgument (InvalidKey.Format).
    """
    key = _load(material.strip())
    if isinstance(key, ed25519.Ed25519PublicKey):
        return _ed25519_public(key)
    if key.key_size not in _RSA_SIZES:
        raise _bad_format()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    fingerprint = _colons(hashlib.md5(der, usedforsecurity=False).hexdigest())
    return PublicKey(key_type="rsa", fingerprint=fingerprint, openssh=_openssh(key))


def _load(material: bytes) -> rsa.RSAPublicKey | ed25519.Ed25519PublicKey:
    for candidate in _candidates(material):
        for load in (
            serialization.load_ssh_public_key,
            serialization.load_pem_public_key,
            serialization.load_der_public_key,
        ):
            try:
                key = load(candidate)
            except (ValueError, UnsupportedAlgorithm):
                continue
            if isinstance(key, rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
                return key
    raise _bad_format()


def _candidates(material: bytes) -> list[bytes]:
    found = [material]
    if material.startswith(b"---- BEGIN SSH2 PUBLIC KEY"):
        lines = [ln for ln in material.splitlines()[1:-1] if b":" not in ln and not ln.endswith(b"\\")]
        with contextlib.suppress(binascii.Error):
            found.append(_with_algorithm(b"".join(lines)))
    elif b" " not in material:
        with contextlib.suppress(binascii.Error):
            found += [_with_algorithm(material), base64.b64decode(material, validate=True)]
    return found


def _with_algorithm(blob: bytes) -> bytes:
    raw = base64.b64decode(blob)
    return (b"ssh-ed25519 " if b"ssh-ed25519" in raw[:16] else b"ssh-rsa ") + blob


def _ed25519_public(key: ed25519.Ed25519PublicKey) -> PublicKey:
    line = _openssh(key)
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return PublicKey(key_type="ed25519", fingerprint=base64.b64encode(digest).decode(), openssh=line)


def _openssh(key: rsa.RSAPublicKey | ed25519.Ed25519PublicKey) -> str:
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def _colons(digest: str) -> str:
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))


def _bad_format() -> InvalidArgument:
    return InvalidArgument("Key is not in valid OpenSSH public key format", code="InvalidKey.Format")

"""Checksums of bodies: MD5 for the entity tag, and S3's additional ones, whole, composed and combined. Pure.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Protocol

import awscrt.checksums
import google_crc32c

from common.errors import InvalidArgument
from services.walrus import errors
from services.walrus.drivers.base import Checksum

MD5: Final = "MD5"
DEFAULT: Final = "CRC64NVME"

# Length of the value in bytes.
LENGTHS: Final = {"CRC32": 4, "CRC32C": 4, "CRC64NVME": 8, "SHA1": 20, "SHA256": 32}
# Which kinds S3 offers for a multipart object, its default first.
FULL_OBJECT: Final = "FULL_OBJECT"
COMPOSITE: Final = "COMPOSITE"
KINDS: Final = {
    "CRC32": (COMPOSITE, FULL_OBJECT),
    "CRC32C": (COMPOSITE, FULL_OBJECT),
    "CRC64NVME": (FULL_OBJECT,),
    "SHA1": (COMPOSITE,),
    "SHA256": (COMPOSITE,),
}


class Digest(Protocol):
    def update(self, chunk: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    def __init__(self, step: Callable[[bytes, int], int], length: int) -> None:
        self._step = step
        self._length = length
        self._value = 0

    def update(self, chunk: bytes, /) -> None:
        self._value = self._step(chunk, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._length, "big")


def _crc32c(chunk: bytes, previous: int) -> int:
    return int(google_crc32c.extend(previous, chunk))


def new(algorithm: str) -> Digest:
    """One of those that clients may choose. Raises InvalidArgument."""
    match algorithm:
        case "SHA1":
            return hashlib.sha1(usedforsecurity=False)
        case "SHA256":
            return hashlib.sha256()
        case "CRC32":
            return _Crc(awscrt.checksums.crc32, 4)
        case "CRC32C":
            return _Crc(_crc32c, 4)
        case "CRC64NVME":
            return _Crc(awscrt.checksums.crc64nvme, 8)
    raise errors.invalid_request("Checksum algorithm provided is unsupported. Please try again with any of the valid "
                                 "types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]")  # fmt: skip


class Digests:
    """Several at once over one body."""

    def __init__(self, algorithms: AbstractSet[str]) -> None:
        self._digests = {algorithm: new(algorithm) for algorithm in algorithms}
        self._digests[MD5] = hashlib.md5(usedforsecurity=False)

    def update(self, chunk: bytes) -> None:
        for digest in self._digests.values():
            digest.update(chunk)

    @property
    def md5(self) -> bytes:
        return self._digests[MD5].digest()

    def value(self, algorithm: str) -> str:
        """As S3 writes it."""
        return base64.b64encode(self._digests[algorithm].digest()).decode()


def check_md5(expected: str | None, digests: Digests) -> None:
    """Of a Content-MD5 header; None: there was none."""
    if expected is None:
        return
    if len(decoded(expected)) != 16:
        details = {"Content-MD5": expected[:200]}
        raise InvalidArgument("The Content-MD5 you specified was invalid.", code="InvalidDigest", details=details)
    if decoded(expected) != digests.md5:
        raise InvalidArgument(
            "The Content-MD5 you specified did not match what we received.",
            code="BadDigest",
            details={"ExpectedDigest": expected, "CalculatedDigest": base64.b64encode(digests.md5).decode()},
        )


def check(algorithm: str, expected: str, digests: Digests) -> None:
    check_form(algorithm, expected)
    if decoded(expected) != decoded(digests.value(algorithm)):
        raise InvalidArgument(
            f"The {algorithm} you specified did not match the calculated checksum.",
            code="BadDigest",
            details={"ExpectedChecksum": expected, "CalculatedChecksum": digests.value(algorithm)},
        )


def check_form(algorithm: str, value: str) -> None:
    if len(decoded(value)) != LENGTHS[algorithm]:
        raise errors.invalid_request(f"Value for x-amz-checksum-{algorithm.lower()} header is invalid.")


def decoded(value: str) -> bytes:
    """Empty for what is not base64."""
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return b""


def kind_for(algorithm: str, wanted: str) -> str:
    """Of a multipart upload: what the client asked for, or S3's default for the algorithm."""
    if algorithm not in KINDS:
        new(algorithm)
    if not wanted:
        return KINDS[algorithm][0]
    check_kind(wanted)
    if wanted not in KINDS[algorithm]:
        raise errors.invalid_request(
            f"The {wanted} checksum type cannot be used with the {algorithm.lower()} checksum algorithm."
        )
    return wanted


def check_kind(kind: str) -> None:
    if kind not in (COMPOSITE, FULL_OBJECT):
        raise errors.invalid_request("Value for x-amz-checksum-type header is invalid.")


def etag_of_parts(etags: Sequence[str]) -> str:
    joined = b"".join(bytes.fromhex(etag) for etag in etags)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(etags)}"


def checksum_of_parts(algorithm: str, parts: Sequence[tuple[str, int]], *, composite: bool) -> Checksum:
    """`parts`: each one's checksum and its size in bytes."""
    if composite:
        digest = new(algorithm)
        for value, _ in parts:
            digest.update(decoded(value))
        text = f"{base64.b64encode(digest.digest()).decode()}-{len(parts)}"
        return Checksum(algorithm=algorithm, value=text, composite=True)
    combine: Callable[[int, int, int], int] = {
        "CRC32": awscrt.checksums.combine_crc32,
        "CRC32C": awscrt.checksums.combine_crc32c,
        "CRC64NVME": awscrt.checksums.combine_crc64nvme,
    }[algorithm]
    total = 0
    for value, size in parts:
        total = combine(total, int.from_bytes(decoded(value), "big"), size)
    text = base64.b64encode(total.to_bytes(LENGTHS[algorithm], "big")).decode()
    return Checksum(algorithm=algorithm, value=text)

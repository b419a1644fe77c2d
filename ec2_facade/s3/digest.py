"""Checksums of bodies that the facade reads itself (XML), and which bodies must have one. Those of objects are
Walrus's to check.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import zlib
from collections.abc import Callable, Mapping

import google_crc32c
from awscrt import checksums

from ec2_facade.auth.payload import Framing, Payload
from ec2_facade.errors import Refused
from ec2_facade.protocol import Operation

_PREFIX = "x-amz-checksum-"
_LOCK = "x-amz-object-lock-"
_TELLING = frozenset({"content-md5", "x-amz-sdk-checksum-algorithm"})
_ALGORITHMS: Mapping[str, Callable[[bytes], bytes]] = {
    "crc32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
    "crc32c": lambda body: int(google_crc32c.value(body)).to_bytes(4, "big"),
    "crc64nvme": lambda body: int(checksums.crc64nvme(body)).to_bytes(8, "big"),
    "sha1": lambda body: hashlib.sha1(body, usedforsecurity=False).digest(),
    "sha256": lambda body: hashlib.sha256(body).digest(),
}


# Of more actions AWS's model says so, for its own clients; without it s3cmd and others set ACLs, policies and websites.
_REQUIRED = frozenset(
    {
        "DeleteObjects",
        "PutBucketCors",
        "PutBucketLifecycleConfiguration",
        "PutBucketTagging",
        "PutObjectLegalHold",
        "PutObjectLockConfiguration",
        "PutObjectRetention",
    }
)


def check_body(operation: Operation, body: bytes, headers: Mapping[str, str], trailers: Mapping[str, str]) -> None:
    """Raises Refused when a declared digest differs, is malformed, or is missing where S3 wants one.

    `x-amz-checksum-*` speak of the body only for actions whose model says so: of CompleteMultipartUpload they are the
    object's.
    """
    declared = False
    if (given := headers.get("content-md5")) is not None:
        declared = True
        if (sent := _decode(given, 16)) is None:
            details = {"Content-MD5": given[:200]}
            raise Refused("InvalidDigest", "The Content-MD5 you specified was invalid.", status=400, details=details)
        if not _same(sent, hashlib.md5(body, usedforsecurity=False).digest()):
            raise Refused("BadDigest", "The Content-MD5 you specified did not match what we received.", status=400)
    rules = operation.model.http_checksum or {}
    if "requestAlgorithmMember" in rules:
        for name, compute in _ALGORITHMS.items():
            given = headers.get(_PREFIX + name) or trailers.get(_PREFIX + name)
            if given is None:
                continue
            declared = True
            expected = compute(body)
            if (sent := _decode(given, len(expected))) is None:
                raise Refused("InvalidRequest", f"Value for {_PREFIX}{name} header is invalid.", status=400)
            if not _same(sent, expected):
                message = f"The {name.upper()} you specified did not match the calculated checksum."
                raise Refused("BadDigest", message, status=400)
    if operation.name in _REQUIRED and not declared:
        message = "Missing required header for this request: Content-MD5 OR x-amz-checksum-*"
        raise Refused("InvalidRequest", message, status=400)


def check_upload(headers: Mapping[str, str], payload: Payload) -> None:
    """What is locked by its headers comes with a digest, of whatever kind: one that is signed is one, too."""
    if not any(name.startswith(_LOCK) for name in headers):
        return
    told = any(name in _TELLING or name.startswith(_PREFIX) for name in headers)
    if not told and payload.framing is Framing.UNSIGNED:
        raise Refused(
            "InvalidRequest",
            "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock "
            "parameters",
            status=400,
        )


def _decode(text: str, length: int) -> bytes | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == length else None


def _same(ours: bytes, theirs: bytes) -> bool:
    return hmac.compare_digest(ours, theirs)

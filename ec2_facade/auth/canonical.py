"""The strings that Signature Version 4 signs: pure functions of a request.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ec2_facade.wire import WireRequest, to_bytes

ALGORITHM = "AWS4-HMAC-SHA256"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
# Canonical as it stands, for every service: nothing to encode, no dot segments, no slash twice.
_PLAIN_PATH: Final = re.compile(r"/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?)?")


def canonical_request(request: WireRequest, *, service: str, signed_headers: Sequence[str], payload_hash: str) -> bytes:
    headers = "".join([f"{name}:{_header_value(request, name)}\n" for name in signed_headers])
    lines = (
        request.method,
        canonical_path(request.raw_path, service=service),
        canonical_query(request.query),
        headers,
        ";".join(signed_headers),
        payload_hash,
    )
    return to_bytes("\n".join(lines))


def canonical_path(raw_path: str, *, service: str) -> str:
    """S3 takes the path as it is, encoded once; all others remove dot segments and encode what was encoded again.

    Segment by segment: clients sign `%2F` within a key as they send it.
    """
    if _PLAIN_PATH.fullmatch(raw_path):
        return raw_path
    once = "/".join(_encode(unquote_to_bytes(to_bytes(segment))) for segment in raw_path.split("/"))
    return once if service == "s3" else _encode(_without_dot_segments(once).encode(), safe="/")


def canonical_query(pairs: Iterable[tuple[bytes, bytes]]) -> str:
    # Most are the same from one request to the next; what is long is not kept.
    encoded = sorted(
        [
            _pair_again(pair) if len(pair[0]) + len(pair[1]) <= _SHORT_BYTES else _pair(pair)
            for pair in pairs
            if pair[0] != b"X-Amz-Signature"
        ]
    )
    return "&".join([f"{name}={value}" for name, value in encoded])


def string_to_sign(*, timestamp: str, scope: str, canonical: bytes) -> str:
    return f"{ALGORITHM}\n{timestamp}\n{scope}\n{hashlib.sha256(canonical).hexdigest()}"


def chunk_string_to_sign(*, timestamp: str, scope: str, previous: str, data_sha256: str) -> str:
    return f"AWS4-HMAC-SHA256-PAYLOAD\n{timestamp}\n{scope}\n{previous}\n{EMPTY_SHA256}\n{data_sha256}"


def trailer_string_to_sign(*, timestamp: str, scope: str, previous: str, trailer_sha256: str) -> str:
    return f"AWS4-HMAC-SHA256-TRAILER\n{timestamp}\n{scope}\n{previous}\n{trailer_sha256}"


def sign(signing_key: bytes, text: str) -> str:
    return hmac.digest(signing_key, to_bytes(text), "sha256").hex()


def signatures_match(ours: str, theirs: str) -> bool:
    return hmac.compare_digest(ours.encode(), to_bytes(theirs))


def _pair(pair: tuple[bytes, bytes]) -> tuple[str, str]:
    return _encode(pair[0]), _encode(pair[1])


_pair_again = lru_cache(maxsize=1024)(_pair)
_SHORT_BYTES: Final = 256


def _encode(raw: bytes, *, safe: str = "") -> str:
    return quote_from_bytes(raw, safe=safe + "-_.~")


def _header_value(request: WireRequest, name: str) -> str:
    return ",".join([" ".join(value.split()) for value in request.header_values(name)])


def _without_dot_segments(path: str) -> str:
    """RFC 3986, 5.2.4, and repeated slashes become one."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if kept:
                kept.pop()
        elif segment and segment != ".":
            kept.append(segment)
    trailing = "/" if kept and path.endswith("/") else ""
    return "/" + "/".join(kept) + trailing

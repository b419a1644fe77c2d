"""What x-amz-content-sha256 says about a body: its hash, no hash, or a chunked framing with signatures or trailers.

https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-auth-using-authorization-header.html
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, NamedTuple

from ec2_facade.auth.canonical import UNSIGNED_PAYLOAD
from ec2_facade.auth.claim import Claim
from ec2_facade.auth.problem import AuthProblem, Reason
from ec2_facade.errors import Refused
from ec2_facade.wire import WireRequest

_SHA256 = re.compile(r"[0-9a-fA-F]{64}\Z")


class Framing(Enum):
    # The body is the object, and its SHA-256 is signed.
    HASHED = "hash"
    UNSIGNED = UNSIGNED_PAYLOAD
    SIGNED_CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    SIGNED_CHUNKS_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
    UNSIGNED_CHUNKS_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

    @property
    def chunked(self) -> bool:
        return self not in (Framing.HASHED, Framing.UNSIGNED)

    @property
    def signed(self) -> bool:
        return self in (Framing.SIGNED_CHUNKS, Framing.SIGNED_CHUNKS_TRAILER)

    @property
    def trailer(self) -> bool:
        return self in (Framing.SIGNED_CHUNKS_TRAILER, Framing.UNSIGNED_CHUNKS_TRAILER)


_FRAMINGS: Final = {framing.value: framing for framing in Framing if framing is not Framing.HASHED}


# A tuple: each request makes one, and a frozen dataclass takes twice the time.
class Payload(NamedTuple):
    framing: Framing
    # As it stands in the canonical request.
    hash: str
    # Of the object itself, without any framing; None if the client did not say.
    length: int | None
    # Lower-case names announced by x-amz-trailer.
    trailer_names: frozenset[str] = frozenset()


def read_payload(request: WireRequest, claim: Claim) -> Payload:
    """Raises AuthProblem for an S3 request whose declaration is missing or unknown, Refused for a bad length."""
    declared = request.header("x-amz-content-sha256")
    if claim.presigned and declared is None:
        declared = request.query_value("X-Amz-Content-Sha256") or UNSIGNED_PAYLOAD
    if declared is None:
        raise AuthProblem(Reason.MISSING_PAYLOAD_HASH)
    return _payload(request, declared)


def undeclared_payload(request: WireRequest) -> Payload:
    """Of a request whose signature, if it has one, says nothing of the body: chunks cannot be signed either."""
    found = _payload(request, request.header("x-amz-content-sha256") or UNSIGNED_PAYLOAD)
    if found.framing.signed:
        raise AuthProblem(Reason.BAD_PAYLOAD_HASH, found.hash)
    return found


def _payload(request: WireRequest, declared: str) -> Payload:
    framing = _framing(declared)
    if not framing.chunked:
        return Payload(framing=framing, hash=declared, length=_length(request, "content-length"))
    length = _length(request, "x-amz-decoded-content-length")
    if length is None:
        raise Refused("MissingContentLength", "You must provide the Content-Length HTTP header.", status=411)
    names = frozenset(
        name.strip().lower()
        for value in request.header_values("x-amz-trailer")
        for name in value.split(",")
        if name.strip()
    )
    if framing.trailer and not names:
        message = "x-amz-trailer must name what follows the body"
        raise Refused("InvalidRequest", message, status=400)
    return Payload(framing=framing, hash=declared, length=length, trailer_names=names)


def _framing(declared: str) -> Framing:
    if framing := _FRAMINGS.get(declared):
        return framing
    if _SHA256.match(declared):
        return Framing.HASHED
    raise AuthProblem(Reason.BAD_PAYLOAD_HASH, declared[:256])


def _length(request: WireRequest, name: str) -> int | None:
    text = request.header(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Refused("InvalidArgument", f"{name} must be a number", status=400)
    return int(text)

"""Conditional requests. Pure.

Precedence as RFC 9110 section 13.2.2 and
https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html#API_GetObject_RequestSyntax say.
"""

from __future__ import annotations

from email.utils import formatdate
from typing import NamedTuple

from common.errors import Unsupported, WrongState
from services.walrus import errors
from services.walrus.drivers.base import Object
from services.walrus.drivers.versions import Expectation


# A tuple: each request makes one, and a frozen dataclass takes twice the time.
class ReadConditions(NamedTuple):
    # As sent; empty: not sent.
    if_match: str = ""
    if_none_match: str = ""
    # Seconds since 1970; None: not sent.
    if_modified_since_s: int | None = None
    if_unmodified_since_s: int | None = None

    def check(self, found: Object, *, now_ms: int) -> None:
        """Raises WrongState with the code PreconditionFailed or NotModified."""
        modified_s, now_s = found.modified_ms // 1000, now_ms // 1000
        if self.if_match:
            if not matches(self.if_match, found.etag):
                raise errors.precondition_failed("If-Match")
        elif self.if_unmodified_since_s is not None and modified_s > self.if_unmodified_since_s:
            raise errors.precondition_failed("If-Unmodified-Since")
        if self.if_none_match:
            if matches(self.if_none_match, found.etag):
                raise _not_modified(found)
        elif self.if_modified_since_s is not None and modified_s <= self.if_modified_since_s <= now_s:
            # What has not been yet is no date to compare with.
            raise _not_modified(found)


def expectation(if_match: str, if_none_match: str) -> Expectation:
    """Of a write. S3 knows one condition there, and `*` alone for If-None-Match."""
    if if_match and if_none_match:
        raise _unsupported("If-Match,If-None-Match", "Multiple conditional request headers present in the request")
    if if_none_match not in ("", "*"):
        raise _unsupported("If-None-Match", "We don't accept the provided value of If-None-Match header for this API")
    return Expectation(if_match=unquoted(if_match) if if_match else None, absent=bool(if_none_match))


def matches(condition: str, etag: str) -> bool:
    tags = (unquoted(tag) for tag in condition.split(","))
    return any(tag in ("*", etag) for tag in tags)


def unquoted(tag: str) -> str:
    return tag.strip().removeprefix("W/").strip('"')


def _unsupported(header: str, why: str) -> Unsupported:
    return Unsupported(
        "A header you provided implies functionality that is not implemented",
        code="NotImplemented",
        details={"Header": header, "additionalMessage": why},
    )


def _not_modified(found: Object) -> WrongState:
    return WrongState(
        "Not Modified",
        code="NotModified",
        details={"ETag": f'"{found.etag}"', "Last-Modified": formatdate(found.modified_ms // 1000, usegmt=True)},
    )

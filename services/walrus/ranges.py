"""The Range header. Pure. RFC 9110 section 14; S3 serves one range and ignores a header that it does not understand."""

from __future__ import annotations

import re
from dataclasses import dataclass

from common.errors import InvalidArgument

# Python reads numbers of a few thousand digits, and raises for more.
_ONE_RANGE = re.compile(r"bytes\s*=\s*([0-9]{0,1000})\s*-\s*([0-9]{0,1000})\s*\Z")


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes [start, end)."""

    start: int
    end: int

    def content_range(self, size: int) -> str:
        return f"bytes {self.start}-{self.end - 1}/{size}"


def span_of(header: str, size: int) -> Span | None:
    """None: the whole object. Raises InvalidArgument (InvalidRange) if nothing of the range is there."""
    found = _ONE_RANGE.match(header.strip())
    if not found or found[0].count("-") != 1 or not (found[1] or found[2]):
        return None
    if not found[1]:
        length = min(int(found[2]), size)
        if length == 0:
            raise _unsatisfiable(header, size)
        return Span(size - length, size)
    start = int(found[1])
    end = min(int(found[2]) + 1, size) if found[2] else size
    if found[2] and int(found[2]) < start:
        return None
    if start >= size:
        raise _unsatisfiable(header, size)
    return Span(start, end)


def _unsatisfiable(header: str, size: int) -> InvalidArgument:
    return InvalidArgument(
        "The requested range is not satisfiable",
        code="InvalidRange",
        details={"RangeRequested": header, "ActualObjectSize": str(size)},
    )

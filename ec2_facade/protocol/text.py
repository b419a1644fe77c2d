"""Text as XML wants it, and AWS's spellings of scalars. In the path of every value that is rendered: kept fast."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import lru_cache
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

# Everything that cannot stand in XML 1.0 text as it is: markup, the carriage return (a parser would make it a newline)
# and what the standard forbids outright (https://www.w3.org/TR/xml/#charsets), which is left out.
_FORBIDDEN: Final = "\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff"
_AWKWARD: Final = re.compile(f"[&<>\r{_FORBIDDEN}]")
NOT_XML: Final = re.compile(f"[{_FORBIDDEN}]")
_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}


def escape(text: str) -> str:
    if _AWKWARD.search(text) is None:
        return text
    return _AWKWARD.sub(lambda match: _ENTITIES.get(match[0], ""), text)


def quote_attribute(text: str) -> str:
    """What stands between the quotes of an attribute: white space would be made blanks."""
    return escape(text).replace('"', "&quot;").replace("\t", "&#9;").replace("\n", "&#10;")


def element(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


def iso8601(moment: Timestamp) -> str:
    """2026-01-31T12:00:00.000Z, in UTC, milliseconds cut off."""
    whole, nanos = _iso_second(moment.seconds), moment.nanos
    return f"{whole}.{nanos // 1_000_000:03d}Z" if nanos else whole + ".000Z"


@lru_cache(maxsize=4096)
def _iso_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=1024)
def _http_second(seconds: int) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


def http_date(moment: Timestamp) -> str:
    """Sat, 31 Jan 2026 12:00:00 GMT"""
    return _http_second(moment.seconds)


def parse_date(text: str) -> Timestamp | None:
    """A date and time of ISO 8601, in UTC where it does not say, or an HTTP date. None: neither."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = parse(text)
            found = Timestamp()
            found.FromDatetime(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
        except (ValueError, OverflowError, TypeError):
            continue
        return found
    return None

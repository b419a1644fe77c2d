"""Who a request says it is: the parameters of Signature Version 4, from the Authorization header or from the query."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple

from ec2_facade.auth.canonical import ALGORITHM
from ec2_facade.auth.problem import AuthProblem, Reason
from ec2_facade.wire import WireRequest

# https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html: from one second to seven days.
LONGEST_EXPIRES_S = 604800

_TIMESTAMP = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z\Z", re.ASCII)
_DAY = re.compile(r"\d{8}\Z", re.ASCII)
_SIGNATURE = re.compile(r"[0-9a-f]{64}\Z")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+\Z")
_TIMESTAMP_CHARACTERS = len("YYYYMMDDTHHMMSSZ")
_SHORT_CHARACTERS = 512
_HEADER_PARTS = ("Credential", "SignedHeaders", "Signature")
_QUERY_PARTS = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-SignedHeaders", "X-Amz-Signature")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    access_key_id: str
    # YYYYMMDD
    date: str
    region: str
    service: str

    def __str__(self) -> str:
        """As it stands in the string to sign: without the key."""
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


# A tuple: each request makes one, and a frozen dataclass takes twice the time.
class Claim(NamedTuple):
    scope: Scope
    signed_headers: tuple[str, ...]
    signature: str
    # YYYYMMDDTHHMMSSZ, and what it means.
    timestamp: str
    time: datetime
    # None: by header. Else presigned, good for that long.
    expires_s: int | None
    session_token: str | None

    @property
    def presigned(self) -> bool:
        return self.expires_s is not None


def read_claim(request: WireRequest, *, must_expire: bool) -> Claim:
    """Raises AuthProblem. `must_expire`: a presigned request without X-Amz-Expires is malformed (S3 says so)."""
    header = request.header("authorization")
    in_query = request.query_value("X-Amz-Algorithm") is not None or request.query_value("X-Amz-Signature") is not None
    if header is not None and in_query:
        raise AuthProblem(Reason.TWO_MECHANISMS)
    if header is not None:
        return _from_header(request, header)
    if in_query:
        return _from_query(request, must_expire=must_expire)
    raise AuthProblem(Reason.MISSING)


def read_form_claim(fields: Mapping[str, str]) -> Claim:
    """Of the fields of a browser's form, by lower-case name; all four are there. Raises AuthProblem.

    It is good for as long as a presigned request can be; the form's policy ends it sooner.
    """
    if fields["x-amz-algorithm"] != ALGORITHM:
        raise AuthProblem(Reason.MALFORMED, f"Only {ALGORITHM} is supported", argument="X-Amz-Algorithm")
    if parse_timestamp(fields["x-amz-date"]) is None:
        message = "X-Amz-Date must be formated via ISO8601 Long format"
        raise AuthProblem(Reason.MALFORMED, message, argument="X-Amz-Date")
    return Claim(
        scope=read_scope(fields["x-amz-credential"]),
        signed_headers=(),
        signature=_signature(fields["x-amz-signature"]),
        timestamp=fields["x-amz-date"],
        time=_query_time(fields["x-amz-date"]),
        expires_s=LONGEST_EXPIRES_S,
        session_token=fields.get("x-amz-security-token"),
    )


def peek_scope(request: WireRequest) -> Scope | None:
    """The credential scope if one can be made out, for finding the service; never raises."""
    credential = request.query_value("X-Amz-Credential") or ""
    header = request.header("authorization") or ""
    if header.startswith(ALGORITHM):
        found = re.search(r"Credential=([^,\s]+)", header)
        credential = found[1] if found else ""
    try:
        return read_scope(credential) if credential else None
    except AuthProblem:
        return None


def read_scope(credential: str) -> Scope:
    """`AKID/YYYYMMDD/region/service/aws4_request`; the key itself may hold slashes. Raises AuthProblem."""
    # A client sends the same one all day; what is long is not kept, as anybody may send it.
    return _scope_again(credential) if len(credential) <= _SHORT_CHARACTERS else _scope(credential)


def _scope(credential: str) -> Scope:
    parts = credential.rsplit("/", 4)
    if len(parts) != 5 or not parts[0] or parts[4] != "aws4_request" or not _DAY.match(parts[1]):
        raise AuthProblem(
            Reason.MALFORMED,
            f'the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request", '
            f"got '{credential}'.",
            part="Credential",
        )
    return Scope(access_key_id=parts[0], date=parts[1], region=parts[2], service=parts[3])


def parse_timestamp(text: str) -> datetime | None:
    # Presigned requests, and those of one second, have the same one.
    return _timestamp_again(text) if len(text) == _TIMESTAMP_CHARACTERS else None


@lru_cache(maxsize=1024)
def _timestamp_again(text: str) -> datetime | None:
    found = _TIMESTAMP.match(text)
    if not found:
        return None
    year, month, day, hour, minute, second = map(int, found.groups())
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None


def format_timestamp(time: datetime) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ")


def _from_header(request: WireRequest, header: str) -> Claim:
    mechanism, _, rest = header.partition(" ")
    if mechanism != ALGORITHM:
        raise AuthProblem(Reason.UNSUPPORTED_MECHANISM, mechanism, header=header)
    parts: dict[str, str] = {}
    for item in rest.split(","):
        name, equals, value = item.strip().partition("=")
        if not equals or name in parts:
            raise AuthProblem(Reason.MALFORMED, f"'{item.strip()}' not a valid key=value pair (missing equal-sign).")
        parts[name] = value
    for name in _HEADER_PARTS:
        if not parts.get(name):
            raise AuthProblem(Reason.MALFORMED, f"Authorization header requires '{name}' parameter.", part=name)
    timestamp, time = _request_time(request)
    return Claim(
        scope=read_scope(parts["Credential"]),
        signed_headers=_signed_headers(parts["SignedHeaders"]),
        signature=_signature(parts["Signature"]),
        timestamp=timestamp,
        time=time,
        expires_s=None,
        session_token=request.header("x-amz-security-token"),
    )


def _from_query(request: WireRequest, *, must_expire: bool) -> Claim:
    given = request.query_texts
    values = {name: given.get(name, "") for name in _QUERY_PARTS}
    expires = given.get("X-Amz-Expires")
    if "" in values.values() or (must_expire and expires is None):
        raise AuthProblem(
            Reason.MALFORMED,
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, "
            "X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
            part="query",
        )
    if values["X-Amz-Algorithm"] != ALGORITHM:
        raise AuthProblem(Reason.MALFORMED, f'X-Amz-Algorithm only supports "{ALGORITHM}"', part="X-Amz-Algorithm")
    return Claim(
        scope=read_scope(values["X-Amz-Credential"]),
        signed_headers=_signed_headers(values["X-Amz-SignedHeaders"]),
        signature=_signature(values["X-Amz-Signature"]),
        timestamp=values["X-Amz-Date"],
        time=_query_time(values["X-Amz-Date"]),
        expires_s=_expires(expires) if expires is not None else 900,
        session_token=given.get("X-Amz-Security-Token") or request.header("x-amz-security-token"),
    )


def _query_time(text: str) -> datetime:
    time = parse_timestamp(text)
    if time is None:
        raise AuthProblem(
            Reason.MALFORMED, "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"", part="Date"
        )
    return time


def _expires(text: str) -> int:
    if not text.isascii() or not text.lstrip("-").isdigit() or len(text) > 20:
        raise AuthProblem(Reason.BAD_EXPIRES, "X-Amz-Expires should be a number")
    value = int(text)
    if value > LONGEST_EXPIRES_S:
        raise AuthProblem(Reason.BAD_EXPIRES, "X-Amz-Expires must be less than a week (in seconds) that is 604800")
    if value < 1:
        raise AuthProblem(
            Reason.BAD_EXPIRES,
            "X-Amz-Expires must be non-negative" if value < 0 else "X-Amz-Expires must be at least one second",
        )
    return value


def _signed_headers(text: str) -> tuple[str, ...]:
    return _header_names_again(text) if len(text) <= _SHORT_CHARACTERS else _header_names(text)


def _header_names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(";"))
    if not all(_NAME.match(name) for name in names) or list(names) != sorted(set(names)):
        raise AuthProblem(Reason.MALFORMED, "SignedHeaders must be lower-case names in order.", part="SignedHeaders")
    return names


_scope_again = lru_cache(maxsize=1024)(_scope)
_header_names_again = lru_cache(maxsize=256)(_header_names)


def _signature(text: str) -> str:
    if not _SIGNATURE.match(text):
        raise AuthProblem(Reason.MALFORMED, "Signature must be 64 hexadecimal digits.", part="Signature")
    return text


def _request_time(request: WireRequest) -> tuple[str, datetime]:
    """x-amz-date before Date, either in ISO 8601's basic format; Date also as RFC 9110 writes it."""
    text = request.header("x-amz-date") or request.header("date")
    if text is None:
        raise AuthProblem(
            Reason.NO_DATE,
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.",
            part="Date",
        )
    if (time := parse_timestamp(text)) is not None:
        return text, time
    try:
        time = parsedate_to_datetime(text)
    except ValueError:
        raise AuthProblem(
            Reason.NO_DATE, f"Date must be in ISO-8601 'basic format'. Got '{text}'.", part="Date"
        ) from None
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return format_timestamp(time), time

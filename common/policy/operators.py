"""Condition operators: how a value of the policy is compared with one of the request.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from common.policy.pattern import Context, arn_pattern, pattern
from common.policy.problem import bad_syntax, malformed

# Of one value of the request.
Test = Callable[[str, Context], bool]
# Of one value in the policy; whether variables are known there. Raises InvalidArgument.
Compile = Callable[[str, bool], Test]

_NUMBER = re.compile(r"[+-]?\d{1,40}(\.\d{1,40})?\Z", re.ASCII)
_EPOCH = re.compile(r"-?\d{5,12}(\.\d{1,9})?\Z", re.ASCII)
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?)?)?)?\Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    compile: Compile
    # Holds where the comparison does not, also for a request without the key.
    negated: bool = False


def _string(*, wildcards: bool = False, ignore_case: bool = False) -> Compile:
    def compiled(text: str, variables: bool) -> Test:
        return pattern(text, variables=variables, wildcards=wildcards, ignore_case=ignore_case).matches

    return compiled


def _arn(text: str, variables: bool) -> Test:
    return arn_pattern(text, variables=variables).matches


def _ordered(kind: str, read: Callable[[str], Any | None], what: str) -> dict[str, Operator]:
    """Comparisons of values that have an order. What cannot be read as such a value compares with nothing."""

    def comparing(compare: Callable[[Any, Any], bool]) -> Compile:
        def compiled(text: str, _: bool) -> Test:
            limit = read(text)
            if limit is None:
                raise bad_syntax(f"{text!r} is not a {what}")
            return lambda value, _: (found := read(value)) is not None and compare(found, limit)

        return compiled

    return _pairs(kind, "Equals", "NotEquals", comparing(operator.eq)) | {
        f"{kind}LessThan": Operator(compile=comparing(operator.lt)),
        f"{kind}LessThanEquals": Operator(compile=comparing(operator.le)),
        f"{kind}GreaterThan": Operator(compile=comparing(operator.gt)),
        f"{kind}GreaterThanEquals": Operator(compile=comparing(operator.ge)),
    }


def _bool(text: str, _: bool) -> Test:
    wanted = read_bool(text)
    return lambda value, _: value.lower() == wanted


def _binary(text: str, _: bool) -> Test:
    wanted = _decoded(text)
    if wanted is None:
        raise bad_syntax(f"{text!r} is not base64")
    return lambda value, _: _decoded(value) == wanted


def _address(text: str, _: bool) -> Test:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise malformed("Invalid IP address in Conditions", text) from None

    def within(value: str, _: Context) -> bool:
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address) in network

    return within


def _pairs(kind: str, positive: str, negative: str, compiled: Compile) -> dict[str, Operator]:
    return {
        kind + positive: Operator(compile=compiled),
        kind + negative: Operator(compile=compiled, negated=True),
    }


def read_bool(text: str) -> str:
    """`true` or `false`. Raises InvalidArgument."""
    if (value := text.lower()) not in ("true", "false"):
        raise bad_syntax(f"{text!r} is neither true nor false")
    return value


def read_number(text: str) -> Decimal | None:
    return Decimal(text) if _NUMBER.match(text) else None


def read_date(text: str) -> float | None:
    """Seconds since 1970, of ISO 8601 as https://www.w3.org/TR/NOTE-datetime restricts it, or of that number itself."""
    if _EPOCH.match(text):
        return float(text)
    if not _DATE.match(text):
        return None
    try:
        time = datetime.fromisoformat(text + "-01-01"[len(text) - 4 :] if len(text) < len("2026-01-01") else text)
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


OPERATORS: Final[dict[str, Operator]] = {
    **_pairs("String", "Equals", "NotEquals", _string()),
    **_pairs("String", "EqualsIgnoreCase", "NotEqualsIgnoreCase", _string(ignore_case=True)),
    **_pairs("String", "Like", "NotLike", _string(wildcards=True)),
    **_ordered("Numeric", read_number, "number"),
    **_ordered("Date", read_date, "date"),
    "Bool": Operator(compile=_bool),
    "BinaryEquals": Operator(compile=_binary),
    **_pairs("", "IpAddress", "NotIpAddress", _address),
    # AWS compares both with wildcards.
    **_pairs("Arn", "Equals", "NotEquals", _arn),
    **_pairs("Arn", "Like", "NotLike", _arn),
}

"""The policy of a browser's form: until when it is good, what its fields may say, how long the file may be.

https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html. Pure.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from ec2_facade.errors import Refused

# Fields that no condition needs to allow.
_FREE: Final = frozenset({"file", "policy", "signature", "awsaccesskeyid", "x-amz-signature"})
_FREE_PREFIX: Final = "x-ignore-"
# Escapes that S3 knows beside JSON's.
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES: Final = {"$": "$", "v": r"\u000b"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    # eq or starts-with.
    operator: str
    # In lower case.
    field: str
    value: str
    # As the policy has it, for the refusal.
    text: str

    def holds(self, given: str | None) -> bool:
        if given is None:
            return False
        if self.operator == "eq":
            return given == self.value
        # Several types are each to begin so.
        values = [value.strip() for value in given.split(",")] if self.field == "content-type" else [given]
        return all(value.startswith(self.value) for value in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class FormPolicy:
    expires: datetime
    conditions: tuple[Condition, ...]
    # Of the file, in bytes.
    least_bytes: int
    most_bytes: int | None

    def check(self, fields: Mapping[str, str], *, now: datetime) -> None:
        """`fields` by lower-case name, with the bucket as one of them. Raises Refused (AccessDenied)."""
        if now > self.expires:
            raise _against("Policy expired.")
        for condition in self.conditions:
            if not condition.holds(fields.get(condition.field)):
                raise _against(f"Policy Condition failed: {condition.text}")
        allowed = {condition.field for condition in self.conditions} | _FREE
        if extra := [name for name in fields if name not in allowed and not name.startswith(_FREE_PREFIX)]:
            raise _against(f"Extra input fields: {', '.join(extra)}")


def read_policy(encoded: str) -> FormPolicy:
    """Raises Refused (InvalidPolicyDocument)."""
    document = _document(encoded)
    if "expiration" not in document:
        raise _invalid("Policy missing expiration.")
    if "conditions" not in document:
        raise _invalid("Policy missing conditions.")
    if not isinstance(document["conditions"], list):
        raise _invalid("Invalid 'conditions' value: must be a List.")
    conditions: list[Condition] = []
    least, most = 0, None
    for item in document["conditions"]:
        if isinstance(item, list) and item and _lower(item[0]) == "content-length-range":
            low, high = _range(item)
            least, most = max(least, low), high if most is None else min(most, high)
        else:
            conditions.append(_condition(item))
    return FormPolicy(
        expires=_moment(document["expiration"]), conditions=tuple(conditions), least_bytes=least, most_bytes=most
    )


def _document(encoded: str) -> dict[str, Any]:
    if not encoded.strip():
        raise _invalid("Expecting '{' but found End-of-Input")
    try:
        raw = base64.b64decode("".join(encoded.split()), validate=True)
    except ValueError:
        raise _invalid("invalid Base64 encoding.") from None
    try:
        text = raw.decode()
        document = json.loads(_ESCAPE.sub(lambda found: _ESCAPES.get(found[1], found[0]), text))
    except (ValueError, RecursionError):
        raise _invalid("Invalid JSON.") from None
    if not isinstance(document, dict):
        raise _invalid("Invalid JSON.")
    return document


def _condition(item: Any) -> Condition:
    if isinstance(item, dict):
        if len(item) != 1:
            raise _invalid("Invalid Simple-Condition: Simple-Conditions must have exactly one property specified.")
        ((field, value),) = item.items()
        if not isinstance(value, str):
            raise _invalid("Invalid Simple-Condition: value must be a string.")
        return Condition(operator="eq", field=field.lower(), value=value, text=json.dumps(["eq", f"${field}", value]))
    if not isinstance(item, list):
        raise _invalid("Invalid condition test: must be a List or Object.")
    if not item:
        raise _invalid("Invalid Condition: missing operation identifier.")
    if _lower(item[0]) not in ("eq", "starts-with"):
        raise _invalid(f"Invalid Condition: unknown operation '{item[0]}'.")
    if len(item) != 3:
        raise _invalid(f"Invalid {item[0]}: wrong number of arguments.")
    operator, field, value = item
    if not isinstance(field, str) or not isinstance(value, str) or not field.startswith("$"):
        raise _invalid(f"Invalid {operator}: a field with $ and a string are expected.")
    return Condition(operator=operator.lower(), field=field[1:].lower(), value=value, text=json.dumps(item))


def _range(item: list[Any]) -> tuple[int, int]:
    if len(item) != 3:
        raise _invalid("Invalid content-length-range: wrong number of arguments.")
    found = []
    for value in item[1:]:
        text = str(value)
        if isinstance(value, bool) or not text.isascii() or not text.isdigit() or len(text) > 18:
            raise _invalid("Invalid content-length-range: not a number of bytes.")
        found.append(int(text))
    return found[0], found[1]


def _moment(text: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        if text[10:11] != "T":
            raise ValueError(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError):
        raise _invalid(f"Invalid 'expiration' value: '{text}'") from None


def _lower(value: Any) -> str:
    return value.lower() if isinstance(value, str) else ""


def _invalid(message: str) -> Refused:
    return Refused("InvalidPolicyDocument", f"Invalid Policy: {message}"[:1024], status=400)


def _against(message: str) -> Refused:
    return Refused("AccessDenied", f"Invalid according to Policy: {message}"[:1024], status=403)

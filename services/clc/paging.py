"""Pages of the Describe actions: an opaque token that says after which item to go on.

The token names the last item shown, so items that come or go between two pages shift nothing. It is good for the
action that gave it and what that was asked for by name: elsewhere it would hide what is there.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, Protocol, TypeVar

from google.protobuf.descriptor import Descriptor

from common.errors import InvalidArgument

T = TypeVar("T")


_MARK_BYTES: Final = 6
# Of one answer; a message between services ends at 8 MiB.
MOST_BYTES: Final = 6 << 20


class Paged(Protocol):
    """What requests that are answered in pages have in common."""

    @property
    def DESCRIPTOR(self) -> Descriptor: ...
    @property
    def next_token(self) -> str: ...
    @property
    def max_results(self) -> int: ...
    def HasField(self, field_name: Literal["max_results"]) -> bool: ...
    def ListFields(self) -> Any: ...


def page(
    items: Iterable[T],
    *,
    key: Callable[[T], str],
    request: Paged,
    max_results: int | None,
    size_bytes: Callable[[T], int] = lambda _: 0,
) -> tuple[list[T], str | None]:
    """The page of `items` that `request` asks for by its token, which come sorted by `key`, and the next token.

    Without `max_results` it is all of them, as EC2 answers, or as many as one answer holds, by `size_bytes`.
    """
    after = after_of(request)
    shown: list[T] = []
    left_bytes = MOST_BYTES
    for item in items:
        if after and key(item) <= after:
            continue
        left_bytes -= size_bytes(item)
        if shown and (left_bytes < 0 or len(shown) == max_results):
            return shown, _token(request, key(shown[-1]))
        shown.append(item)
    return shown, None


def check_max_results(value: int, *, low: int = 5, high: int = 1000) -> None:
    if not low <= value <= high:
        bound = f"greater than {low}" if value < low else f"less than {high}"
        raise InvalidArgument(f"Value ( {value} ) for parameter maxResults is invalid. Expecting a value {bound}.")


def after_of(request: Paged) -> str:
    """The key after which the page begins; empty for the first page. Raises InvalidArgument (InvalidNextToken)."""
    if not request.next_token:
        return ""
    if (after := _read(request)) is None:
        raise InvalidArgument("The specified NextToken is not valid.", code="InvalidNextToken")
    return after


def refuse_pages_of_named(request: Paged, named: Sequence[str], parameter: str) -> None:
    """Where EC2 shows what is named by id in one answer. Raises InvalidArgument (InvalidParameterCombination).

    The rest of what one answer did not hold may be asked for.
    """
    foreign_token = bool(request.next_token) and _read(request) is None
    for given, paging in ((request.HasField("max_results"), "maxResults"), (foreign_token, "nextToken")):
        if named and given:
            raise InvalidArgument(
                f"The parameter {parameter} cannot be used with the parameter {paging}",
                code="InvalidParameterCombination",
            )


def _read(request: Paged) -> str | None:
    """The key that the token says; None if it is not one that such a request was answered with."""
    try:
        raw = base64.urlsafe_b64decode(request.next_token + "=" * (-len(request.next_token) % 4))
        mark, key = raw[:_MARK_BYTES], raw[_MARK_BYTES:].decode()
    except (binascii.Error, ValueError):
        return None
    return key if key and mark == _mark(request) else None


def _token(request: Paged, after: str) -> str:
    return base64.urlsafe_b64encode(_mark(request) + after.encode()).decode().rstrip("=")


def _mark(request: Paged) -> bytes:
    """Of the action and the ids and names that it is given."""
    names = [
        (field.name, sorted(value))
        for field, value in request.ListFields()
        if field.is_repeated and field.type == field.TYPE_STRING
    ]
    return hashlib.sha256(f"{request.DESCRIPTOR.name} {names}".encode()).digest()[:_MARK_BYTES]

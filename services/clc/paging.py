"""Pages of the Describe actions: an opaque token that says after which item to go on.

The token names the last item shown, so items that come or go between two pages shift nothing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from common.errors import InvalidArgument

T = TypeVar("T")


# Of one answer; a message between services ends at 8 MiB.
MOST_BYTES: Final = 6 << 20


def page(
    items: Iterable[T],
    *,
    key: Callable[[T], str],
    max_results: int | None,
    token: str | None,
    size_bytes: Callable[[T], int] = lambda _: 0,
) -> tuple[list[T], str | None]:
    """The page after `token` of `items`, which come sorted by `key`, and the next token.

    Without `max_results` it is all of them, as EC2 answers, or as many as one answer holds, by `size_bytes`.
    """
    after = decode_token(token) if token else None
    shown: list[T] = []
    left_bytes = MOST_BYTES
    for item in items:
        if after is not None and key(item) <= after:
            continue
        left_bytes -= size_bytes(item)
        if shown and (left_bytes < 0 or len(shown) == max_results):
            return shown, encode_token(key(shown[-1]))
        shown.append(item)
    return shown, None


def check_max_results(value: int, *, low: int = 5, high: int = 1000) -> None:
    if not low <= value <= high:
        bound = f"greater than {low}" if value < low else f"less than {high}"
        raise InvalidArgument(f"Value ( {value} ) for parameter maxResults is invalid. Expecting a value {bound}.")


def encode_token(after: str) -> str:
    return base64.urlsafe_b64encode(b"1" + after.encode()).decode().rstrip("=")


def decode_token(token: str) -> str:
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        if raw[:1] != b"1" or raw == b"1":
            raise ValueError(token)
        return raw[1:].decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument("The specified NextToken is not valid.", code="InvalidNextToken") from error

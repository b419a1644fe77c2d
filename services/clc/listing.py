"""What the Describe actions share: an account's records as EC2 shows them, the oldest first, filtered and in pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from services.clc.lookup import Noun, own_all
from services.clc.paging import Paged, check_max_results, page
from services.clc.store import Stored, sorted_by_creation
from services.clc.use_case import Call, Cloud


class View(Protocol):
    """A record as EC2 shows it."""

    def ByteSize(self) -> int: ...


R = TypeVar("R", bound=Message)
M = TypeVar("M")
V = TypeVar("V", bound=View)


def max_results_of(request: Paged, *, low: int = 5, high: int = 1000, or_less: bool = False) -> int | None:
    """`or_less`: of an action that answers a larger number with `high` of them."""
    if not request.HasField("max_results"):
        return None
    if or_less and request.max_results > high:
        return high
    check_max_results(request.max_results, low=low, high=high)
    return request.max_results


def select(cloud: Cloud, call: Call, noun: Noun[R], ids: Sequence[str]) -> list[Stored[R]]:
    """The account's own, those of `ids` if any are named, oldest first."""
    if ids:
        for given in ids:
            noun.check(given, listed=True)
        return sorted_by_creation(own_all(cloud.store, noun, call.account_id, ids))
    return sorted_by_creation(cloud.store.owned(noun.record, call.account_id))


def creation_key(stored: Stored[R]) -> str:
    """Sorts as time does."""
    return f"{stored.created_revision:020}{stored.key}"


def matching(pairs: Iterable[tuple[Stored[R], M]], matches: Callable[[M], bool]) -> Iterator[tuple[Stored[R], M]]:
    return (pair for pair in pairs if matches(pair[1]))


def shown_page(
    pairs: Iterable[tuple[Stored[R], V]], matches: Callable[[V], bool], *, request: Paged, limit: int | None
) -> tuple[list[V], str | None]:
    """Views of the page that is asked for, of pairs that come oldest first, and the next page's token."""
    shown, token = page(
        matching(pairs, matches),
        key=lambda pair: creation_key(pair[0]),
        max_results=limit,
        request=request,
        size_bytes=lambda pair: pair[1].ByteSize(),
    )
    return [view for _, view in shown], token

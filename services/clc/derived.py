"""What is made of a record and shown often: made once per revision of it, and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from google.protobuf.message import Message

from services.clc.store import Stored

R = TypeVar("R", bound=Message)
M = TypeVar("M")

MOST_KEPT = 50_000


class PerRevision(Generic[R, M]):
    """`make` must look at nothing but the record, or at what never changes while the record stands as it is."""

    def __init__(self, make: Callable[[R], M], *, most: int = MOST_KEPT) -> None:
        self._make = make
        self._most = most
        # In the order they were made: the oldest goes first.
        self._made: dict[str, tuple[tuple[int, ...], M]] = {}

    def of(self, stored: Stored[R], *beside: int) -> M:
        """Shared: do not change it. `beside`: revisions of what else `make` looks at."""
        revisions = (stored.revision, *beside)
        made = self._made.get(stored.key)
        if made is not None and made[0] == revisions:
            return made[1]
        value = self._make(stored.record)
        self._made.pop(stored.key, None)
        self._made[stored.key] = (revisions, value)
        if len(self._made) > self._most:
            del self._made[next(iter(self._made))]
        return value

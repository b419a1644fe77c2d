"""Is a history of one key's operations what a single register could have done, one operation after the other?

Wing and Gong: an operation takes effect at one moment between its beginning and its end. One whose outcome is not known
(the client saw an error, or died) took effect at some moment after its beginning, or never.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# Of operations that nobody saw the end of.
NEVER: Final = float("inf")


class Kind(StrEnum):
    PUT = "put"
    DELETE = "delete"
    # GET, HEAD, or a listing: what the key holds.
    READ = "read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    kind: Kind
    # What was put or seen; None: nothing.
    value: str | None
    began: float
    ended: float = NEVER


def is_linearizable(history: Sequence[Operation], initial: str | None = None) -> bool:
    """Searches for an order that explains it. Reads without an end must be left out."""
    operations = sorted(history, key=lambda one: one.began)
    required = sum(1 << place for place, one in enumerate(operations) if one.ended != NEVER)
    seen: set[tuple[int, str | None]] = set()
    stack: list[tuple[int, str | None]] = [(0, initial)]
    while stack:
        done, value = stack.pop()
        if done & required == required:
            return True
        if (done, value) in seen:
            continue
        seen.add((done, value))
        waiting = [place for place in range(len(operations)) if not done >> place & 1]
        # What begins after another has ended comes after it.
        first_end = min(operations[place].ended for place in waiting)
        for place in waiting:
            one = operations[place]
            if one.began > first_end:
                break
            if one.kind is Kind.READ and one.value != value:
                continue
            after = value if one.kind is Kind.READ else one.value
            stack.append((done | 1 << place, after))
    return False

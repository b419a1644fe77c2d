"""The life of an import or export task, as far as its snapshots decide it. Pure.

(Statuses: VM Import/Export User Guide, "Monitor an import task".)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.clc.snapshot import rules as snapshots

ACTIVE: Final = "active"
COMPLETED: Final = "completed"
# Cancelled: what it has made goes first.
DELETING: Final = "deleting"
# Cancelled, or failed: the message says which.
DELETED: Final = "deleted"
# Of an import of a snapshot that failed.
ERROR: Final = "error"

UNDER_WAY: Final = frozenset({ACTIVE, DELETING})

NEXT: Final[dict[str, frozenset[str]]] = {
    ACTIVE: frozenset({COMPLETED, DELETING, DELETED, ERROR}),
    DELETING: frozenset({DELETED}),
    COMPLETED: frozenset(),
    DELETED: frozenset(),
    ERROR: frozenset(),
}


def next_status(status: str, made: Sequence[int | None], *, failed: str = DELETED) -> str | None:
    """What an import is now, by the states of the snapshots that it makes; None in place of one that is gone.

    `failed` is what it is called when one of them failed.
    """
    if status == DELETING and all(state is None for state in made):
        return DELETED
    if status != ACTIVE:
        return None
    if any(state in (None, snapshots.ERROR, snapshots.DELETING) for state in made):
        return failed
    if all(state == snapshots.COMPLETED for state in made):
        return COMPLETED
    return None

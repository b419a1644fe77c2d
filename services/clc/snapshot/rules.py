"""The life of a snapshot: which states follow which, and the one thing to do next. Pure.

(States: Snapshot in the EC2 API reference.)
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from mallee.clc.v1 import record_pb2
from mallee.sc.v1 import snapshot_pb2 as sc

if TYPE_CHECKING:
    from typing import TypeAlias

    State: TypeAlias = record_pb2.SnapshotState.ValueType
    Seen: TypeAlias = sc.SnapshotState.ValueType

PENDING: Final = record_pb2.SNAPSHOT_STATE_PENDING
COMPLETED: Final = record_pb2.SNAPSHOT_STATE_COMPLETED
ERROR: Final = record_pb2.SNAPSHOT_STATE_ERROR
DELETING: Final = record_pb2.SNAPSHOT_STATE_DELETING

# AWS's names; one that is being deleted is seen by nobody.
SHOWN: Final[dict[int, str]] = {PENDING: "pending", COMPLETED: "completed", ERROR: "error"}

NEXT: Final[dict[int, frozenset[int]]] = {
    PENDING: frozenset({COMPLETED, ERROR, DELETING}),
    COMPLETED: frozenset({DELETING}),
    ERROR: frozenset({DELETING}),
    DELETING: frozenset(),
}

# Of one volume on their way at a time. (EC2 endpoints and quotas, "Concurrent snapshots per … volume".)
MOST_PENDING: Final = {"st1": 1, "sc1": 1}
MOST_PENDING_OF_OTHERS: Final = 5
# What AWS shows as the volume of a snapshot that was not made of one.
NO_VOLUME: Final = "vol-ffffffff"


class Do(enum.Enum):
    """An order; repeating it is always safe."""

    # To the storage controller, or of a copy to Walrus.
    MAKE = "make"
    FORGET = "forget"
    # To the storage controller: its end is in our record.
    SETTLE = "settle"


def next_step(state: State, seen: Seen | None, *, settled: bool = False) -> Do | State | None:
    """The one thing to do now: give an order, record a new state, or nothing.

    `seen` is what its storage controller last said of it; None is silence, which may repeat an order but moves nothing.
    `settled`: it knows that we know how it ended.
    """
    match state, seen:
        case (record_pb2.SNAPSHOT_STATE_PENDING, None):
            return Do.MAKE
        case (record_pb2.SNAPSHOT_STATE_PENDING, sc.SNAPSHOT_STATE_COMPLETED):
            return COMPLETED
        case (record_pb2.SNAPSHOT_STATE_PENDING, sc.SNAPSHOT_STATE_FAILED | sc.SNAPSHOT_STATE_GONE):
            return ERROR
        case (record_pb2.SNAPSHOT_STATE_DELETING, _):
            return Do.FORGET
        case (
            record_pb2.SNAPSHOT_STATE_COMPLETED | record_pb2.SNAPSHOT_STATE_ERROR,
            sc.SNAPSHOT_STATE_COMPLETED | sc.SNAPSHOT_STATE_FAILED,
        ) if not settled:
            return Do.SETTLE
        case _:
            return None

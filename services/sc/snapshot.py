"""The phases of a snapshot on its way to Walrus, and the one thing to do next. Pure."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from mallee.sc.v1 import record_pb2 as records
from mallee.sc.v1 import snapshot_pb2
from mallee.sc.v1.snapshot_pb2 import SnapshotObservation
from services.sc.clients import Progress


class Phase(Enum):
    """Values are those of SnapshotPhase."""

    FREEZING = records.SNAPSHOT_PHASE_FREEZING
    UPLOADING = records.SNAPSHOT_PHASE_UPLOADING
    COMPLETED = records.SNAPSHOT_PHASE_COMPLETED
    FAILING = records.SNAPSHOT_PHASE_FAILING
    FAILED = records.SNAPSHOT_PHASE_FAILED
    DELETING = records.SNAPSHOT_PHASE_DELETING


NEXT: Final = {
    Phase.FREEZING: frozenset({Phase.UPLOADING, Phase.DELETING}),
    Phase.UPLOADING: frozenset({Phase.COMPLETED, Phase.FAILING, Phase.DELETING}),
    Phase.COMPLETED: frozenset({Phase.DELETING}),
    Phase.FAILING: frozenset({Phase.FAILED, Phase.DELETING}),
    Phase.FAILED: frozenset({Phase.DELETING}),
    Phase.DELETING: frozenset[Phase](),
}


class Do(Enum):
    UPLOAD = auto()
    # Its point in time is not read any more; the next snapshot of the volume builds on it.
    RELEASE = auto()
    # Nothing of it stays, here or in Walrus; then it failed, or its record goes.
    CLEAN = auto()
    # Its record goes.
    DROP = auto()


def next_step(phase: Phase, *, first: bool, stands: bool, over: bool) -> Do | None:
    """`first`: no older one of the same volume is on its way. `stands`: there is something of it on this host.
    `over`: whoever asked for it knows how it ended, and none builds on it.
    """
    match phase:
        case Phase.UPLOADING if first:
            return Do.UPLOAD
        case Phase.COMPLETED if stands:
            return Do.RELEASE
        case Phase.FAILING | Phase.DELETING:
            return Do.CLEAN
        case Phase.COMPLETED | Phase.FAILED if over:
            return Do.DROP
        case _:
            # Whoever asked for a point that may not stand asks again.
            return None


# As others see it: one that is failing or being deleted is not told of before nothing of it is left.
_SHOWN: Final = {
    Phase.FREEZING: snapshot_pb2.SNAPSHOT_STATE_PENDING,
    Phase.UPLOADING: snapshot_pb2.SNAPSHOT_STATE_PENDING,
    Phase.COMPLETED: snapshot_pb2.SNAPSHOT_STATE_COMPLETED,
    Phase.FAILING: snapshot_pb2.SNAPSHOT_STATE_PENDING,
    Phase.FAILED: snapshot_pb2.SNAPSHOT_STATE_FAILED,
    Phase.DELETING: snapshot_pb2.SNAPSHOT_STATE_PENDING,
}


def state_of(phase: Phase) -> snapshot_pb2.SnapshotState.ValueType:
    return _SHOWN[phase]


def id_of(record: records.SnapshotRecord) -> str:
    return record.volume.snapshot_id or getattr(record, "import").snapshot_id


def observation_of(record: records.SnapshotRecord, progress: Progress | None = None) -> SnapshotObservation:
    """`progress`: of the work that is under way."""
    phase = Phase(record.phase)
    now = progress or Progress(
        looked_at_bytes=record.looked_at_bytes,
        to_look_at_bytes=record.to_look_at_bytes,
        sent_bytes=record.sent_bytes,
        saved_bytes=record.saved_bytes,
    )
    return SnapshotObservation(
        snapshot_id=id_of(record),
        state=state_of(phase),
        reason_code=record.reason_code if phase is Phase.FAILED else "",
        message=record.message if phase is Phase.FAILED else "",
        size_bytes=record.size_bytes,
        progress_percent=100 if phase is Phase.COMPLETED else percent(now),
        sent_bytes=now.sent_bytes,
        saved_bytes=now.saved_bytes,
        full_bytes=record.full_bytes,
        settled=record.settled,
    )


def percent(progress: Progress) -> int:
    """Of work that has not ended: 99 at most."""
    if not progress.to_look_at_bytes:
        return 0
    return min(99, 100 * progress.looked_at_bytes // progress.to_look_at_bytes)

"""The states of a volume as its storage controller sees them, and the one thing to do next. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from mallee.sc.v1 import volume_pb2
from services.sc.drivers.base import Limits


class State(Enum):
    """Values are those of VolumeState; a volume that is gone has no record."""

    CREATING = volume_pb2.VOLUME_STATE_CREATING
    AVAILABLE = volume_pb2.VOLUME_STATE_AVAILABLE
    FAILED = volume_pb2.VOLUME_STATE_FAILED
    DELETING = volume_pb2.VOLUME_STATE_DELETING


NEXT: Final = {
    State.CREATING: frozenset({State.AVAILABLE, State.FAILED, State.DELETING}),
    State.AVAILABLE: frozenset({State.FAILED, State.DELETING}),
    State.FAILED: frozenset({State.DELETING}),
    State.DELETING: frozenset[State](),
}


class Do(Enum):
    # The engine is to make it, or to find it made.
    CREATE = auto()
    RESIZE = auto()
    LIMIT = auto()
    # A client that no grant names is to be cut off.
    CUT_OFF = auto()
    # The engine does not have it although it had: it failed, if that is still so when asked again.
    MISS = auto()
    # All of it goes from the engine, then its record.
    REMOVE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineView:
    """What the engine has of it."""

    size_bytes: int
    # Generation of the grant whose client can reach it; 0: nobody can.
    exported: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    size_bytes: int
    # Generation of the grant that stands; 0: none.
    granted: int = 0
    # The engine was told the newest ones.
    limits_in_force: bool = True
    # A snapshot still reads it.
    is_read: bool = False


def next_step(state: State, wanted: Wanted, engine: EngineView | None) -> Do | None:
    """`engine`: as it was last asked; None: it has no such volume."""
    if state is State.CREATING:
        return Do.CREATE
    if engine is not None and engine.exported and engine.exported != wanted.granted:
        return Do.CUT_OFF
    if state is State.DELETING:
        return None if wanted.is_read else Do.REMOVE
    if state is State.FAILED:
        return None
    if engine is None:
        return Do.MISS
    if engine.size_bytes < wanted.size_bytes:
        return Do.RESIZE
    return None if wanted.limits_in_force else Do.LIMIT


def limits_of(spec: volume_pb2.VolumeSpec) -> Limits:
    limits = spec.limits
    return Limits(
        iops=limits.iops,
        throughput_bytes_per_s=limits.throughput_bytes_per_s,
        burst_iops=limits.burst_iops,
        burst_s=limits.burst_s,
    )

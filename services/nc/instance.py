"""The rules of one VM on its node: from what was ordered and what the engine says to the one next thing to do. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from common.errors import (
    CloudError,
    Denied,
    InvalidArgument,
    NoCapacity,
    NotFound,
    Unavailable,
    Unsupported,
    WrongState,
)
from common.patience import ROOM_PATIENCE_S
from mallee.nc.v1 import instance_pb2, record_pb2
from services.nc.drivers.base import Power

SERVER_ERROR: Final = "Server.InternalError"
INITIATED_BY_GUEST: Final = "Client.InstanceInitiatedShutdown"


class Goal(enum.Enum):
    RUN = record_pb2.INSTANCE_GOAL_RUN
    GONE = record_pb2.INSTANCE_GOAL_GONE


class Phase(enum.Enum):
    """What each means stands in record.proto."""

    PREPARING = record_pb2.INSTANCE_PHASE_PREPARING
    RUNNING = record_pb2.INSTANCE_PHASE_RUNNING
    POWERED_OFF = record_pb2.INSTANCE_PHASE_POWERED_OFF
    FAILING = record_pb2.INSTANCE_PHASE_FAILING
    FAILED = record_pb2.INSTANCE_PHASE_FAILED
    CLEARING = record_pb2.INSTANCE_PHASE_CLEARING


class Rest(enum.Enum):
    """Its guest is to be off, for as long as somebody fixes a point in time of its volumes."""

    DUE = "due"
    REACHED = "reached"
    OVER = "over"


class Do(enum.Enum):
    """An act on the host. Each can be repeated, and cut short at any point."""

    # Image, disk, interface, and the domain, paused.
    LAUNCH = "launch"
    # The interface of a paused domain into its VPC, then its vCPUs.
    PLUG = "plug"
    # The vCPUs of one that the host's disk, or a volume, had stopped.
    RESUME = "resume"
    # Its guest is asked to, and has some time left.
    SHUT_DOWN = "shut-down"
    # It has none.
    PULL_THE_PLUG = "pull-the-plug"
    # In the record: its guest is off for its rest; then, that the rest is over.
    NOTE_REST = "note-rest"
    WAKE = "wake"
    # The domain alone goes: a newer generation follows.
    CLEAR = "clear"
    # Everything but the record goes.
    CLEAN = "clean"
    # Everything goes, the record last.
    REMOVE = "remove"


# Where a record may go; leaving it altogether is REMOVE's, and CLEARING is a newer generation's order.
NEXT: Final = {
    Phase.PREPARING: frozenset({Phase.RUNNING, Phase.POWERED_OFF, Phase.FAILING, Phase.CLEARING}),
    Phase.RUNNING: frozenset({Phase.RUNNING, Phase.POWERED_OFF, Phase.CLEARING}),
    Phase.POWERED_OFF: frozenset({Phase.CLEARING}),
    Phase.FAILING: frozenset({Phase.FAILED, Phase.CLEARING}),
    Phase.FAILED: frozenset({Phase.CLEARING}),
    Phase.CLEARING: frozenset({Phase.PREPARING, Phase.CLEARING}),
}

# The phase a record is in when the act has succeeded; an act that is not here leaves it where it is.
AFTER: Final = {Do.PLUG: Phase.RUNNING, Do.CLEAN: Phase.FAILED, Do.CLEAR: Phase.PREPARING}

_ON: Final = (Power.RUNNING, Power.PAUSED, Power.STALLED)

_SHOWN: Final = {
    Phase.PREPARING: instance_pb2.VM_STATE_PREPARING,
    Phase.RUNNING: instance_pb2.VM_STATE_RUNNING,
    Phase.POWERED_OFF: instance_pb2.VM_STATE_POWERED_OFF,
    # Failed means that nothing runs, so not before it is so.
    Phase.FAILING: instance_pb2.VM_STATE_PREPARING,
    Phase.FAILED: instance_pb2.VM_STATE_FAILED,
    Phase.CLEARING: instance_pb2.VM_STATE_PREPARING,
}


def next_step(
    goal: Goal,
    phase: Phase,
    power: Power | None,
    *,
    held: bool = False,
    has_grace: bool = False,
    rest: Rest | None = None,
) -> Do | Phase | None:
    """Act, record a new phase, or nothing.

    `power` is what the engine said just now (None: it knows no such domain); an engine that is silent is not asked
    about. `held`: we powered it off, together with the host or for a rest, so that it is off is no decision of its
    guest. `has_grace`: its guest may still take time to shut down before it goes, or rests.
    """
    if goal is Goal.GONE:
        return Do.SHUT_DOWN if has_grace and power is Power.RUNNING else Do.REMOVE
    if rest is not None and phase is Phase.RUNNING:
        return _rest(power, rest, has_grace=has_grace)
    match phase:
        case Phase.PREPARING | Phase.RUNNING:
            return _keep_running(phase, power, held=held)
        case Phase.CLEARING:
            return Do.CLEAR
        case Phase.FAILING:
            return Do.CLEAN
        case Phase.FAILED:
            return None if power is None else Do.CLEAN
        case Phase.POWERED_OFF:
            return None


def _keep_running(phase: Phase, power: Power | None, *, held: bool) -> Do | Phase | None:
    match power:
        case Power.RUNNING:
            return None if phase is Phase.RUNNING and not held else Phase.RUNNING
        case Power.PAUSED:
            return Do.PLUG
        case Power.STALLED:
            return Do.RESUME
        case Power.OFF_BY_GUEST if not held:
            return Phase.POWERED_OFF
        case _:
            # Crashed, lost, or off and nobody can say why: it is started, again if need be, never given up for dead.
            return Do.LAUNCH


def _rest(power: Power | None, rest: Rest, *, has_grace: bool) -> Do | None:
    """One that is over before its guest was off goes on until it is: it was asked, and may go off any moment."""
    if power in _ON:
        return Do.SHUT_DOWN if has_grace and power is Power.RUNNING else Do.PULL_THE_PLUG
    match rest:
        case Rest.OVER:
            return Do.WAKE
        case Rest.DUE:
            return Do.NOTE_REST
        case Rest.REACHED:
            return None


def rest_of(record: record_pb2.InstanceRecord, now_s: float) -> Rest | None:
    if not record.rest_until_ms:
        return None
    if record.rest_until_ms <= now_s * 1000:
        return Rest.OVER
    return Rest.REACHED if record.at_rest else Rest.DUE


def observation_of(record: record_pb2.InstanceRecord) -> instance_pb2.InstanceObservation:
    """What others are told of it."""
    return instance_pb2.InstanceObservation(
        instance_id=record.spec.instance_id,
        generation=record.spec.generation,
        state=_SHOWN[Phase(record.phase)],
        reason_code=record.reason_code,
        message=record.message,
        at_rest=record.at_rest and Goal(record.goal) is Goal.RUN,
    )


def observation_of_gone(instance_id: str, generation: int) -> instance_pb2.InstanceObservation:
    return instance_pb2.InstanceObservation(
        instance_id=instance_id, generation=generation, state=instance_pb2.VM_STATE_GONE
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a launch is tried, from its first failure on: what went well before, as the fetching of a large image,
    took the time it took. One that has run before is tried for ever."""

    tries: int = 3
    # For a part of the cloud that does not answer, or a ticket that the CC has yet to renew.
    wait_s: float = 120.0
    # For room: when the launch was answered there was some.
    room_s: float = ROOM_PATIENCE_S
    # For an engine that says no: what it needs may be coming up again.
    fault_s: float = 10.0


def give_up(error: CloudError, *, tries: int, failing_s: float, patience: Patience) -> tuple[str, str] | None:
    """AWS's StateReason code and message for a launch that is over, None for one that is tried again.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html
    """
    match error:
        case InvalidArgument() | NotFound() | Unsupported() | WrongState():
            code = f"Client.{error.code}"
        case Unavailable() | Denied() if failing_s < patience.wait_s:
            return None
        case NoCapacity() if tries < patience.tries or failing_s < patience.room_s:
            return None
        case NoCapacity():
            code = "Server.InsufficientInstanceCapacity"
        case Unavailable() | Denied():
            code = SERVER_ERROR
        case _ if tries < patience.tries or failing_s < patience.fault_s:
            return None
        case _:
            code = SERVER_ERROR
    return code, f"{code}: {error.message}"


def reason_words(phase: Phase) -> tuple[str, str]:
    """StateReason code and message of a phase that the engine's word alone leads to."""
    if phase is Phase.POWERED_OFF:
        return INITIATED_BY_GUEST, f"{INITIATED_BY_GUEST}: Instance initiated shutdown"
    return "", ""

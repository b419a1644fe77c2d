"""The life of an instance: which states follow which, and the one thing to do next. Pure.

PENDING, STOPPING and SHUTTING_DOWN are the stored goals of the reconciler; what the node last said is all it is told
beside them.
(States: EC2 User Guide, "Instance lifecycle"; codes: InstanceState in the API reference.)
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from mallee.clc.v1 import record_pb2
from mallee.nc.v1 import instance_pb2

if TYPE_CHECKING:
    from typing import TypeAlias

    State: TypeAlias = record_pb2.InstanceState.ValueType
    Vm: TypeAlias = instance_pb2.VmState.ValueType

PENDING: Final = record_pb2.INSTANCE_STATE_PENDING
RUNNING: Final = record_pb2.INSTANCE_STATE_RUNNING
SHUTTING_DOWN: Final = record_pb2.INSTANCE_STATE_SHUTTING_DOWN
TERMINATED: Final = record_pb2.INSTANCE_STATE_TERMINATED
STOPPING: Final = record_pb2.INSTANCE_STATE_STOPPING
STOPPED: Final = record_pb2.INSTANCE_STATE_STOPPED

EBS: Final = "ebs"
INSTANCE_STORE: Final = "instance-store"

# AWS's name and code of each state.
SHOWN: Final[dict[int, tuple[str, int]]] = {
    PENDING: ("pending", 0),
    RUNNING: ("running", 16),
    SHUTTING_DOWN: ("shutting-down", 32),
    TERMINATED: ("terminated", 48),
    STOPPING: ("stopping", 64),
    STOPPED: ("stopped", 80),
}

NEXT: Final[dict[int, frozenset[int]]] = {
    PENDING: frozenset({RUNNING, STOPPING, SHUTTING_DOWN}),
    RUNNING: frozenset({STOPPING, SHUTTING_DOWN}),
    STOPPING: frozenset({STOPPED, SHUTTING_DOWN}),
    STOPPED: frozenset({PENDING, SHUTTING_DOWN}),
    SHUTTING_DOWN: frozenset({TERMINATED}),
    TERMINATED: frozenset(),
}

# The states in which an instance holds its private address and its groups.
HOLDING: Final = frozenset(SHOWN) - {TERMINATED}


class Do(enum.Enum):
    """An order to the cluster controller; repeating it is always safe."""

    ENSURE = "ensure"
    TERMINATE = "terminate"


def next_step(state: State, vm: Vm | None, *, way_out: State = SHUTTING_DOWN) -> Do | State | None:
    """The one thing to do now: give an order, record a new state, or nothing.

    `vm` is what the node last reported of this generation; None is silence, which may repeat an order but moves
    nothing. `way_out` is where it goes when its VM is no more (see `way_out`).
    """
    match state, vm:
        case (record_pb2.INSTANCE_STATE_PENDING, None):
            return Do.ENSURE
        case (record_pb2.INSTANCE_STATE_PENDING, instance_pb2.VM_STATE_RUNNING):
            return RUNNING
        case (
            (record_pb2.INSTANCE_STATE_PENDING | record_pb2.INSTANCE_STATE_RUNNING),
            (instance_pb2.VM_STATE_POWERED_OFF | instance_pb2.VM_STATE_FAILED | instance_pb2.VM_STATE_GONE),
        ):
            return way_out
        case (record_pb2.INSTANCE_STATE_STOPPING, instance_pb2.VM_STATE_GONE):
            return STOPPED
        case (record_pb2.INSTANCE_STATE_SHUTTING_DOWN, instance_pb2.VM_STATE_GONE):
            return TERMINATED
        case ((record_pb2.INSTANCE_STATE_STOPPING | record_pb2.INSTANCE_STATE_SHUTTING_DOWN), _):
            return Do.TERMINATE
        case ((record_pb2.INSTANCE_STATE_STOPPED | record_pb2.INSTANCE_STATE_TERMINATED), heard) if (
            heard is not None and heard != instance_pb2.VM_STATE_GONE
        ):
            return Do.TERMINATE
        case _:
            return None


def way_out(record: record_pb2.InstanceRecord, vm: Vm | None) -> State:
    """Where an instance goes when its VM is no more: what it has on volumes outlives that.

    One that was shut down by its guest follows its shutdown behaviour. One that failed is stopped if it has ever run:
    a launch that fails ends, a start that fails leaves it as it was. (EC2 User Guide, "Instance lifecycle".)
    """
    if record.root_device_type != EBS:
        return SHUTTING_DOWN
    if vm == instance_pb2.VM_STATE_POWERED_OFF:
        return STOPPING if record.shutdown_behavior == "stop" else SHUTTING_DOWN
    return STOPPING if record.state == RUNNING or record.generation > 1 else SHUTTING_DOWN


# Why an instance went, when the node's own words say nothing better. (API reference: StateReason.)
REASONS: Final[dict[int, tuple[str, str]]] = {
    instance_pb2.VM_STATE_POWERED_OFF: (
        "Client.InstanceInitiatedShutdown",
        "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
    ),
    instance_pb2.VM_STATE_FAILED: ("Server.InternalError", "Server.InternalError: Internal error on launch"),
    instance_pb2.VM_STATE_GONE: (
        "Server.InternalError",
        "Server.InternalError: The node does not have this instance any more",
    ),
}
USER_INITIATED: Final = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")

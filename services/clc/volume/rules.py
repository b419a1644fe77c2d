"""The life of a volume and of its attachment: which states follow which, and the one thing to do next. Pure.

What is stored is the goal; beside it stands what the storage controller of the zone last said, where the instance is,
and what its node said of the disk. Silence may repeat an order but moves nothing.
(States: EBS User Guide, "EBS volume lifecycle".)
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mallee.clc.v1 import record_pb2
from mallee.nc.v1 import instance_pb2 as nc
from mallee.sc.v1 import volume_pb2 as sc

if TYPE_CHECKING:
    from typing import TypeAlias

    State: TypeAlias = record_pb2.VolumeState.ValueType
    AttachmentState: TypeAlias = record_pb2.AttachmentState.ValueType
    ModificationState: TypeAlias = record_pb2.ModificationState.ValueType

CREATING: Final = record_pb2.VOLUME_STATE_CREATING
AVAILABLE: Final = record_pb2.VOLUME_STATE_AVAILABLE
IN_USE: Final = record_pb2.VOLUME_STATE_IN_USE
DELETING: Final = record_pb2.VOLUME_STATE_DELETING
ERROR: Final = record_pb2.VOLUME_STATE_ERROR

ATTACHING: Final = record_pb2.ATTACHMENT_STATE_ATTACHING
ATTACHED: Final = record_pb2.ATTACHMENT_STATE_ATTACHED
DETACHING: Final = record_pb2.ATTACHMENT_STATE_DETACHING
BUSY: Final = record_pb2.ATTACHMENT_STATE_BUSY

NEXT: Final[dict[int, frozenset[int]]] = {
    CREATING: frozenset({AVAILABLE, IN_USE, ERROR, DELETING}),
    AVAILABLE: frozenset({IN_USE, DELETING, ERROR}),
    IN_USE: frozenset({AVAILABLE, DELETING}),
    DELETING: frozenset(),
    ERROR: frozenset({DELETING}),
}
NEXT_ATTACHMENT: Final[dict[int, frozenset[int]]] = {
    ATTACHING: frozenset({ATTACHED, DETACHING}),
    ATTACHED: frozenset({DETACHING}),
    DETACHING: frozenset({BUSY}),
    BUSY: frozenset(),
}


class Do(enum.Enum):
    """Repeating any of them is always safe."""

    # To the storage controller: make it, or make it as it is to be now.
    ENSURE = "ensure"
    DELETE = "delete"
    # Let the node of its instance use it.
    GRANT = "grant"
    # End a grant that is not the attachment's, or no attachment's.
    REVOKE = "revoke"
    # In the record: the next grant has a generation of its own, and the one that stands is an old one.
    RENEW = "renew"
    # End the grant, then the attachment.
    RELEASE = "release"


class Place(enum.Enum):
    """Where the instance of an attachment is."""

    # No node knows it, and none will: it is stopped.
    STOPPED = "stopped"
    # Terminated, or not in the records any more.
    ENDED = "ended"
    # Its node is not known yet.
    COMING = "coming"
    NODE = "node"


class Heard(enum.Enum):
    """What the node said of the disk, in answer to the newest wish."""

    NOTHING = "nothing"
    # It is not plugged in, and will not be.
    ABSENT = "absent"
    # Told of, with the grant that the attachment has; or, while it is to go, with any.
    PLUGGING = "plugging"
    PLUGGED = "plugged"
    UNPLUGGING = "unplugging"
    BUSY = "busy"
    FAILED = "failed"


DISK_STATES: Final[dict[int, Heard]] = {
    nc.DISK_STATE_PLUGGING: Heard.PLUGGING,
    nc.DISK_STATE_PLUGGED: Heard.PLUGGED,
    nc.DISK_STATE_UNPLUGGING: Heard.UNPLUGGING,
    nc.DISK_STATE_BUSY: Heard.BUSY,
    nc.DISK_STATE_FAILED: Heard.FAILED,
}


class Granted(enum.Enum):
    """The grant that the storage controller knows, as the attachment sees it."""

    UNKNOWN = "unknown"
    NONE = "none"
    # Of another attachment, or of none.
    OLD = "old"
    # Its own, for the node that its instance is on.
    OURS = "ours"
    # Its own, for a node that the instance is not on.
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True)
class Made:
    """What the storage controller said of the volume."""

    state: sc.VolumeState.ValueType
    # As its record wants it now.
    in_force: bool


def next_step(state: State, made: Made | None, *, attached: bool, granted: bool) -> Do | State | None:
    """Of the volume: an order, a new state, or nothing. `made` None is silence. DELETE ends with the record."""
    if granted and not attached:
        return Do.REVOKE
    match state, made.state if made else None:
        case record_pb2.VOLUME_STATE_CREATING, None | sc.VOLUME_STATE_GONE:
            return Do.ENSURE
        case record_pb2.VOLUME_STATE_CREATING, sc.VOLUME_STATE_AVAILABLE:
            return IN_USE if attached else AVAILABLE
        case (record_pb2.VOLUME_STATE_CREATING, sc.VOLUME_STATE_FAILED | sc.VOLUME_STATE_DELETING):
            return ERROR
        case record_pb2.VOLUME_STATE_AVAILABLE, sc.VOLUME_STATE_FAILED:
            return ERROR
        case (record_pb2.VOLUME_STATE_AVAILABLE | record_pb2.VOLUME_STATE_IN_USE, _) if made and not made.in_force:
            return Do.ENSURE
        case record_pb2.VOLUME_STATE_DELETING, _:
            return Do.DELETE
        case _:
            return None


def next_of_attachment(
    state: AttachmentState, place: Place, heard: Heard, granted: Granted, *, forced: bool
) -> Do | AttachmentState | None:
    """Of the attachment of a volume that is made: an order, a new state, or nothing."""
    if place is Place.ENDED:
        return Do.RELEASE
    if state in (DETACHING, BUSY):
        if place is Place.STOPPED or heard is Heard.ABSENT or forced:
            return Do.RELEASE
        if heard is Heard.BUSY:
            return BUSY if state == DETACHING else None
        return None
    if granted is Granted.OLD:
        return Do.REVOKE
    if place is Place.STOPPED:
        if granted in (Granted.OURS, Granted.ELSEWHERE):
            return Do.RENEW
        return ATTACHED if state == ATTACHING else None
    if place is Place.COMING:
        return None
    match granted:
        case Granted.ELSEWHERE:
            return Do.RENEW
        case Granted.NONE:
            return Do.GRANT
        case Granted.OURS if state == ATTACHING and heard is Heard.PLUGGED:
            return ATTACHED
        case _:
            return None


def after_release(state: State, attachment: AttachmentState, *, ended: bool, delete_on_termination: bool) -> State:
    """Of a volume whose attachment is over. One that its owner was taking off stays."""
    if ended and delete_on_termination and attachment not in (DETACHING, BUSY):
        return DELETING
    return AVAILABLE if state == IN_USE else state


def next_of_modification(state: ModificationState, *, in_force: bool, seen: bool) -> ModificationState | None:
    """`in_force`: the storage controller has made the volume so. `seen`: so has the guest, if there is one."""
    match state:
        case record_pb2.MODIFICATION_STATE_MODIFYING if in_force:
            return record_pb2.MODIFICATION_STATE_OPTIMIZING
        case record_pb2.MODIFICATION_STATE_OPTIMIZING if seen:
            return record_pb2.MODIFICATION_STATE_COMPLETED
        case _:
            return None

"""The records of images: their names, their states, and who sees them."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from common.errors import AlreadyExists, InvalidArgument, NotFound
from mallee.clc.v1 import record_pb2
from services.clc.snapshot import rules as snapshots
from services.clc.snapshot.find import use_of
from services.clc.store import Changes, Store

if TYPE_CHECKING:
    from typing import TypeAlias

    State: TypeAlias = record_pb2.ImageState.ValueType

_NAME: Final = re.compile(r"[a-zA-Z0-9()\[\] ./\-'@_]{3,128}\Z")

# Names of images that are no more begin so.
GONE: Final = "deregistered/"
# AWS's names.
SHOWN: Final[dict[int, str]] = {
    record_pb2.IMAGE_STATE_PENDING: "pending",
    record_pb2.IMAGE_STATE_AVAILABLE: "available",
    record_pb2.IMAGE_STATE_FAILED: "failed",
}


def next_state(state: State, made_of: Collection[int | None]) -> State | None:
    """Of an image whose snapshots are in these states, None where one is gone. Pure."""
    if state != record_pb2.IMAGE_STATE_PENDING:
        return None
    if any(its in (None, snapshots.ERROR, snapshots.DELETING) for its in made_of):
        return record_pb2.IMAGE_STATE_FAILED
    if all(its == snapshots.COMPLETED for its in made_of):
        return record_pb2.IMAGE_STATE_AVAILABLE
    return None


def visible(image: record_pb2.ImageRecord, account_id: str) -> bool:
    """Others see it when it can be run."""
    if account_id == image.account_id:
        return image.state in SHOWN
    if image.state != record_pb2.IMAGE_STATE_AVAILABLE:
        return False
    return image.public or account_id in image.launch_account_ids


def is_lately_gone(store: Store, account_id: str, image_id: str) -> bool:
    """One of the account's own that was deregistered not long ago: EC2 knows of it still, and shows nothing."""
    image = store.get(record_pb2.ImageRecord, image_id)
    if image is not None and image.record.account_id == account_id:
        return image.record.state == record_pb2.IMAGE_STATE_DEREGISTERED
    return store.holder(gone_claim(account_id, image_id)) is not None


def gone_claim(account_id: str, image_id: str) -> str:
    """Held, for a while, by the time at which the last of the image went."""
    return f"{GONE}{account_id}/{image_id}"


def no_longer_available(image_id: str) -> NotFound:
    return NotFound(f"The image id '[{image_id}]' is no longer available", code="InvalidAMIID.Unavailable")


def check_name(name: str) -> None:
    if not name:
        raise InvalidArgument("The request must contain the parameter name", code="MissingParameter")
    if not _NAME.match(name):
        raise InvalidArgument(
            "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', ')', '.',"
            " '-', '/' and '_'",
            code="InvalidAMIName.Malformed",
        )


def check_name_free(store: Store, account_id: str, name: str) -> None:
    if taken := store.holder(f"image-name/{account_id}/{name}"):
        raise AlreadyExists(f"AMI name {name} is already in use by AMI {taken}", code="InvalidAMIName.Duplicate")


def name_claim(image: record_pb2.ImageRecord) -> str:
    return f"image-name/{image.account_id}/{image.name}"


def add_image(changes: Changes, image: record_pb2.ImageRecord) -> None:
    """Its name is its own, and the snapshots it is made of stay as long as it does."""
    changes.create(image)
    changes.claim(name_claim(image), image.image_id)
    for snapshot_id in sorted({device.snapshot_id for device in image.block_devices if device.snapshot_id}):
        changes.bump(use_of(snapshot_id))

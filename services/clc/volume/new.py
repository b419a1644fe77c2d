"""New volumes: what they may be made of, and their records. For CreateVolume, launches and images alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from common.errors import InvalidArgument, NoCapacity
from common.ids import VolumeId
from mallee.clc.v1 import record_pb2
from services.clc.clock import timestamp
from services.clc.store import Changes
from services.clc.use_case import Call, Cloud
from services.clc.volume.device import slot_of
from services.clc.volume.types import Shape, check_shape

# So many requests of one account, as large as each other, may be under way at once without standing in each other's
# way; where the limit leaves less, they go one after another.
_NEAR: Final = 64


def volumes_claim(account_id: str) -> str:
    """Bumped by whoever takes one of the last places."""
    return f"volumes/{account_id}"


def shape_of(
    *,
    size_gib: int | None,
    snapshot_gib: int | None,
    volume_type: str = "",
    iops: int | None = None,
    throughput_mibps: int | None = None,
) -> Shape:
    """Of a volume that is made of a snapshot of `snapshot_gib`, or of nothing. Without a size it is the snapshot's.

    Raises InvalidArgument.
    """
    if size_gib is None and snapshot_gib is None:
        raise InvalidArgument("The request must contain the parameter size/snapshot", code="MissingParameter")
    if size_gib is not None and snapshot_gib is not None and size_gib < snapshot_gib:
        raise InvalidArgument(
            f"Volume of size {size_gib}GB is smaller than snapshot, expect size >= {snapshot_gib}GB",
            code="InvalidParameterValue",
        )
    wanted = size_gib if size_gib is not None else snapshot_gib
    assert wanted is not None
    return check_shape(size_gib=wanted, volume_type=volume_type, iops=iops, throughput_mibps=throughput_mibps)


def volume_record(
    call: Call, shape: Shape, *, zone: str, snapshot_id: str = "", tags: Mapping[str, str] | None = None
) -> record_pb2.VolumeRecord:
    """Of one that the storage controller is to make."""
    return record_pb2.VolumeRecord(
        volume_id=VolumeId.new(),
        account_id=call.account_id,
        zone=zone,
        state=record_pb2.VOLUME_STATE_CREATING,
        generation=1,
        size_gib=shape.size_gib,
        volume_type=shape.volume_type,
        iops=shape.iops,
        throughput_mibps=shape.throughput_mibps,
        snapshot_id=snapshot_id,
        created=timestamp(call.now),
        tags=dict(tags or {}),
        request_id=call.request_id,
    )


def attach(
    draft: record_pb2.VolumeRecord,
    instance_id: str,
    device_name: str,
    *,
    now: float,
    delete_on_termination: bool = False,
    of_launch: bool = False,
) -> record_pb2.VolumeAttachmentRecord:
    """Gives the volume an attachment that is on its way; the caller claims the device (device.py)."""
    draft.attachment_generation += 1
    draft.attachment.CopyFrom(
        record_pb2.VolumeAttachmentRecord(
            instance_id=instance_id,
            device_name=device_name,
            slot=slot_of(device_name),
            state=record_pb2.ATTACHMENT_STATE_ATTACHING,
            delete_on_termination=delete_on_termination,
            # In whole seconds, as EC2 shows it.
            attached=timestamp(int(now)),
            generation=draft.attachment_generation,
            of_launch=of_launch,
        )
    )
    return draft.attachment


def within_volume_limit(cloud: Cloud, changes: Changes, account_id: str, more: int = 1) -> None:
    """`changes` come to nothing if others took the places that are left. Raises NoCapacity (VolumeLimitExceeded)."""
    limit = cloud.config.clc.volumes_per_account
    taken = volumes_claim(account_id)
    bumped = cloud.store.bumped(taken)
    present = sum(1 for _ in cloud.store.owned(record_pb2.VolumeRecord, account_id))
    if limit - present < more * _NEAR:
        changes.unchanged(taken, bumped)
        changes.bump(taken)
    if present + more > limit:
        raise NoCapacity(f"Maximum number of active volumes ({limit}) has been reached.", code="VolumeLimitExceeded")

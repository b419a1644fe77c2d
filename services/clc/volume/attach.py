"""AttachVolume and DetachVolume: the wish stands in the volume's record; the reconciler and the node follow it."""

from __future__ import annotations

from typing import Final

from common.errors import Denied, InvalidArgument, NotFound, WrongState
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import volume_pb2 as ec2
from services.clc.lookup import INSTANCE, VOLUME, own
from services.clc.store import Changes, Stored, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.volume.describe import STATES, attachment_view
from services.clc.volume.device import device_claim, slot_of, taken
from services.clc.volume.disks import is_root
from services.clc.volume.new import attach

Volume = Stored[record_pb2.VolumeRecord]
Instance = Stored[record_pb2.InstanceRecord]

# Of an instance that takes volumes.
_TAKES: Final = frozenset({record_pb2.INSTANCE_STATE_RUNNING, record_pb2.INSTANCE_STATE_STOPPED})
# Of one whose root device nothing uses.
_AT_REST: Final = frozenset({record_pb2.INSTANCE_STATE_STOPPED, record_pb2.INSTANCE_STATE_TERMINATED})
_LEAVING: Final = frozenset({record_pb2.ATTACHMENT_STATE_DETACHING, record_pb2.ATTACHMENT_STATE_BUSY})


@use_case("ec2.AttachVolume")
async def attach_volume(cloud: Cloud, call: Call, request: ec2.AttachVolumeRequest) -> ec2.VolumeAttachment:
    async def attempt() -> ec2.VolumeAttachment:
        volume = own(cloud.store, VOLUME, call.account_id, request.volume_id)
        instance = own(cloud.store, INSTANCE, call.account_id, request.instance_id)
        slot = slot_of(request.device)
        _check_attachable(volume.record, instance.record)
        claim = device_claim(request.instance_id, slot)
        if cloud.store.holder(claim) is not None or slot in _slots_of_node(instance.record):
            raise taken(request.device)
        end_dry_run(request)
        draft = volume.draft()
        attach(draft, request.instance_id, request.device, now=call.now)
        draft.state = record_pb2.VOLUME_STATE_IN_USE
        draft.request_id = call.request_id
        changes = Changes()
        changes.update(volume, draft)
        changes.claim(claim, volume.record.volume_id)
        # It is not terminated, and takes no other root device, meanwhile.
        changes.require(instance)
        await cloud.store.commit(changes)
        return attachment_view(draft)

    return await until_committed(attempt)


@use_case("ec2.DetachVolume")
async def detach_volume(cloud: Cloud, call: Call, request: ec2.DetachVolumeRequest) -> ec2.VolumeAttachment:
    async def attempt() -> ec2.VolumeAttachment:
        volume = own(cloud.store, VOLUME, call.account_id, request.volume_id)
        _check_detachable(cloud, call, request, volume.record)
        booted = _check_root(cloud, volume.record)
        end_dry_run(request)
        draft = volume.draft()
        if draft.attachment.state not in _LEAVING:
            draft.attachment.state = record_pb2.ATTACHMENT_STATE_DETACHING
        draft.attachment.forced |= request.force
        if draft != volume.record:
            draft.request_id = call.request_id
            changes = Changes()
            changes.update(volume, draft)
            if booted is not None:
                # Written as it is: a start that found the root there, at the same time, looks again.
                changes.update(booted, booted.draft())
            await cloud.store.commit(changes)
        return attachment_view(draft)

    return await until_committed(attempt)


def _check_attachable(volume: record_pb2.VolumeRecord, instance: record_pb2.InstanceRecord) -> None:
    if volume.HasField("attachment"):
        raise WrongState(f"{volume.volume_id} is already attached to an instance", code="VolumeInUse")
    if volume.state != record_pb2.VOLUME_STATE_AVAILABLE:
        raise WrongState(f"{volume.volume_id} is not 'available'.")
    if volume.zone != instance.zone:
        raise InvalidArgument(
            f"The volume '{volume.volume_id}' is not in the same availability zone as instance"
            f" '{instance.instance_id}'",
            code="InvalidVolume.ZoneMismatch",
        )
    if instance.state not in _TAKES:
        raise WrongState(f"Instance '{instance.instance_id}' is not 'running'.")


def _slots_of_node(instance: record_pb2.InstanceRecord) -> set[int]:
    """Of its disks that are no volumes; the root that is made of a machine image among them."""
    slots = {slot_of(mapping.device_name) for mapping in instance.ephemeral}
    if instance.root_device_type != "ebs":
        slots.add(slot_of(instance.root_device_name or "/dev/sda1"))
    return slots


def _check_detachable(
    cloud: Cloud, call: Call, request: ec2.DetachVolumeRequest, volume: record_pb2.VolumeRecord
) -> None:
    attachment = volume.attachment
    if request.HasField("instance_id"):
        own(cloud.store, INSTANCE, call.account_id, request.instance_id)
    if not volume.HasField("attachment") or volume.state != record_pb2.VOLUME_STATE_IN_USE:
        raise WrongState(f"Volume '{volume.volume_id}' is in the '{STATES[volume.state]}' state.")
    if request.HasField("instance_id") and request.instance_id != attachment.instance_id:
        raise NotFound(
            f"The volume '{volume.volume_id}' is not attached to instance '{request.instance_id}'",
            code="InvalidAttachment.NotFound",
        )
    if request.HasField("device") and slot_of(request.device) != attachment.slot:
        raise NotFound(
            f"The volume '{volume.volume_id}' is not attached to instance '{attachment.instance_id}' as device"
            f" {request.device}",
            code="InvalidAttachment.NotFound",
        )


def _check_root(cloud: Cloud, volume: record_pb2.VolumeRecord) -> Instance | None:
    """The instance that boots from it, if one does. Raises Denied while it runs."""
    instance = cloud.store.get(record_pb2.InstanceRecord, volume.attachment.instance_id)
    if instance is None or not is_root(volume, instance.record):
        return None
    if instance.record.state not in _AT_REST:
        raise Denied(
            f"Unable to detach root volume '{volume.volume_id}' from instance '{volume.attachment.instance_id}'",
            code="OperationNotPermitted",
        )
    return instance

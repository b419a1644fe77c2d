"""The disks of an instance: as its node is told of them, and as it tells of them."""

from __future__ import annotations

from typing import Final

from common.errors import WrongState
from mallee.clc.v1 import record_pb2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.store import Stored
from services.clc.use_case import Cloud
from services.clc.volume import rules
from services.clc.volume.device import slot_of
from services.clc.volume.types import GIB

# The attachments whose volumes are to be plugged in.
_WANTED: Final = (rules.ATTACHING, rules.ATTACHED)


def plan_of(cloud: Cloud, instance: record_pb2.InstanceRecord) -> nc.DiskPlan:
    """Every disk that it is to have now, beside the one that is made of a machine image."""
    volumes = [stored.record for stored in cloud.attached.of(instance.instance_id)]
    return nc.DiskPlan(
        revision=cloud.store.revision,
        disks=[
            *(_of_volume(volume, instance) for volume in volumes if is_wanted(volume)),
            *(_of_node(mapping) for mapping in instance.ephemeral),
        ],
        forced_volume_ids=[v.volume_id for v in volumes if v.attachment.forced and not is_wanted(v)],
    )


def is_wanted(volume: record_pb2.VolumeRecord) -> bool:
    """Its instance is to have it, rather than to let go of it."""
    return volume.attachment.state in _WANTED


def is_root(volume: record_pb2.VolumeRecord, instance: record_pb2.InstanceRecord) -> bool:
    """The instance boots from it."""
    return instance.root_device_type == "ebs" and volume.attachment.device_name == instance.root_device_name


def check_root(cloud: Cloud, instance: record_pb2.InstanceRecord) -> None:
    """Of one on volumes: that it has the one it boots from. Raises WrongState."""
    volumes = (stored.record for stored in cloud.attached.of(instance.instance_id))
    if not any(is_root(volume, instance) and is_wanted(volume) for volume in volumes):
        raise WrongState(
            f"Instance '{instance.instance_id}' does not have a volume attached at root ({instance.root_device_name})",
            code="IncorrectInstanceState",
        )


def _of_volume(volume: record_pb2.VolumeRecord, instance: record_pb2.InstanceRecord) -> nc.Disk:
    attachment = volume.attachment
    return nc.Disk(
        volume_id=volume.volume_id,
        grant_generation=attachment.generation,
        device_name=attachment.device_name,
        slot=attachment.slot,
        size_bytes=volume.size_gib * GIB,
        root=is_root(volume, instance),
    )


def _of_node(mapping: record_pb2.BlockDeviceMappingRecord) -> nc.Disk:
    return nc.Disk(
        device_name=mapping.device_name,
        slot=slot_of(mapping.device_name),
        size_bytes=mapping.size_gib * GIB,
        ephemeral_index=int(mapping.virtual_name.removeprefix("ephemeral")),
    )


def place_of(instance: record_pb2.InstanceRecord | None) -> rules.Place:
    match instance.state if instance is not None else None:
        case None | record_pb2.INSTANCE_STATE_TERMINATED:
            return rules.Place.ENDED
        case record_pb2.INSTANCE_STATE_STOPPED:
            return rules.Place.STOPPED
        case _:
            return rules.Place.NODE if instance is not None and instance.node else rules.Place.COMING


def heard_disk(
    volume: Stored[record_pb2.VolumeRecord],
    instance: record_pb2.InstanceRecord | None,
    observation: nc.InstanceObservation | None,
) -> rules.Heard:
    """What the node said of the volume that answers its record as it stands."""
    if instance is None or observation is None or observation.generation != instance.generation:
        return rules.Heard.NOTHING
    attachment = volume.record.attachment
    disk = next((disk for disk in observation.disks if disk.volume_id == volume.record.volume_id), None)
    if is_wanted(volume.record):
        known = disk is not None and disk.grant_generation == attachment.generation
        return rules.DISK_STATES.get(disk.state, rules.Heard.NOTHING) if disk and known else rules.Heard.NOTHING
    if disk is not None:
        return rules.DISK_STATES.get(disk.state, rules.Heard.NOTHING)
    # A plan of an older revision may have had it.
    return rules.Heard.ABSENT if observation.disks_revision >= volume.revision else rules.Heard.NOTHING

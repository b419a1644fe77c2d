"""The disks of an instance as its node is told of them."""

from __future__ import annotations

from typing import Final

from mallee.clc.v1 import record_pb2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.use_case import Cloud
from services.clc.volume.device import slot_of
from services.clc.volume.types import GIB

# The attachments whose volumes are to be plugged in.
_WANTED: Final = (record_pb2.ATTACHMENT_STATE_ATTACHING, record_pb2.ATTACHMENT_STATE_ATTACHED)


def plan_of(cloud: Cloud, instance: record_pb2.InstanceRecord) -> nc.DiskPlan:
    """Every disk that it is to have now, beside the one that is made of a machine image."""
    volumes = (stored.record for stored in cloud.attached.of(instance.instance_id))
    return nc.DiskPlan(
        revision=cloud.store.revision,
        disks=[
            *(_of_volume(volume, instance) for volume in volumes if volume.attachment.state in _WANTED),
            *(_of_node(mapping) for mapping in instance.ephemeral),
        ],
    )


def is_root(volume: record_pb2.VolumeRecord, instance: record_pb2.InstanceRecord) -> bool:
    """The instance boots from it."""
    return instance.root_device_type == "ebs" and volume.attachment.device_name == instance.root_device_name


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

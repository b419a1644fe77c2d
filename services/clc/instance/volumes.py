"""The volumes that a launch makes: written with its instances, attached before they are there."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager

from mallee.clc.v1 import record_pb2
from services.clc.instance.block_devices import shape_of_mapping
from services.clc.instance.request import Wanted
from services.clc.snapshot.find import completed_snapshot
from services.clc.store import Changes
from services.clc.use_case import Call, Cloud
from services.clc.volume.device import device_claim
from services.clc.volume.new import attach, volume_record, within_volume_limit


def room_for_volumes(cloud: Cloud, wanted: Wanted, zone: str, count: int) -> AbstractContextManager[None]:
    """Of so many instances, held for the body of the `with`. Raises NoCapacity (InsufficientVolumeCapacity)."""
    if not wanted.volumes:
        return contextlib.nullcontext()
    return cloud.storage[zone].admitting(count * sum(shape_of_mapping(device).size_bytes for device in wanted.volumes))


def add_volumes(
    cloud: Cloud, call: Call, changes: Changes, wanted: Wanted, instances: Sequence[record_pb2.InstanceRecord]
) -> None:
    """The snapshots that they are made of must still be there when this is written. Raises NoCapacity
    (VolumeLimitExceeded)."""
    if not wanted.volumes:
        return
    within_volume_limit(cloud, changes, call.account_id, len(wanted.volumes) * len(instances))
    # Those of the image are kept by it, whoever's they are.
    of_image = {device.snapshot_id for device in wanted.machine.record.block_devices}
    for snapshot_id in sorted({device.snapshot_id for device in wanted.volumes} - of_image - {""}):
        changes.require(completed_snapshot(cloud.store, call.account_id, snapshot_id))
    for instance in instances:
        for device in wanted.volumes:
            volume = volume_record(
                call,
                shape_of_mapping(device),
                zone=instance.zone,
                snapshot_id=device.snapshot_id,
                tags=wanted.volume_tags,
            )
            attachment = attach(
                volume,
                instance.instance_id,
                device.device_name,
                now=call.now,
                delete_on_termination=device.delete_on_termination,
                of_launch=True,
            )
            changes.create(volume)
            changes.claim(device_claim(instance.instance_id, attachment.slot), volume.volume_id)

"""Volumes and instances that have them, on a stage: asked for, waited for, told of by their node."""

from __future__ import annotations

from typing import Any

from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2, volume_pb2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.store import Changes
from tests.eventually import eventually
from tests.service.clc.stage import Stage
from tests.service.clc.storage_stage import PlayedStorage
from tests.service.clc.volume_requests import ZONE

RUNNING = nc.VM_STATE_RUNNING
ATTACHED = record_pb2.ATTACHMENT_STATE_ATTACHED


def sc(stage: Stage, zone: str = ZONE) -> PlayedStorage:
    return stage.storage[zone]


def record(stage: Stage, volume_id: str) -> record_pb2.VolumeRecord:
    stored = stage.cloud.store.get(record_pb2.VolumeRecord, volume_id)
    assert stored is not None
    return stored.record


async def create(stage: Stage, **more: Any) -> str:
    asked: dict[str, Any] = {"availability_zone": ZONE, "size": 8} | more
    request = volume_pb2.CreateVolumeRequest(**asked)
    return str((await stage.run("CreateVolume", request)).volume_id)


async def states(stage: Stage, *ids: str) -> list[str]:
    answer = await stage.run("DescribeVolumes", volume_pb2.DescribeVolumesRequest(volume_ids=ids))
    return [volume.state for volume in answer.volumes]


async def become(stage: Stage, volume_id: str, state: str) -> None:
    wanted = getattr(record_pb2, f"VOLUME_STATE_{state.upper()}")
    await eventually(lambda: record(stage, volume_id).state == wanted)


async def made(stage: Stage, **more: Any) -> str:
    volume_id = await create(stage, **more)
    await become(stage, volume_id, "available")
    return volume_id


async def instance(stage: Stage, image_id: str, **more: Any) -> str:
    """One that runs."""
    placement = instance_pb2.Placement(availability_zone=ZONE)
    request = instance_pb2.RunInstancesRequest(image_id=image_id, min_count=1, max_count=1, placement=placement, **more)
    instance_id = str((await stage.run("RunInstances", request)).instances[0].instance_id)
    await eventually(lambda: stage.instance(instance_id).node)
    stage.zones[ZONE].says(instance_id, RUNNING, node=stage.instance(instance_id).node)
    await eventually(lambda: stage.instance(instance_id).state == record_pb2.INSTANCE_STATE_RUNNING)
    return instance_id


async def attach(
    stage: Stage, volume_id: str, instance_id: str, device: str = "/dev/sdf"
) -> volume_pb2.VolumeAttachment:
    request = volume_pb2.AttachVolumeRequest(volume_id=volume_id, instance_id=instance_id, device=device)
    answer: volume_pb2.VolumeAttachment = await stage.run("AttachVolume", request)
    return answer


async def detach(stage: Stage, volume_id: str, **more: Any) -> volume_pb2.VolumeAttachment:
    request = volume_pb2.DetachVolumeRequest(volume_id=volume_id, **more)
    answer: volume_pb2.VolumeAttachment = await stage.run("DetachVolume", request)
    return answer


async def planned(stage: Stage, instance_id: str, *volume_ids: str) -> nc.DiskPlan:
    """The newest plan of the instance, once it has exactly these volumes."""
    plans = stage.zones[ZONE].disk_plans

    def there() -> bool:
        return instance_id in plans and [d.volume_id for d in plans[instance_id].disks] == list(volume_ids)

    await eventually(there)
    return plans[instance_id]


def node_says(stage: Stage, instance_id: str, plan: nc.DiskPlan, *disks: nc.DiskObservation) -> None:
    """Of the plan's disks that they are plugged in, and what is given beside."""
    plugged = [
        nc.DiskObservation(
            volume_id=disk.volume_id,
            grant_generation=disk.grant_generation,
            state=nc.DISK_STATE_PLUGGED,
            size_bytes=disk.size_bytes,
        )
        for disk in plan.disks
    ]
    stage.zones[ZONE].says(
        instance_id,
        RUNNING,
        node=stage.instance(instance_id).node,
        disks_revision=plan.revision,
        disks=[*plugged, *disks],
    )


async def attached(stage: Stage, image_id: str) -> tuple[str, str]:
    """A volume that a running instance has."""
    instance_id, volume_id = await instance(stage, image_id), await made(stage)
    await attach(stage, volume_id, instance_id)
    node_says(stage, instance_id, await planned(stage, instance_id, volume_id))
    await eventually(lambda: record(stage, volume_id).attachment.state == ATTACHED)
    return volume_id, instance_id


async def change(stage: Stage, volume_id: str, change: Any) -> None:
    stored = stage.cloud.store.get(record_pb2.VolumeRecord, volume_id)
    assert stored is not None
    draft = stored.draft()
    change(draft)
    await _commit(stage, stored, draft)


async def set_instance(stage: Stage, instance_id: str, **fields: Any) -> None:
    stored = stage.cloud.store.get(record_pb2.InstanceRecord, instance_id)
    assert stored is not None
    draft = stored.draft()
    for name, value in fields.items():
        setattr(draft, name, value)
    await _commit(stage, stored, draft)


async def set_snapshot(stage: Stage, snapshot_id: str, volume_id: str, state: Any) -> None:
    stored = stage.cloud.store.get(record_pb2.SnapshotRecord, snapshot_id)
    assert stored is not None
    draft = stored.draft()
    draft.volume_id, draft.state = volume_id, state
    await _commit(stage, stored, draft)


async def _commit(stage: Stage, stored: Any, draft: Any) -> None:
    changes = Changes()
    changes.update(stored, draft)
    await stage.cloud.store.commit(changes)

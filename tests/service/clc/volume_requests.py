"""Each action on volumes, with every member set that goes together."""

from __future__ import annotations

from typing import Any, Final

from common.ids import SnapshotId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import volume_pb2
from mallee.ec2.v1.vpc_pb2 import AttributeBooleanValue
from services.clc.store import Changes
from tests.service.clc.address_requests import booted
from tests.service.clc.making import Make, constantly, of, reads, tagged
from tests.service.clc.stage import Stage

ZONE: Final = "us-east-1a"


async def volume(stage: Stage) -> str:
    request = volume_pb2.CreateVolumeRequest(availability_zone=ZONE, size=8)
    return str((await stage.run("CreateVolume", request)).volume_id)


async def available(stage: Stage, volume_id: str = "", *, zone: str = ZONE) -> str:
    """As if its storage controller had made it."""
    if not volume_id:
        request = volume_pb2.CreateVolumeRequest(availability_zone=zone, size=8)
        volume_id = str((await stage.run("CreateVolume", request)).volume_id)
    stored = stage.cloud.store.get(record_pb2.VolumeRecord, volume_id)
    assert stored is not None
    draft = stored.draft()
    draft.state = record_pb2.VOLUME_STATE_AVAILABLE
    changes = Changes()
    changes.update(stored, draft)
    await stage.cloud.store.commit(changes)
    return volume_id


async def attach(stage: Stage) -> Any:
    instance_id = await booted(stage)
    volume_id = await available(stage, zone=stage.instance(instance_id).zone)
    return volume_pb2.AttachVolumeRequest(
        volume_id=volume_id, instance_id=instance_id, device="/dev/sdf", ebs_card_index=0
    )


async def detach(stage: Stage) -> Any:
    asked = await attach(stage)
    await stage.run("AttachVolume", asked)
    return volume_pb2.DetachVolumeRequest(
        volume_id=asked.volume_id, instance_id=asked.instance_id, device=asked.device, force=True
    )


async def modified(stage: Stage) -> str:
    volume_id = await available(stage)
    await stage.run("ModifyVolume", volume_pb2.ModifyVolumeRequest(volume_id=volume_id, size=9))
    return volume_id


async def snapshot(stage: Stage, *, gib: int = 8) -> str:
    """A complete one of the first account."""
    record = record_pb2.SnapshotRecord(
        snapshot_id=SnapshotId.new(),
        account_id=stage.callers[0].account_id,
        state=record_pb2.SNAPSHOT_STATE_COMPLETED,
        volume_size_gib=gib,
    )
    changes = Changes()
    changes.create(record)
    await stage.cloud.store.commit(changes)
    return record.snapshot_id


async def create(stage: Stage) -> Any:
    return volume_pb2.CreateVolumeRequest(
        availability_zone=ZONE,
        encrypted=False,
        iops=4000,
        size=10,
        volume_type="gp3",
        tag_specifications=tagged("volume"),
        multi_attach_enabled=False,
        throughput=500,
        client_token="token",
    )


VOLUMES: Final[dict[str, Make]] = {
    "CreateVolume": create,
    "DeleteVolume": of(available, volume_pb2.DeleteVolumeRequest(), "volume_id"),
    "DescribeVolumes": reads(volume_pb2.DescribeVolumesRequest(), status="*"),
    "AttachVolume": attach,
    "DetachVolume": detach,
    "ModifyVolume": of(
        available,
        volume_pb2.ModifyVolumeRequest(
            size=20, volume_type="gp3", iops=4000, throughput=500, multi_attach_enabled=False
        ),
        "volume_id",
    ),
    "DescribeVolumesModifications": reads(volume_pb2.DescribeVolumesModificationsRequest(), modification_state="*"),
    "DescribeVolumeStatus": reads(
        volume_pb2.DescribeVolumeStatusRequest(include_managed_resources=False), availability_zone="*"
    ),
    "DescribeVolumeAttribute": of(
        volume, volume_pb2.DescribeVolumeAttributeRequest(attribute="autoEnableIO"), "volume_id"
    ),
    "ModifyVolumeAttribute": of(
        volume,
        volume_pb2.ModifyVolumeAttributeRequest(auto_enable_io=AttributeBooleanValue(value=True)),
        "volume_id",
    ),
    "EnableVolumeIO": of(volume, volume_pb2.EnableVolumeIORequest(), "volume_id"),
}
NAMED_VOLUMES: Final[dict[tuple[str, str], Make]] = {
    ("CreateVolume", "by zone id"): constantly(
        volume_pb2.CreateVolumeRequest(availability_zone_id="use1-az2", size=4, volume_type="io1", iops=200)
    ),
    ("CreateVolume", "of a snapshot"): of(
        snapshot, volume_pb2.CreateVolumeRequest(availability_zone=ZONE, volume_type="st1", size=125), "snapshot_id"
    ),
    ("DescribeVolumes", "by id"): of(volume, volume_pb2.DescribeVolumesRequest(), "volume_ids"),
    ("DescribeVolumesModifications", "by id"): of(
        modified, volume_pb2.DescribeVolumesModificationsRequest(), "volume_ids"
    ),
    ("DescribeVolumeStatus", "by id"): of(volume, volume_pb2.DescribeVolumeStatusRequest(), "volume_ids"),
}

"""Instances on volumes: launched with them, stopped, changed, started, given up. Volumes are made when a test says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.errors import CloudError
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2, instance_pb2, volume_pb2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.instance import rules
from services.clc.reconcile import Leader
from services.clc.store import Changes, until_committed
from tests.eventually import eventually
from tests.service.clc.stage import Stage
from tests.service.clc.test_contested import in_a_race


@pytest.fixture
async def ebs_image_id(stage: Stage, image_id: str) -> str:
    """The image, as if its root were a snapshot; and a second volume."""
    for storage in stage.storage.values():
        storage.slow = True
    changes = Changes()
    account_id = stage.callers[0].account_id
    for name, size_gib in (("snap-0123456789abcdef0", 2), ("snap-0123456789abcdef1", 3)):
        changes.create(
            record_pb2.SnapshotRecord(
                snapshot_id=name,
                account_id=account_id,
                state=record_pb2.SNAPSHOT_STATE_COMPLETED,
                volume_size_gib=size_gib,
            )
        )
    image = stage.cloud.store.get(record_pb2.ImageRecord, image_id)
    assert image is not None
    draft = image.draft()
    draft.root_device_type, draft.root_device_name = "ebs", "/dev/sda1"
    draft.block_devices.add(
        device_name="/dev/sda1",
        snapshot_id="snap-0123456789abcdef0",
        size_gib=2,
        volume_type="gp2",
        iops=100,
        delete_on_termination=True,
    )
    changes.update(image, draft)
    await stage.cloud.store.commit(changes)
    return image_id


async def volumes_of(stage: Stage, instance_id: str) -> list[str]:
    """Once their storage controller was told of them."""
    storage = stage.storage[stage.instance(instance_id).zone]
    ids = [volume.record.volume_id for volume in stage.cloud.attached.of(instance_id)]
    await eventually(lambda: all(volume_id in storage.specs for volume_id in ids))
    return ids


async def make_volumes(stage: Stage, instance_id: str) -> None:
    storage = stage.storage[stage.instance(instance_id).zone]
    for volume_id in await volumes_of(stage, instance_id):
        storage.finish(volume_id)


def plugged(plan: nc.DiskPlan) -> dict[str, Any]:
    """What a node says that has them all."""
    disks = [
        nc.DiskObservation(
            volume_id=disk.volume_id,
            grant_generation=disk.grant_generation,
            state=nc.DISK_STATE_PLUGGED,
            size_bytes=disk.size_bytes,
        )
        for disk in plan.disks
    ]
    return {"disks": disks, "disks_revision": plan.revision}


async def launch(stage: Stage, image_id: str, **more: Any) -> str:
    request = instance_pb2.RunInstancesRequest(image_id=image_id, min_count=1, max_count=1, **more)
    return str((await stage.run("RunInstances", request)).instances[0].instance_id)


def zone_of(stage: Stage, instance_id: str) -> Any:
    return stage.zones[stage.instance(instance_id).zone]


async def in_state(stage: Stage, instance_id: str, state: int) -> record_pb2.InstanceRecord:
    await eventually(lambda: stage.instance(instance_id).state == state)
    return stage.instance(instance_id)


async def running(stage: Stage, image_id: str, **more: Any) -> str:
    instance_id = await launch(stage, image_id, **more)
    await make_volumes(stage, instance_id)
    zone = zone_of(stage, instance_id)
    await eventually(lambda: instance_id in zone.placed)
    node, spec = zone.placed[instance_id]
    zone.says(instance_id, nc.VM_STATE_RUNNING, generation=1, node=node, **plugged(spec.disks))
    await in_state(stage, instance_id, rules.RUNNING)
    return instance_id


async def stopped(stage: Stage, image_id: str, **more: Any) -> str:
    instance_id = await running(stage, image_id, **more)
    await stage.run("StopInstances", instance_pb2.StopInstancesRequest(instance_ids=[instance_id]))
    await in_state(stage, instance_id, rules.STOPPED)
    return instance_id


async def test_an_instance_waits_for_its_volumes_and_shows_them(
    stage: Stage, leader: Leader, ebs_image_id: str
) -> None:
    mapping = image_pb2.BlockDeviceMapping(device_name="/dev/sdf", ebs=image_pb2.EbsBlockDevice(volume_size=5))
    instance_id = await launch(stage, ebs_image_id, block_device_mappings=[mapping])
    zone = zone_of(stage, instance_id)
    # Another launch goes out meanwhile: the zone takes orders.
    other = await launch(stage, ebs_image_id)
    await make_volumes(stage, other)
    await eventually(lambda: any(other in z.placed for z in stage.zones.values()))
    assert instance_id not in zone.placed
    await make_volumes(stage, instance_id)
    await eventually(lambda: instance_id in zone.placed)
    node, spec = zone.placed[instance_id]
    assert [(disk.device_name, disk.slot, disk.root) for disk in spec.disks.disks] == [
        ("/dev/sda1", 0, True),
        ("/dev/sdf", 5, False),
    ]
    assert not spec.boot.machine.image_id
    assert spec.shape.disk_bytes == 0
    zone.says(instance_id, nc.VM_STATE_PREPARING, node=node, **plugged(spec.disks))
    attached = record_pb2.ATTACHMENT_STATE_ATTACHED
    await eventually(lambda: all(v.record.attachment.state == attached for v in stage.cloud.attached.of(instance_id)))
    request = instance_pb2.DescribeInstancesRequest(instance_ids=[instance_id])
    shown = (await stage.run("DescribeInstances", request)).reservations[0].instances[0]
    assert shown.root_device_type == "ebs"
    assert [(d.device_name, d.ebs.status, d.ebs.delete_on_termination) for d in shown.block_device_mappings] == [
        ("/dev/sda1", "attached", True),
        ("/dev/sdf", "attached", True),
    ]


async def test_a_volume_that_cannot_be_made_ends_the_launch(stage: Stage, leader: Leader, ebs_image_id: str) -> None:
    instance_id = await launch(stage, ebs_image_id)
    (volume_id,) = await volumes_of(stage, instance_id)
    stage.storage[stage.instance(instance_id).zone].fails(volume_id, "InternalError", "the disk is gone")
    record = await in_state(stage, instance_id, rules.TERMINATED)
    assert record.state_reason_code == "Server.InternalError"


async def test_a_stopped_instance_keeps_its_private_address_and_loses_the_pools(
    stage: Stage, leader: Leader, ebs_image_id: str
) -> None:
    instance_id = await running(stage, ebs_image_id)
    before = stage.instance(instance_id)
    change = await stage.run("StopInstances", instance_pb2.StopInstancesRequest(instance_ids=[instance_id]))
    assert change.stopping_instances[0].current_state.name == "stopping"
    after = await in_state(stage, instance_id, rules.STOPPED)
    assert after.interface.private_ipv4 == before.interface.private_ipv4
    assert before.interface.public_ipv4
    assert not after.interface.public_ipv4
    assert not after.node
    assert stage.cloud.store.holder(f"public/{before.interface.public_ipv4}") is None
    again = await stage.run("StopInstances", instance_pb2.StopInstancesRequest(instance_ids=[instance_id]))
    assert again.stopping_instances[0].current_state.name == "stopped"


async def test_a_started_instance_has_a_new_generation_and_finds_what_was_changed(
    stage: Stage, leader: Leader, ebs_image_id: str
) -> None:
    instance_id = await stopped(stage, ebs_image_id)
    for change in (
        {"instance_type": image_pb2.AttributeValue(value="t2.nano")},
        {"user_data": instance_pb2.SecureBlobAttributeValue(value=b"other")},
    ):
        request = instance_pb2.ModifyInstanceAttributeRequest(instance_id=instance_id, **change)
        await stage.run("ModifyInstanceAttribute", request)
    stage.now += 60.5
    change = await stage.run("StartInstances", instance_pb2.StartInstancesRequest(instance_ids=[instance_id]))
    assert change.starting_instances[0].previous_state.name == "stopped"
    launched = stage.instance(instance_id).launch_time
    assert (launched.seconds, launched.nanos) == (int(stage.now), 0)
    zone = zone_of(stage, instance_id)
    await eventually(lambda: instance_id in zone.placed)
    spec = zone.placed[instance_id][1]
    assert (spec.generation, spec.user_data, spec.shape.instance_type) == (2, b"other", "t2.nano")
    assert stage.instance(instance_id).interface.public_ipv4
    # What the node said of the generation before is no news.
    zone.says(instance_id, nc.VM_STATE_GONE, generation=1)
    zone.says(instance_id, nc.VM_STATE_RUNNING, generation=2)
    await in_state(stage, instance_id, rules.RUNNING)


async def test_without_a_root_nothing_starts_and_no_image_is_taken(
    stage: Stage, leader: Leader, ebs_image_id: str
) -> None:
    instance_id = await stopped(stage, ebs_image_id)

    async def take_off() -> None:
        (volume,) = stage.cloud.attached.of(instance_id)
        draft = volume.draft()
        draft.ClearField("attachment")
        changes = Changes()
        changes.update(volume, draft)
        await stage.cloud.store.commit(changes)

    # Its grant may be made anew just now.
    await until_committed(take_off)
    for action, request in (
        ("StartInstances", instance_pb2.StartInstancesRequest(instance_ids=[instance_id])),
        ("CreateImage", image_pb2.CreateImageRequest(instance_id=instance_id, name="rootless")),
    ):
        with pytest.raises(CloudError, match="attached at root") as caught:
            await stage.run(action, request)
        assert caught.value.code == "IncorrectInstanceState"


@pytest.mark.parametrize("first", ["StartInstances", "DetachVolume"])
async def test_a_root_is_not_detached_from_what_starts_with_it_at_the_same_time(
    stage: Stage, leader: Leader, ebs_image_id: str, first: str
) -> None:
    instance_id = await stopped(stage, ebs_image_id)
    (volume,) = stage.cloud.attached.of(instance_id)
    calls: dict[str, Any] = {
        "StartInstances": instance_pb2.StartInstancesRequest(instance_ids=[instance_id]),
        "DetachVolume": volume_pb2.DetachVolumeRequest(volume_id=volume.record.volume_id),
    }
    (second,) = calls.keys() - {first}
    with pytest.raises(CloudError) as caught:
        await in_a_race(stage, lambda: stage.run(first, calls[first])).run(second, calls[second])
    assert caught.value.code in ("IncorrectInstanceState", "OperationNotPermitted")
    started = stage.instance(instance_id).state == rules.PENDING
    assert started == (first == "StartInstances")


async def test_a_start_that_fails_leaves_it_stopped(stage: Stage, leader: Leader, ebs_image_id: str) -> None:
    instance_id = await stopped(stage, ebs_image_id)
    zone_of(stage, instance_id).refuse[instance_id] = ("InvalidParameterValue", "no such thing")
    await stage.run("StartInstances", instance_pb2.StartInstancesRequest(instance_ids=[instance_id]))
    await eventually(lambda: stage.instance(instance_id).state_reason_code == "Server.InvalidParameterValue")
    await in_state(stage, instance_id, rules.STOPPED)


@pytest.mark.parametrize(("behavior", "state"), [("stop", rules.STOPPED), ("terminate", rules.TERMINATED)])
async def test_a_guest_that_shuts_itself_down_follows_its_shutdown_behavior(
    stage: Stage, leader: Leader, ebs_image_id: str, behavior: str, state: int
) -> None:
    instance_id = await running(stage, ebs_image_id, instance_initiated_shutdown_behavior=behavior)
    zone_of(stage, instance_id).says(instance_id, nc.VM_STATE_POWERED_OFF, generation=1)
    record = await in_state(stage, instance_id, state)
    assert record.state_reason_code == "Client.InstanceInitiatedShutdown"


async def test_what_an_instance_store_cannot_do_is_refused(stage: Stage, leader: Leader, image_id: str) -> None:
    instance_id = await launch(stage, image_id)
    for action, request in (
        ("StopInstances", instance_pb2.StopInstancesRequest(instance_ids=[instance_id])),
        ("StartInstances", instance_pb2.StartInstancesRequest(instance_ids=[instance_id])),
    ):
        with pytest.raises(CloudError) as caught:
            await stage.run(action, request)
        assert caught.value.code == "UnsupportedOperation"


async def test_what_is_protected_from_stopping_is_not_stopped(stage: Stage, leader: Leader, ebs_image_id: str) -> None:
    instance_id = await running(stage, ebs_image_id, disable_api_stop=True)
    with pytest.raises(CloudError) as caught:
        await stage.run("StopInstances", instance_pb2.StopInstancesRequest(instance_ids=[instance_id]))
    assert caught.value.code == "OperationNotPermitted"


async def test_who_starts_and_stops_at_once_ends_in_one_of_the_two(
    stage: Stage, leader: Leader, ebs_image_id: str
) -> None:
    instance_id = await running(stage, ebs_image_id)
    stop = instance_pb2.StopInstancesRequest(instance_ids=[instance_id], force=True)
    answers = await asyncio.gather(*(stage.run("StopInstances", stop) for _ in range(8)))
    assert {answer.stopping_instances[0].current_state.name for answer in answers} <= {"stopping", "stopped"}
    await in_state(stage, instance_id, rules.STOPPED)


async def test_whether_a_volume_goes_with_its_instance_can_be_changed(
    stage: Stage, leader: Leader, ebs_image_id: str
) -> None:
    instance_id = await running(stage, ebs_image_id)
    device = instance_pb2.InstanceBlockDeviceMappingSpecification(
        device_name="/dev/sda1", ebs=instance_pb2.EbsInstanceBlockDeviceSpecification(delete_on_termination=False)
    )
    request = instance_pb2.ModifyInstanceAttributeRequest(instance_id=instance_id, block_device_mappings=[device])
    await stage.run("ModifyInstanceAttribute", request)
    (volume,) = stage.cloud.attached.of(instance_id)
    assert not volume.record.attachment.delete_on_termination
    device.device_name = "/dev/sdz"
    request = instance_pb2.ModifyInstanceAttributeRequest(instance_id=instance_id, block_device_mappings=[device])
    with pytest.raises(CloudError) as caught:
        await stage.run("ModifyInstanceAttribute", request)
    assert caught.value.code == "InvalidInstanceAttributeValue"


async def test_a_launch_whose_grant_is_made_anew_hears_of_it_before_its_guest_is_up(
    stage: Stage, leader: Leader, ebs_image_id: str
) -> None:
    """Its node waits for the volume: by the grant that it was told of first it would wait in vain."""
    instance_id = await launch(stage, ebs_image_id)
    zone, (volume_id,) = zone_of(stage, instance_id), await volumes_of(stage, instance_id)
    stage.storage[stage.instance(instance_id).zone].revoked[volume_id] = 1
    await make_volumes(stage, instance_id)
    await eventually(lambda: instance_id in zone.placed)
    waiting = nc.DiskObservation(volume_id=volume_id, grant_generation=1, state=nc.DISK_STATE_PLUGGING)
    node = stage.instance(instance_id).node
    zone.says(instance_id, nc.VM_STATE_PREPARING, node=node, disks=[waiting])
    await eventually(lambda: instance_id in zone.disk_plans)
    (disk,) = zone.disk_plans[instance_id].disks
    assert (disk.volume_id, disk.grant_generation) == (volume_id, 2)

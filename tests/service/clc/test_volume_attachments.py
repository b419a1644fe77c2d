"""Volumes and the instances that have them: attached, moved, detached, outlived."""

from __future__ import annotations

import pytest

from common.errors import CloudError, InvalidArgument, WrongState
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2, volume_pb2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.reconcile import Leader
from services.clc.volume.types import GIB
from tests.eventually import eventually
from tests.service.clc.stage import Stage
from tests.service.clc.volume_requests import ZONE
from tests.service.clc.volume_stage import (
    ATTACHED,
    attach,
    attached,
    become,
    change,
    create,
    detach,
    instance,
    made,
    node_says,
    planned,
    record,
    sc,
    set_instance,
    states,
)


async def test_a_volume_is_attached_used_and_detached(stage: Stage, leader: Leader, image_id: str) -> None:
    instance_id, volume_id = await instance(stage, image_id), await made(stage)
    shown = await attach(stage, volume_id, instance_id, "xvdf")
    assert (shown.state, shown.device, shown.delete_on_termination) == ("attaching", "xvdf", False)
    assert await states(stage, volume_id) == ["in-use"]
    plan = await planned(stage, instance_id, volume_id)
    (disk,) = plan.disks
    assert (disk.slot, disk.size_bytes, disk.grant_generation, disk.root) == (5, 8 * GIB, 1, False)
    await eventually(lambda: sc(stage).volumes[volume_id].HasField("grant"))
    grant = sc(stage).volumes[volume_id].grant
    assert (grant.generation, grant.node, grant.instance_id) == (1, stage.instance(instance_id).node, instance_id)
    node_says(stage, instance_id, plan)
    await eventually(lambda: record(stage, volume_id).attachment.state == ATTACHED)
    with pytest.raises(WrongState) as refused:
        await stage.run("DeleteVolume", volume_pb2.DeleteVolumeRequest(volume_id=volume_id))
    assert refused.value.code == "VolumeInUse"

    assert (await detach(stage, volume_id)).state == "detaching"
    without = await planned(stage, instance_id)
    # It stays granted as long as the node has it.
    going = nc.DiskObservation(volume_id=volume_id, state=nc.DISK_STATE_UNPLUGGING)
    node_says(stage, instance_id, without, going)
    await leader._volumes.loops[0].idle()
    assert "revoke" not in sc(stage).names(volume_id)
    node_says(stage, instance_id, without)
    await become(stage, volume_id, "available")
    assert sc(stage).names(volume_id) == ["ensure", "grant", "revoke"]
    # The device is free again, and the next grant is a newer one.
    await attach(stage, volume_id, instance_id, "/dev/sdf")
    assert record(stage, volume_id).attachment.generation == 2


async def test_a_disk_that_the_guest_keeps_is_busy_until_it_is_forced(
    stage: Stage, leader: Leader, image_id: str
) -> None:
    volume_id, instance_id = await attached(stage, image_id)
    await detach(stage, volume_id, instance_id=instance_id, device="/dev/sdf")
    without = await planned(stage, instance_id)
    kept = nc.DiskObservation(volume_id=volume_id, state=nc.DISK_STATE_BUSY)
    node_says(stage, instance_id, without, kept)
    busy = record_pb2.ATTACHMENT_STATE_BUSY
    await eventually(lambda: record(stage, volume_id).attachment.state == busy)
    assert (await detach(stage, volume_id)).state == "busy"
    await detach(stage, volume_id, force=True)
    # Its node is told, and waited for a moment.
    plans = stage.zones[ZONE].disk_plans
    await eventually(lambda: list(plans[instance_id].forced_volume_ids) == [volume_id])
    assert plans[instance_id].revision > without.revision
    await become(stage, volume_id, "available")
    assert sc(stage).revoked[volume_id] == 1


async def test_what_a_node_said_before_it_knew_the_plan_is_no_end_of_an_attachment(
    stage: Stage, leader: Leader, image_id: str
) -> None:
    instance_id, volume_id = await instance(stage, image_id), await made(stage)
    await attach(stage, volume_id, instance_id)
    await planned(stage, instance_id, volume_id)
    await detach(stage, volume_id)
    without = await planned(stage, instance_id)
    older = nc.DiskPlan(revision=without.revision - 1)
    node_says(stage, instance_id, older)
    await leader._volumes.loops[0].idle()
    assert await states(stage, volume_id) == ["in-use"]
    node_says(stage, instance_id, without)
    await become(stage, volume_id, "available")


@pytest.mark.parametrize(
    ("what", "more", "code"),
    [
        ("attach", {"device": "/dev/sdaa"}, "InvalidParameterValue"),
        ("attach", {"device": "/dev/sda1"}, "InvalidParameterValue"),
        ("attach", {"device": "sdf"}, "InvalidParameterValue"),
        ("attach taken", {"device": "/dev/sdg"}, "VolumeInUse"),
        ("attach elsewhere", {"device": "/dev/sdg"}, "InvalidVolume.ZoneMismatch"),
        ("attach new", {"device": "/dev/sdg"}, "IncorrectState"),
        ("detach", {"instance_id": "i-00000000000000000"}, "InvalidInstanceID.NotFound"),
        ("detach", {"device": "/dev/sdg"}, "InvalidAttachment.NotFound"),
        ("detach free", {}, "IncorrectState"),
    ],
)
async def test_what_does_not_fit_is_refused_by_its_own_code(
    stage: Stage, leader: Leader, image_id: str, what: str, more: dict[str, str], code: str
) -> None:
    volume_id, instance_id = await attached(stage, image_id)
    free, elsewhere = await made(stage), await made(stage, availability_zone="us-east-1b")
    sc(stage).slow = True
    new = await create(stage)
    chosen = {"attach taken": volume_id, "attach elsewhere": elsewhere, "attach new": new, "detach": volume_id}
    subject = chosen.get(what, free)
    attaching = what.startswith("attach")
    with pytest.raises(CloudError) as refused:
        await (attach(stage, subject, instance_id, **more) if attaching else detach(stage, subject, **more))
    assert refused.value.code == code


async def test_two_that_ask_for_one_device_do_not_both_get_it(stage: Stage, leader: Leader, image_id: str) -> None:
    instance_id, one, other = await instance(stage, image_id), await made(stage), await made(stage)
    await attach(stage, one, instance_id, "/dev/sdf")
    with pytest.raises(InvalidArgument, match="Attachment point /dev/xvdf is already in use"):
        await attach(stage, other, instance_id, "/dev/xvdf")


async def test_a_volume_outlives_its_instance(stage: Stage, leader: Leader, image_id: str) -> None:
    volume_id, instance_id = await attached(stage, image_id)
    request = instance_pb2.TerminateInstancesRequest(instance_ids=[instance_id])
    await stage.run("TerminateInstances", request)
    await become(stage, volume_id, "available")
    assert sc(stage).revoked[volume_id] == 1
    other = await instance(stage, image_id)
    await attach(stage, volume_id, other)
    node_says(stage, other, await planned(stage, other, volume_id))
    await eventually(lambda: record(stage, volume_id).attachment.state == ATTACHED)


async def test_a_volume_that_goes_with_its_instance_goes(stage: Stage, leader: Leader, image_id: str) -> None:
    volume_id, instance_id = await attached(stage, image_id)
    await change(stage, volume_id, lambda draft: setattr(draft.attachment, "delete_on_termination", True))
    request = instance_pb2.TerminateInstancesRequest(instance_ids=[instance_id])
    await stage.run("TerminateInstances", request)
    await eventually(lambda: stage.cloud.store.count(record_pb2.VolumeRecord) == 0)
    assert sc(stage).names(volume_id)[-2:] == ["revoke", "delete"]


async def test_an_instance_that_moved_gets_its_volume_on_its_new_node(
    stage: Stage, leader: Leader, image_id: str
) -> None:
    volume_id, instance_id = await attached(stage, image_id)
    was = stage.instance(instance_id).node
    (other,) = set(stage.zones[ZONE].nodes) - {was}
    stored = stage.cloud.store.get(record_pb2.InstanceRecord, instance_id)
    assert stored is not None
    await set_instance(stage, instance_id, node=other)
    await eventually(lambda: sc(stage).volumes[volume_id].grant.node == other)
    assert sc(stage).volumes[volume_id].grant.generation == 2
    assert sc(stage).names(volume_id)[-3:] == ["grant", "revoke", "grant"]
    await eventually(lambda: stage.zones[ZONE].disk_plans[instance_id].disks[0].grant_generation == 2)


async def test_a_stopped_instance_keeps_its_volumes_and_its_node_does_not(
    stage: Stage, leader: Leader, image_id: str
) -> None:
    volume_id, instance_id = await attached(stage, image_id)
    await set_instance(stage, instance_id, state=record_pb2.INSTANCE_STATE_STOPPED)
    await eventually(lambda: not sc(stage).volumes[volume_id].HasField("grant"))
    assert record(stage, volume_id).attachment.state == ATTACHED
    assert record(stage, volume_id).attachment.generation == 2
    # What is attached meanwhile is at once, and can be taken off again.
    other = await made(stage)
    await attach(stage, other, instance_id, "/dev/sdg")
    await eventually(lambda: record(stage, other).attachment.state == ATTACHED)
    await detach(stage, other)
    await become(stage, other, "available")
    assert "grant" not in sc(stage).names(other)


async def test_a_grant_that_was_revoked_behind_the_records_back_is_given_anew(
    stage: Stage, leader: Leader, image_id: str
) -> None:
    instance_id, volume_id = await instance(stage, image_id), await made(stage)
    sc(stage).revoked[volume_id] = 1
    await attach(stage, volume_id, instance_id)
    await eventually(lambda: sc(stage).volumes[volume_id].grant.generation == 2)
    plans = stage.zones[ZONE].disk_plans
    await eventually(lambda: instance_id in plans and plans[instance_id].disks[0].grant_generation == 2)
    node_says(stage, instance_id, plans[instance_id])
    await eventually(lambda: record(stage, volume_id).attachment.state == ATTACHED)

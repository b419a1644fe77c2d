"""Volumes from their making to their end, with a leader, a played storage controller and a played node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from common.errors import CloudError, InvalidArgument, NoCapacity, NotFound, WrongState
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import filter_pb2, instance_pb2, tag_pb2, volume_pb2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.account.administration import find_account
from services.clc.account.delete import delete_account
from services.clc.reconcile import Leader
from services.clc.store import Changes
from services.clc.volume.types import GIB
from tests.eventually import eventually
from tests.service.clc.stage import Stage
from tests.service.clc.storage_stage import PlayedStorage
from tests.service.clc.volume_requests import ZONE, snapshot

RUNNING = nc.VM_STATE_RUNNING
ATTACHED = record_pb2.ATTACHMENT_STATE_ATTACHED


def sc(stage: Stage, zone: str = ZONE) -> PlayedStorage:
    return stage.storage[zone]


def record(stage: Stage, volume_id: str) -> record_pb2.VolumeRecord:
    stored = stage.cloud.store.get(record_pb2.VolumeRecord, volume_id)
    assert stored is not None
    return stored.record


async def create(stage: Stage, **more: Any) -> str:
    request = volume_pb2.CreateVolumeRequest(**({"availability_zone": ZONE, "size": 8} | more))
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


async def test_a_volume_is_made_as_it_was_asked_for_and_shown(stage: Stage, leader: Leader) -> None:
    sc(stage).slow = True
    tags = [tag_pb2.TagSpecification(resource_type="volume", tags=[tag_pb2.Tag(key="Name", value="data")])]
    volume_id = await create(stage, size=20, volume_type="gp3", iops=5000, throughput=500, tag_specifications=tags)
    await eventually(lambda: volume_id in sc(stage).specs)
    assert await states(stage, volume_id) == ["creating"]
    spec = sc(stage).specs[volume_id]
    assert (spec.size_bytes, spec.limits.iops, spec.limits.throughput_bytes_per_s) == (20 * GIB, 5000, 500 << 20)
    sc(stage).finish(volume_id)
    await become(stage, volume_id, "available")
    filters = [filter_pb2.Filter(name="tag:Name", values=["data"]), filter_pb2.Filter(name="size", values=["20"])]
    shown = (await stage.run("DescribeVolumes", volume_pb2.DescribeVolumesRequest(filters=filters))).volumes[0]
    assert (shown.volume_id, shown.volume_type, shown.iops, shown.throughput) == (volume_id, "gp3", 5000, 500)
    assert (shown.encrypted, shown.multi_attach_enabled, shown.availability_zone_id) == (False, False, "use1-az1")
    listed = await stage.run("DescribeTags", tag_pb2.DescribeTagsRequest())
    assert [(tag.resource_type, tag.value) for tag in listed.tags] == [("volume", "data")]


async def test_what_one_account_has_is_not_there_for_another(stage: Stage) -> None:
    volume_id = await create(stage)
    assert not (await stage.run("DescribeVolumes", volume_pb2.DescribeVolumesRequest(), caller=1)).volumes
    with pytest.raises(NotFound) as refused:
        await stage.run("DeleteVolume", volume_pb2.DeleteVolumeRequest(volume_id=volume_id), caller=1)
    assert refused.value.code == "InvalidVolume.NotFound"


async def test_a_token_makes_one_volume(stage: Stage) -> None:
    first = await create(stage, client_token="once")
    assert await create(stage, client_token="once") == first
    with pytest.raises(InvalidArgument) as refused:
        await create(stage, client_token="once", size=9)
    assert refused.value.code == "IdempotentParameterMismatch"


async def test_a_volume_of_a_snapshot_is_as_large_or_larger(stage: Stage, leader: Leader) -> None:
    snapshot_id = await snapshot(stage, gib=6)
    request = volume_pb2.CreateVolumeRequest(availability_zone=ZONE, snapshot_id=snapshot_id)
    first = await stage.run("CreateVolume", request)
    assert (first.size, first.snapshot_id) == (6, snapshot_id)
    await become(stage, first.volume_id, "available")
    assert sc(stage).specs[first.volume_id].snapshot_id == snapshot_id
    assert record(stage, await create(stage, snapshot_id=snapshot_id, size=7)).size_gib == 7
    with pytest.raises(InvalidArgument, match="smaller than snapshot"):
        await create(stage, snapshot_id=snapshot_id, size=5)


async def test_a_full_zone_is_refused_before_anything_is_written(stage: Stage) -> None:
    stage.cloud.storage[ZONE].capacity.free_bytes = 10 * GIB  # type: ignore[union-attr]
    await create(stage, size=6)
    before = stage.cloud.store.revision
    with pytest.raises(NoCapacity, match="4 GiB") as refused:
        await create(stage, size=5)
    assert refused.value.code == "InsufficientVolumeCapacity"
    assert stage.cloud.store.revision == before
    await create(stage, size=4)


async def test_an_account_has_so_many_volumes_and_no_more(stage: Stage) -> None:
    config = replace(stage.cloud.config, clc=replace(stage.cloud.config.clc, volumes_per_account=1))
    limited = Stage(replace(stage.cloud, config=config), stage.zones, stage.images, stage.callers, stage.storage)
    await create(limited)
    with pytest.raises(NoCapacity) as refused:
        await create(limited)
    assert refused.value.code == "VolumeLimitExceeded"


async def test_a_volume_that_cannot_be_made_says_why_and_can_be_deleted(stage: Stage, leader: Leader) -> None:
    sc(stage).refuse["ensure"] = NoCapacity("the zone is full")
    full = await create(stage)
    await become(stage, full, "error")
    assert record(stage, full).reason_code == "InsufficientVolumeCapacity"
    del sc(stage).refuse["ensure"]
    sc(stage).slow = True
    broken = await create(stage)
    await eventually(lambda: broken in sc(stage).specs)
    sc(stage).fails(broken, "InternalError", "the disk is gone")
    await become(stage, broken, "error")
    assert record(stage, broken).reason_message == "the disk is gone"
    sc(stage).slow = False
    for volume_id in (full, broken):
        await stage.run("DeleteVolume", volume_pb2.DeleteVolumeRequest(volume_id=volume_id))
    await eventually(lambda: stage.cloud.store.count(record_pb2.VolumeRecord) == 0)


async def test_a_deleted_volume_goes_when_nothing_of_it_is_left(stage: Stage, leader: Leader) -> None:
    volume_id = await made(stage, client_token="once")
    sc(stage).slow = True
    await stage.run("DeleteVolume", volume_pb2.DeleteVolumeRequest(volume_id=volume_id))
    await stage.run("DeleteVolume", volume_pb2.DeleteVolumeRequest(volume_id=volume_id))
    assert await states(stage, volume_id) == ["deleting"]
    await eventually(lambda: "delete" in sc(stage).names(volume_id))
    sc(stage).gone(volume_id)
    await eventually(lambda: stage.cloud.store.count(record_pb2.VolumeRecord) == 0)
    assert stage.cloud.store.count(record_pb2.ClientTokenRecord) == 0


async def test_a_volume_waits_for_the_snapshots_of_it_before_it_goes(stage: Stage, leader: Leader) -> None:
    volume_id = await made(stage)
    snapshot_id = await snapshot(stage)
    await _set_snapshot(stage, snapshot_id, volume_id, record_pb2.SNAPSHOT_STATE_PENDING)
    await stage.run("DeleteVolume", volume_pb2.DeleteVolumeRequest(volume_id=volume_id))
    await leader._volumes.loops[0].idle()
    assert "delete" not in sc(stage).names(volume_id)
    await _set_snapshot(stage, snapshot_id, volume_id, record_pb2.SNAPSHOT_STATE_COMPLETED)
    await eventually(lambda: stage.cloud.store.count(record_pb2.VolumeRecord) == 0)


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
    await _set(stage, volume_id, lambda draft: setattr(draft.attachment, "delete_on_termination", True))
    request = instance_pb2.TerminateInstancesRequest(instance_ids=[instance_id])
    await stage.run("TerminateInstances", request)
    await eventually(lambda: stage.cloud.store.count(record_pb2.VolumeRecord) == 0)
    assert sc(stage).names(volume_id)[-2:] == ["revoke", "delete"]


async def test_a_volume_grows_while_it_is_used(stage: Stage, leader: Leader, image_id: str) -> None:
    volume_id, instance_id = await attached(stage, image_id)
    sc(stage).slow = True
    request = volume_pb2.ModifyVolumeRequest(volume_id=volume_id, size=16, volume_type="gp3")
    shown = (await stage.run("ModifyVolume", request)).volume_modification
    assert (shown.modification_state, shown.original_size, shown.target_size) == ("modifying", 8, 16)
    assert (shown.target_iops, shown.target_throughput, shown.progress) == (3000, 128, 0)
    with pytest.raises(WrongState, match="cannot be modified in modification state MODIFYING") as refused:
        await stage.run("ModifyVolume", request)
    assert refused.value.code == "IncorrectModificationState"
    await eventually(lambda: sc(stage).specs[volume_id].size_bytes == 16 * GIB)
    assert record(stage, volume_id).size_gib == 8
    sc(stage).finish(volume_id)
    optimizing = record_pb2.MODIFICATION_STATE_OPTIMIZING
    await eventually(lambda: record(stage, volume_id).modification.state == optimizing)
    assert (record(stage, volume_id).size_gib, record(stage, volume_id).volume_type) == (16, "gp3")
    plans = stage.zones[ZONE].disk_plans
    await eventually(lambda: plans[instance_id].disks[0].size_bytes == 16 * GIB)
    node_says(stage, instance_id, plans[instance_id])
    completed = record_pb2.MODIFICATION_STATE_COMPLETED
    await eventually(lambda: record(stage, volume_id).modification.state == completed)
    asked = volume_pb2.DescribeVolumesModificationsRequest(volume_ids=[volume_id])
    (told,) = (await stage.run("DescribeVolumesModifications", asked)).volumes_modifications
    assert (told.progress, told.HasField("end_time")) == (100, True)


async def test_a_change_that_finds_no_room_fails_and_leaves_the_volume_as_it_was(stage: Stage, leader: Leader) -> None:
    volume_id = await made(stage)
    sc(stage).refuse["ensure"] = NoCapacity("the zone is full")
    await stage.run("ModifyVolume", volume_pb2.ModifyVolumeRequest(volume_id=volume_id, size=16))
    failed = record_pb2.MODIFICATION_STATE_FAILED
    await eventually(lambda: record(stage, volume_id).modification.state == failed)
    del sc(stage).refuse["ensure"]
    await eventually(lambda: sc(stage).volumes[volume_id].generation == record(stage, volume_id).generation)
    assert record(stage, volume_id).size_gib == 8
    assert sc(stage).specs[volume_id].size_bytes == 8 * GIB


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"size": 7}, "InvalidParameterValue"),
        ({"size": 20_000}, "InvalidParameterValue"),
        ({"iops": 4000}, "InvalidParameterCombination"),
        ({"volume_type": "st1"}, "InvalidParameterValue"),
        ({}, "InvalidParameterCombination"),
    ],
)
async def test_a_change_that_its_type_does_not_take_is_refused(
    stage: Stage, leader: Leader, more: dict[str, Any], code: str
) -> None:
    volume_id = await made(stage)
    with pytest.raises(InvalidArgument) as refused:
        await stage.run("ModifyVolume", volume_pb2.ModifyVolumeRequest(volume_id=volume_id, **more))
    assert refused.value.code == code


async def test_silence_moves_nothing_and_what_was_missed_is_caught_up(
    stage: Stage, leader: Leader, image_id: str
) -> None:
    volume_id, _ = await attached(stage, image_id)
    sc(stage).away = True
    waiting = await create(stage)
    await leader._volumes.loops[0].idle()
    assert await states(stage, volume_id, waiting) == ["in-use", "creating"]
    sc(stage).away = False
    await become(stage, waiting, "available")


async def test_an_instance_that_moved_gets_its_volume_on_its_new_node(
    stage: Stage, leader: Leader, image_id: str
) -> None:
    volume_id, instance_id = await attached(stage, image_id)
    was = stage.instance(instance_id).node
    (other,) = set(stage.zones[ZONE].nodes) - {was}
    stored = stage.cloud.store.get(record_pb2.InstanceRecord, instance_id)
    assert stored is not None
    await _set_instance(stage, instance_id, node=other)
    await eventually(lambda: sc(stage).volumes[volume_id].grant.node == other)
    assert sc(stage).volumes[volume_id].grant.generation == 2
    assert sc(stage).names(volume_id)[-3:] == ["grant", "revoke", "grant"]
    await eventually(lambda: stage.zones[ZONE].disk_plans[instance_id].disks[0].grant_generation == 2)


async def test_a_stopped_instance_keeps_its_volumes_and_its_node_does_not(
    stage: Stage, leader: Leader, image_id: str
) -> None:
    volume_id, instance_id = await attached(stage, image_id)
    await _set_instance(stage, instance_id, state=record_pb2.INSTANCE_STATE_STOPPED)
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


async def test_a_volume_that_no_record_owns_is_removed(stage: Stage, leader: Leader) -> None:
    sc(stage).says("vol-00000000000000bad", state=1)
    await eventually(lambda: not sc(stage).volumes)


async def test_status_says_what_the_storage_says(stage: Stage, leader: Leader) -> None:
    volume_id = await made(stage)

    async def status() -> str:
        asked = volume_pb2.DescribeVolumeStatusRequest(volume_ids=[volume_id])
        return str((await stage.run("DescribeVolumeStatus", asked)).volume_statuses[0].volume_status.status)

    assert await status() == "ok"
    stage.cloud.storage[ZONE].volumes.pop(volume_id)
    assert await status() == "insufficient-data"


async def test_the_volumes_of_an_account_go_with_it(stage: Stage, leader: Leader, image_id: str) -> None:
    volume_id, _ = await attached(stage, image_id)
    account = find_account(stage.cloud.store, stage.callers[1].account_id)
    assert account is not None
    assert record(stage, volume_id)
    asked = volume_pb2.CreateVolumeRequest(availability_zone=ZONE, size=1)
    await stage.run("CreateVolume", asked, caller=1)
    with pytest.raises(WrongState, match="volumes"):
        await delete_account(stage.cloud, account, force=False)
    await delete_account(stage.cloud, account, force=True)
    await eventually(lambda: len(sc(stage).volumes) == 1)
    await eventually(lambda: stage.cloud.store.count(record_pb2.AccountRecord) == 1)


async def _set(stage: Stage, volume_id: str, change: Any) -> None:
    stored = stage.cloud.store.get(record_pb2.VolumeRecord, volume_id)
    assert stored is not None
    draft = stored.draft()
    change(draft)
    await _commit(stage, stored, draft)


async def _set_instance(stage: Stage, instance_id: str, **fields: Any) -> None:
    stored = stage.cloud.store.get(record_pb2.InstanceRecord, instance_id)
    assert stored is not None
    draft = stored.draft()
    for name, value in fields.items():
        setattr(draft, name, value)
    await _commit(stage, stored, draft)


async def _set_snapshot(stage: Stage, snapshot_id: str, volume_id: str, state: Any) -> None:
    stored = stage.cloud.store.get(record_pb2.SnapshotRecord, snapshot_id)
    assert stored is not None
    draft = stored.draft()
    draft.volume_id, draft.state = volume_id, state
    await _commit(stage, stored, draft)


async def _commit(stage: Stage, stored: Any, draft: Any) -> None:
    changes = Changes()
    changes.update(stored, draft)
    await stage.cloud.store.commit(changes)

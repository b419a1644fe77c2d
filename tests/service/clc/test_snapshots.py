"""Snapshots from their making to their end, with a leader and a played storage controller."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import CloudError, NotFound, Unavailable
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2, snapshot_pb2, tag_pb2
from mallee.ec2.v1.filter_pb2 import Filter
from mallee.sc.v1 import volume_pb2 as volumes
from services.clc.account.administration import find_account
from services.clc.account.delete import delete_account
from services.clc.reconcile import Leader
from services.clc.snapshot import rules
from tests.eventually import eventually
from tests.service.clc.snapshot_requests import (
    ZONE,
    image_of_a_snapshot,
    import_snapshot_task,
    on_volumes,
    snapshot,
    snapshot_record,
    store,
    volume,
    volume_record,
)
from tests.service.clc.stage import Stage

ALICE, BOB = 0, 1


def record(stage: Stage, snapshot_id: str) -> record_pb2.SnapshotRecord | None:
    stored = stage.cloud.store.get(record_pb2.SnapshotRecord, snapshot_id)
    return stored.record if stored is not None else None


async def create(stage: Stage, volume_id: str) -> Any:
    return await stage.run("CreateSnapshot", snapshot_pb2.CreateSnapshotRequest(volume_id=volume_id))


async def shown(stage: Stage, *, caller: int = ALICE, **more: Any) -> list[Any]:
    request = snapshot_pb2.DescribeSnapshotsRequest(**more)
    return list((await stage.run("DescribeSnapshots", request, caller=caller)).snapshots)


async def delete(stage: Stage, snapshot_id: str, *, caller: int = ALICE) -> None:
    await stage.run("DeleteSnapshot", snapshot_pb2.DeleteSnapshotRequest(snapshot_id=snapshot_id), caller=caller)


async def refused(code: str, asked: Any) -> CloudError:
    with pytest.raises(CloudError) as caught:
        await asked
    assert caught.value.code == code
    return caught.value


async def completed(stage: Stage, snapshot_id: str) -> None:
    def is_it() -> bool:
        found = record(stage, snapshot_id)
        return found is not None and found.state == rules.COMPLETED

    await eventually(is_it)


async def test_the_point_in_time_stands_before_the_answer_and_progress_is_told(stage: Stage, leader: Leader) -> None:
    sc = stage.storage[ZONE]
    sc.busy = True
    made = await create(stage, await volume(stage))
    assert sc.points == [[made.snapshot_id]]
    assert (made.state, made.volume_size, made.progress) == ("pending", 8, "")
    sc.progresses(made.snapshot_id, 42)
    await eventually(lambda: (r := record(stage, made.snapshot_id)) is not None and r.progress_percent == 42)
    (seen,) = await shown(stage, filters=[Filter(name="progress", values=["42%"])])
    assert seen.state == "pending"
    sc.progresses(made.snapshot_id, 7)
    sc.completes(made.snapshot_id)
    await completed(stage, made.snapshot_id)
    (seen,) = await shown(stage, snapshot_ids=[made.snapshot_id])
    assert (seen.state, seen.progress, seen.full_snapshot_size_in_bytes) == ("completed", "100%", 1 << 20)
    assert seen.HasField("completion_time")
    assert sc.points == [[made.snapshot_id]]


async def test_without_a_point_in_time_there_is_no_snapshot(stage: Stage, leader: Leader) -> None:
    volume_id = await volume(stage)
    stage.storage[ZONE].broken = Unavailable("gone for a moment")
    await refused("Unavailable", create(stage, volume_id))
    assert await shown(stage) == []
    stage.storage[ZONE].broken = None
    await eventually(lambda: not list(stage.cloud.store.all(record_pb2.SnapshotRecord)))


async def test_a_call_that_died_is_finished_by_the_leader(stage: Stage, leader: Leader) -> None:
    its_volumes = [volume_record(stage) for _ in range(2)]
    pending = [
        snapshot_record(
            stage, state=rules.PENDING, volume_id=its.volume_id, progress_percent=0, request_id="r-died", zone=ZONE
        )
        for its in its_volumes
    ]
    stage.now += 60
    await store(stage, *its_volumes, *pending)
    for its in pending:
        await completed(stage, its.snapshot_id)
    assert sorted(stage.storage[ZONE].points[0]) == sorted(its.snapshot_id for its in pending)


async def test_what_no_record_owns_is_taken_away(stage: Stage, leader: Leader) -> None:
    """It was deleted while its point in time was on its way: the order came after the one to forget it."""
    sc, late = stage.storage[ZONE], "snap-0123456789abcdef9"
    mine = await create(stage, await volume(stage))
    await completed(stage, mine.snapshot_id)
    sc.completes(late)
    await eventually(lambda: late not in sc.snapshots)
    assert record(stage, mine.snapshot_id) is not None


async def test_what_the_storage_controller_never_does_ends_in_error(stage: Stage, leader: Leader) -> None:
    lost = snapshot_record(stage, state=rules.PENDING, progress_percent=0, zone=ZONE)
    stage.now += 60
    stage.storage[ZONE].broken = NotFound("no such volume", code="InvalidVolume.NotFound")
    await store(stage, lost)
    await eventually(lambda: (r := record(stage, lost.snapshot_id)) is not None and r.state == rules.ERROR)
    (seen,) = await shown(stage)
    assert (seen.state, seen.state_message) == ("error", "no such volume")
    await delete(stage, lost.snapshot_id)
    await eventually(lambda: record(stage, lost.snapshot_id) is None)


async def test_what_has_ended_is_not_kept_for_us_any_more(stage: Stage, leader: Leader) -> None:
    sc = stage.storage[ZONE]
    made = (await create(stage, await volume(stage))).snapshot_id
    await eventually(lambda: made in sc.settled)
    sc.busy = True
    lost = (await create(stage, await volume(stage))).snapshot_id
    assert lost not in sc.settled
    sc.loses(lost, "InsufficientCapacity", "The object store is full.")
    await eventually(lambda: lost in sc.settled)
    assert {its.snapshot_id: its.state for its in await shown(stage)} == {made: "completed", lost: "error"}


async def test_an_upload_that_fails_says_why(stage: Stage, leader: Leader) -> None:
    sc = stage.storage[ZONE]
    sc.busy = True
    made = await create(stage, await volume(stage))
    sc.loses(made.snapshot_id, "InternalError", "the point is lost")
    await eventually(lambda: (r := record(stage, made.snapshot_id)) is not None and r.state == rules.ERROR)
    assert (await shown(stage))[0].state_message == "the point is lost"


async def test_all_volumes_of_an_instance_have_one_point_in_time(stage: Stage) -> None:
    instance_id, attached = await on_volumes(stage)
    zone = stage.instance(instance_id).zone

    async def create_all(**which: Any) -> list[Any]:
        wanted = snapshot_pb2.InstanceSpecification(instance_id=instance_id, **which)
        request = snapshot_pb2.CreateSnapshotsRequest(instance_specification=wanted, copy_tags_from_source="volume")
        return list((await stage.run("CreateSnapshots", request)).snapshots)

    every = await create_all()
    assert [s.volume_id for s in every] == attached
    assert stage.storage[zone].points == [[s.snapshot_id for s in every]]
    assert [tag.value for s in every for tag in s.tags] == ["/dev/sda1", "/dev/sdf", "/dev/sdg"]
    assert [s.volume_id for s in await create_all(exclude_boot_volume=True)] == attached[1:]
    assert [s.volume_id for s in await create_all(exclude_data_volume_ids=attached[1:])] == attached[:1]
    await refused("InvalidParameterValue", create_all(exclude_data_volume_ids=attached[:1]))
    await refused("InvalidParameterValue", create_all(exclude_boot_volume=True, exclude_data_volume_ids=attached[1:]))


async def test_a_volume_has_five_snapshots_under_way_at_most(stage: Stage) -> None:
    stage.storage[ZONE].busy = True
    slow, volume_id = volume_record(stage, volume_type="st1", size_gib=125), await volume(stage)
    await store(stage, slow)
    for _ in range(5):
        await create(stage, volume_id)
    await refused("ConcurrentSnapshotLimitExceeded", create(stage, volume_id))
    await create(stage, slow.volume_id)
    await refused("ConcurrentSnapshotLimitExceeded", create(stage, slow.volume_id))


async def test_a_volume_that_is_not_there_yet_has_no_snapshot(stage: Stage) -> None:
    for state in (record_pb2.VOLUME_STATE_CREATING, record_pb2.VOLUME_STATE_DELETING, record_pb2.VOLUME_STATE_ERROR):
        its = volume_record(stage, state=state)
        await store(stage, its)
        await refused("IncorrectState", create(stage, its.volume_id))


async def test_an_image_keeps_its_snapshot(stage: Stage, leader: Leader) -> None:
    image_id = await image_of_a_snapshot(stage)
    (its,) = await shown(stage)
    told = await refused("InvalidSnapshot.InUse", delete(stage, its.snapshot_id))
    assert told.message == f"The snapshot {its.snapshot_id} is currently in use by {image_id}"
    await stage.run("DeregisterImage", image_pb2.DeregisterImageRequest(image_id=image_id))
    await delete(stage, its.snapshot_id)
    await eventually(lambda: record(stage, its.snapshot_id) is None)
    assert its.snapshot_id in stage.images.forgotten
    assert list(stage.cloud.store.claims("snapshot-use/")) == []


async def test_a_deleted_snapshot_is_gone_at_once_for_everybody(stage: Stage) -> None:
    its = await snapshot(stage)
    await delete(stage, its)
    await refused("InvalidSnapshot.NotFound", delete(stage, its))
    await refused("InvalidSnapshot.NotFound", shown(stage, snapshot_ids=[its]))
    assert await shown(stage) == []


async def test_a_snapshot_goes_when_nothing_reads_it_any_more(stage: Stage, leader: Leader) -> None:
    its = await snapshot(stage)
    fetching = volume_record(stage, snapshot_id=its)
    await store(stage, fetching)
    sc, heard = stage.storage[ZONE], stage.cloud.storage[ZONE].volumes
    sc.says(fetching.volume_id, state=volumes.VOLUME_STATE_AVAILABLE, missing_bytes=512)
    await eventually(lambda: fetching.volume_id in heard)
    await delete(stage, its)
    await leader._snapshots.loops[0].idle()
    assert its not in stage.images.forgotten
    del sc.volumes[fetching.volume_id]
    sc.says(fetching.volume_id, state=volumes.VOLUME_STATE_AVAILABLE)
    await eventually(lambda: its in stage.images.forgotten)
    await eventually(lambda: record(stage, its) is None)


async def test_a_copy_is_whole_by_itself(stage: Stage, leader: Leader) -> None:
    source = await snapshot(stage)
    request = snapshot_pb2.CopySnapshotRequest(
        source_region="us-east-1", source_snapshot_id=source, description="second", presigned_url="http://x/"
    )
    copied = (await stage.run("CopySnapshot", request)).snapshot_id
    await delete(stage, source)
    await completed(stage, copied)
    assert stage.images.copies == {copied: source}
    await eventually(lambda: record(stage, source) is None)
    (seen,) = await shown(stage)
    assert (seen.volume_id, seen.volume_size, seen.transfer_type) == ("vol-ffffffff", 8, "standard")
    request.source_region = "eu-west-1"
    await refused("InvalidParameterValue", stage.run("CopySnapshot", request))


async def test_only_what_is_completed_is_copied(stage: Stage) -> None:
    its = snapshot_record(stage, state=rules.PENDING)
    await store(stage, its)
    request = snapshot_pb2.CopySnapshotRequest(source_region="us-east-1", source_snapshot_id=its.snapshot_id)
    await refused("IncorrectState", stage.run("CopySnapshot", request))


@pytest.mark.parametrize("everybody", [True, False])
async def test_a_snapshot_is_shared_and_withdrawn(stage: Stage, everybody: bool) -> None:
    its, bob = await snapshot(stage), stage.callers[BOB].account_id
    grant = snapshot_pb2.CreateVolumePermission(group="all")
    if not everybody:
        grant = snapshot_pb2.CreateVolumePermission(user_id=bob)
    tag = tag_pb2.CreateTagsRequest(resources=[its], tags=[tag_pb2.Tag(key="secret", value="x")])
    await stage.run("CreateTags", tag)
    assert await shown(stage, caller=BOB) == []
    for change, visible in (("add", True), ("remove", False)):
        changes = snapshot_pb2.CreateVolumePermissionModifications(**{change: [grant]})
        request = snapshot_pb2.ModifySnapshotAttributeRequest(snapshot_id=its, create_volume_permission=changes)
        await stage.run("ModifySnapshotAttribute", request)
        asked = snapshot_pb2.DescribeSnapshotAttributeRequest(snapshot_id=its, attribute="createVolumePermission")
        permissions = (await stage.run("DescribeSnapshotAttribute", asked)).create_volume_permissions
        assert list(permissions) == ([grant] if visible else [])
        who, alice = "all" if everybody else "self", stage.callers[ALICE].account_id
        restorable = await shown(stage, caller=BOB, restorable_by_user_ids=[who], owner_ids=[alice])
        assert [(s.snapshot_id, list(s.tags)) for s in restorable] == ([(its, [])] if visible else [])
        code = "AuthFailure" if visible else "InvalidSnapshot.NotFound"
        for action, meddling in (
            ("DeleteSnapshot", snapshot_pb2.DeleteSnapshotRequest(snapshot_id=its)),
            ("ModifySnapshotAttribute", request),
            ("DescribeSnapshotAttribute", asked),
        ):
            await refused(code, stage.run(action, meddling, caller=BOB))
        copy = snapshot_pb2.CopySnapshotRequest(source_region="us-east-1", source_snapshot_id=its)
        if visible:
            assert (await stage.run("CopySnapshot", copy, caller=BOB)).snapshot_id
            (own,) = await shown(stage, caller=BOB, owner_ids=["self"])
            assert own.owner_id == bob
        else:
            await refused("InvalidSnapshot.NotFound", stage.run("CopySnapshot", copy, caller=BOB))


async def test_an_account_takes_its_snapshots_and_tasks_along(stage: Stage, leader: Leader) -> None:
    bob = stage.of_the_other()
    bob.storage[ZONE].busy = bob.storage["us-east-1b"].busy = True
    await image_of_a_snapshot(bob)
    await import_snapshot_task(bob)
    account = find_account(stage.cloud.store, "bob")
    with pytest.raises(CloudError, match="has snapshots"):
        await delete_account(stage.cloud, account, force=False)
    await delete_account(stage.cloud, account, force=True)
    await eventually(lambda: stage.cloud.store.get(record_pb2.AccountRecord, account.record.account_id) is None)
    assert stage.cloud.store.count(record_pb2.SnapshotRecord) == stage.cloud.store.count(record_pb2.TaskRecord) == 0

"""Volumes from their making to their end, with a leader, a played storage controller and a played node."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from common.errors import InvalidArgument, NoCapacity, NotFound, WrongState
from common.patience import ROOM_PATIENCE_S
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import filter_pb2, tag_pb2, volume_pb2
from services.clc import idempotency
from services.clc.account.administration import find_account
from services.clc.account.delete import delete_account
from services.clc.reconcile import Leader
from services.clc.volume.types import GIB
from tests.eventually import eventually
from tests.service.clc.stage import Stage
from tests.service.clc.volume_requests import ZONE, snapshot
from tests.service.clc.volume_stage import (
    attached,
    become,
    create,
    made,
    node_says,
    record,
    sc,
    set_snapshot,
    states,
)


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


async def test_a_volume_that_was_admitted_waits_for_room(stage: Stage, leader: Leader) -> None:
    sc(stage).away = True
    volume_id = await create(stage)
    sc(stage).refuse["ensure"] = NoCapacity("the zone is full")
    # That nobody answered does not count.
    stage.now += ROOM_PATIENCE_S
    sc(stage).away = False
    await eventually(lambda: sc(stage).names(volume_id).count("ensure") > 1)
    assert await states(stage, volume_id) == ["creating"]
    del sc(stage).refuse["ensure"]
    await become(stage, volume_id, "available")


async def test_the_last_places_go_to_so_many_and_no_more(stage: Stage) -> None:
    config = replace(stage.cloud.config, clc=replace(stage.cloud.config.clc, volumes_per_account=2))
    limited = Stage(replace(stage.cloud, config=config), stage.zones, stage.images, stage.callers, stage.storage)
    answers = await asyncio.gather(*(create(limited) for _ in range(4)), return_exceptions=True)
    refused = [answer.code for answer in answers if isinstance(answer, NoCapacity)]
    assert refused == ["VolumeLimitExceeded"] * 2
    assert len(list(stage.cloud.store.all(record_pb2.VolumeRecord))) == 2


async def test_a_volume_that_cannot_be_made_says_why_and_can_be_deleted(stage: Stage, leader: Leader) -> None:
    sc(stage).refuse["ensure"] = NoCapacity("the zone is full")
    full = await create(stage)
    await eventually(lambda: sc(stage).names(full).count("ensure") > 1)
    stage.now += ROOM_PATIENCE_S
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


async def test_the_token_of_a_deleted_volume_makes_no_other_for_a_day(stage: Stage, leader: Leader) -> None:
    volume_id = await made(stage, client_token="once")
    await stage.run("DeleteVolume", volume_pb2.DeleteVolumeRequest(volume_id=volume_id))
    await eventually(lambda: stage.cloud.store.count(record_pb2.VolumeRecord) == 0)
    assert await create(stage, client_token="once") == volume_id
    with pytest.raises(InvalidArgument) as refused:
        await create(stage, client_token="once", size=9)
    assert refused.value.code == "IdempotentParameterMismatch"
    await idempotency.sweep(stage.cloud)
    assert stage.cloud.store.count(record_pb2.ClientTokenRecord) == 1
    later = stage.cloud.clock() + 25 * 3600
    await idempotency.sweep(replace(stage.cloud, clock=lambda: later))
    assert stage.cloud.store.count(record_pb2.ClientTokenRecord) == 0


async def test_a_volume_waits_for_the_snapshots_of_it_before_it_goes(stage: Stage, leader: Leader) -> None:
    volume_id = await made(stage)
    snapshot_id = await snapshot(stage)
    await set_snapshot(stage, snapshot_id, volume_id, record_pb2.SNAPSHOT_STATE_PENDING)
    await stage.run("DeleteVolume", volume_pb2.DeleteVolumeRequest(volume_id=volume_id))
    await leader._volumes.loops[0].idle()
    assert "delete" not in sc(stage).names(volume_id)
    await set_snapshot(stage, snapshot_id, volume_id, record_pb2.SNAPSHOT_STATE_COMPLETED)
    await eventually(lambda: stage.cloud.store.count(record_pb2.VolumeRecord) == 0)


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


async def test_a_change_that_takes_its_time_is_ordered_now_and_then(stage: Stage, leader: Leader) -> None:
    volume_id = await made(stage)
    sc(stage).slow = True
    before = sc(stage).names(volume_id).count("ensure")
    await stage.run("ModifyVolume", volume_pb2.ModifyVolumeRequest(volume_id=volume_id, size=16))
    await eventually(lambda: sc(stage).names(volume_id).count("ensure") > before)
    async with asyncio.timeout(15):
        await leader._volumes.loops[0].idle()
    sc(stage).finish(volume_id)
    await eventually(lambda: record(stage, volume_id).size_gib == 16)


async def test_a_change_that_finds_no_room_fails_and_leaves_the_volume_as_it_was(stage: Stage, leader: Leader) -> None:
    volume_id = await made(stage)
    sc(stage).refuse["ensure"] = NoCapacity("the zone is full")
    await stage.run("ModifyVolume", volume_pb2.ModifyVolumeRequest(volume_id=volume_id, size=16))
    tried = sc(stage).names(volume_id).count("ensure")
    await eventually(lambda: sc(stage).names(volume_id).count("ensure") > tried + 1)
    assert record(stage, volume_id).modification.state == record_pb2.MODIFICATION_STATE_MODIFYING
    stage.now += ROOM_PATIENCE_S
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
        ({}, "InvalidParameterValue"),
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

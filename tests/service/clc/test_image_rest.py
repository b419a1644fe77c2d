"""Images of running instances: the guest is down when their point in time is fixed, and boots afterwards."""

from __future__ import annotations

import asyncio

import pytest

from common.errors import CloudError, NotFound, Unavailable
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.snapshot import rules
from services.clc.store import Changes
from tests.eventually import eventually
from tests.service.clc.snapshot_requests import on_volumes
from tests.service.clc.stage import PlayedZone, Stage
from tests.service.clc.storage_stage import PlayedStorage
from tests.service.clc.test_images_of_snapshots import AVAILABLE, FAILED, become, shown, take
from tests.service.clc.test_snapshot_leaders import leading

# More than the rest, the point and the image need.
WRITES = 6


async def running(stage: Stage) -> tuple[str, PlayedZone, PlayedStorage]:
    instance_id, _ = await on_volumes(stage)
    zone = stage.instance(instance_id).zone
    return instance_id, stage.zones[zone], stage.storage[zone]


def point_of(stage: Stage, image_id: str) -> int:
    stored = stage.cloud.store.get(record_pb2.ImageRecord, image_id)
    assert stored is not None
    return stored.record.point


async def test_the_point_is_fixed_while_the_guest_is_down(stage: Stage) -> None:
    instance_id, zone, sc = await running(stage)
    zone.shuts_down = False
    image_id = await take(stage, instance_id, no_reboot=False)
    async with leading(stage):
        await eventually(lambda: zone.rests.get(instance_id))
        assert (sc.points, (await shown(stage, image_id)).state) == ([], "pending")
        zone.resting.add(instance_id)
        zone.says(instance_id, nc.VM_STATE_RUNNING, at_rest=True)
        await become(stage, image_id, AVAILABLE)
        await eventually(lambda: not point_of(stage, image_id))
    (point,) = sc.points
    assert [d.ebs.snapshot_id for d in (await shown(stage, image_id)).block_device_mappings] == point
    assert zone.rests[instance_id][-1] == 0
    assert instance_id not in zone.resting
    assert stage.instance(instance_id).state == record_pb2.INSTANCE_STATE_RUNNING


@pytest.mark.parametrize("no_reboot", [True, False])
async def test_a_guest_that_may_not_reboot_is_left_alone(stage: Stage, no_reboot: bool) -> None:
    instance_id, zone, sc = await running(stage)
    image_id = await take(stage, instance_id, no_reboot=no_reboot)
    async with leading(stage):
        await become(stage, image_id, AVAILABLE)
    assert len(sc.points) == 1
    assert bool(zone.rests) is not no_reboot


async def test_a_stopped_guest_needs_no_rest(stage: Stage) -> None:
    instance_id, zone, sc = await running(stage)
    image_id = await take(stage, instance_id, no_reboot=False)
    stored = stage.cloud.store.get(record_pb2.InstanceRecord, instance_id)
    assert stored is not None
    draft = stored.draft()
    draft.state = record_pb2.INSTANCE_STATE_STOPPED
    changes = Changes()
    changes.update(stored, draft)
    await stage.cloud.store.commit(changes)
    async with leading(stage):
        await become(stage, image_id, AVAILABLE)
        await eventually(lambda: not point_of(stage, image_id))
    assert len(sc.points) == 1
    assert not zone.rests


async def test_a_guest_wakes_when_the_last_image_has_its_point(stage: Stage) -> None:
    instance_id, zone, sc = await running(stage)
    first = await take(stage, instance_id, no_reboot=False)
    second = await take(stage, instance_id, no_reboot=False, name="second")
    async with leading(stage):
        await become(stage, first, AVAILABLE)
        await become(stage, second, AVAILABLE)
        await eventually(lambda: not point_of(stage, first) and not point_of(stage, second))
    assert len(sc.points) == 2
    assert instance_id not in zone.resting


async def test_a_guest_that_cannot_be_shut_down_makes_no_image(stage: Stage) -> None:
    instance_id, zone, sc = await running(stage)
    zone.shuts_down = False
    image_id = await take(stage, instance_id, no_reboot=False)
    stage.now += 1000
    async with leading(stage):
        await become(stage, image_id, FAILED)
        await eventually(lambda: not point_of(stage, image_id))
    assert "could not be shut down" in (await shown(stage, image_id)).state_reason.message
    assert {its.record.state for its in stage.cloud.store.all(record_pb2.SnapshotRecord)} == {rules.ERROR}
    assert (sc.points, zone.rests[instance_id][-1]) == ([], 0)


@pytest.mark.parametrize(("error", "state"), [(Unavailable("not now"), AVAILABLE), (NotFound("no volume"), FAILED)])
async def test_a_storage_controller_that_is_away_is_waited_for_and_one_that_refuses_is_not(
    stage: Stage, error: CloudError, state: int
) -> None:
    instance_id, zone, sc = await running(stage)
    image_id = await take(stage, instance_id, no_reboot=False)
    sc.broken = error
    async with leading(stage):
        await eventually(lambda: zone.rests.get(instance_id))
        if state == AVAILABLE:
            await eventually(lambda: len(zone.rests[instance_id]) > 2)
            sc.broken = None
        await become(stage, image_id, state)
        await eventually(lambda: not point_of(stage, image_id))
    assert instance_id not in zone.resting


async def test_nobody_rests_for_an_image_that_is_not_wanted_any_more(stage: Stage) -> None:
    instance_id, zone, sc = await running(stage)
    image_id = await take(stage, instance_id, no_reboot=False)
    zone.resting.add(instance_id)
    await stage.run("DeregisterImage", image_pb2.DeregisterImageRequest(image_id=image_id))
    async with leading(stage):
        await eventually(lambda: stage.cloud.store.get(record_pb2.ImageRecord, image_id) is None)
    assert (sc.points, zone.rests[instance_id]) == ([], [0])


@pytest.mark.parametrize("dies", ["before it", "after it"])
@pytest.mark.parametrize("at", range(1, WRITES + 1))
async def test_the_next_leader_ends_what_one_began(stage: Stage, at: int, dies: str) -> None:
    instance_id, zone, sc = await running(stage)
    image_id = await take(stage, instance_id, no_reboot=False)
    commit, written, dead = stage.cloud.store.commit, 0, asyncio.Event()

    async def dying_commit(changes: Changes) -> int:
        nonlocal written
        written += 1
        revision = await commit(changes) if dies == "after it" or written < at else 0
        if written >= at:
            dead.set()
            await asyncio.Event().wait()
        return revision

    def settled() -> bool:
        stored = stage.cloud.store.get(record_pb2.ImageRecord, image_id)
        return stored is not None and stored.record.state == AVAILABLE and not stored.record.point

    stage.cloud.store.commit = dying_commit  # type: ignore[method-assign]
    async with leading(stage):
        await eventually(lambda: dead.is_set() or settled())
    stage.cloud.store.commit = commit  # type: ignore[method-assign]
    async with leading(stage):
        await eventually(settled)
    # Asked again, it is the same point: what stands is not fixed anew.
    assert len({tuple(point) for point in sc.points}) == 1
    assert instance_id not in zone.resting
    assert zone.rests[instance_id][-1] == 0

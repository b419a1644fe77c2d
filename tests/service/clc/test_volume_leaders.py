"""A leader that dies between any two steps of a volume's life: the next one ends what it began."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from common.etcd.election import Leadership
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import volume_pb2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.reconcile import Leader
from services.clc.volume.types import GIB
from tests.eventually import eventually
from tests.service.clc.stage import Stage
from tests.service.clc.volume_requests import ZONE
from tests.service.clc.volume_stage import (
    ATTACHED,
    attach,
    become,
    create,
    detach,
    instance,
    node_says,
    record,
    sc,
)


@asynccontextmanager
async def leading(stage: Stage) -> AsyncIterator[Leader]:
    leader = Leader(stage.cloud, b"t" * 32)
    task = asyncio.ensure_future(leader.lead(Leadership("/key", 1, asyncio.Event())))
    try:
        yield leader
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def life(stage: Stage, instance_id: str) -> None:
    """From its making to its end: attached, grown, detached, deleted. Whoever leads."""
    volume_id = await create(stage)
    await become(stage, volume_id, "available")
    await attach(stage, volume_id, instance_id)
    plans = stage.zones[ZONE].disk_plans

    def follows(size_gib: int | None) -> bool:
        """The node does what the newest plan says; True when it is this size (None: not there)."""
        plan = plans.get(instance_id, nc.DiskPlan())
        node_says(stage, instance_id, plan)
        return [disk.size_bytes for disk in plan.disks] == ([] if size_gib is None else [size_gib * GIB])

    await eventually(lambda: follows(8) and record(stage, volume_id).attachment.state == ATTACHED, every_s=0.05)
    await stage.run("ModifyVolume", volume_pb2.ModifyVolumeRequest(volume_id=volume_id, size=9))
    completed = record_pb2.MODIFICATION_STATE_COMPLETED
    await eventually(lambda: follows(9) and record(stage, volume_id).modification.state == completed, every_s=0.05)
    await detach(stage, volume_id)
    available = record_pb2.VOLUME_STATE_AVAILABLE
    await eventually(lambda: follows(None) and record(stage, volume_id).state == available, every_s=0.05)
    assert not sc(stage).volumes[volume_id].HasField("grant")
    await stage.run("DeleteVolume", volume_pb2.DeleteVolumeRequest(volume_id=volume_id))
    await eventually(lambda: not stage.cloud.store.count(record_pb2.VolumeRecord))


# ensure, grant, ensure again for its growth, revoke, delete
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
async def test_a_leader_that_never_hears_the_answer_is_followed_by_one_that_goes_on(
    stage: Stage, image_id: str, number: int
) -> None:
    async with leading(stage):
        instance_id = await instance(stage, image_id)
        sc(stage).silent_at = number
        whole = asyncio.ensure_future(life(stage, instance_id))
        await eventually(lambda: len(sc(stage).orders) >= number)
    async with leading(stage):
        await whole
    assert not sc(stage).volumes
    assert not list(stage.cloud.store.claims(f"device/{instance_id}/"))

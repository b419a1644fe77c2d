"""The network plan on its way to the zones: whatever is lost or forgotten on the way, it is whole again."""

from __future__ import annotations

import asyncio

from common.etcd.election import Leadership
from mallee.ec2.v1 import instance_pb2 as ec2
from mallee.nc.v1 import network_pb2
from services.clc.reconcile import Leader
from tests.eventually import eventually
from tests.service.clc.stage import PlayedZone, Stage


async def launched(stage: Stage, image_id: str, count: int = 1, *, zone: str = "") -> set[str]:
    """By as many calls at once."""
    placement = ec2.Placement(availability_zone=zone)
    request = ec2.RunInstancesRequest(image_id=image_id, min_count=1, max_count=1, placement=placement)
    answers = await asyncio.gather(*(stage.run("RunInstances", request) for _ in range(count)))
    return {answer.instances[0].instance_id for answer in answers}


async def terminate(stage: Stage, *instance_ids: str) -> None:
    await stage.run("TerminateInstances", ec2.TerminateInstancesRequest(instance_ids=instance_ids))


def told(zone: PlayedZone) -> set[str]:
    """Who stands in the latest plan that the zone was given."""
    plan: network_pb2.VpcPlan | None = zone.plans[-1] if zone.plans else None
    return {interface.instance_id for interface in plan.interfaces} if plan else set()


async def test_of_many_launches_at_once_every_zone_has_the_whole_plan(
    stage: Stage, leader: Leader, image_id: str
) -> None:
    ids = await launched(stage, image_id, count=12)
    used = {stage.instance(instance_id).zone for instance_id in ids}
    await eventually(lambda: all(told(stage.zones[zone]) == ids for zone in used))
    plans = [plan for zone in stage.zones.values() for plan in zone.plans]
    # One that is not placed yet means nothing to any node.
    assert all(interface.node_address for plan in plans for interface in plan.interfaces)
    assert sum(len(order) for zone in stage.zones.values() for order in zone.orders) == len(ids)


async def test_a_zone_that_was_away_is_told_what_changed_meanwhile(stage: Stage, leader: Leader, image_id: str) -> None:
    first, second = await launched(stage, image_id), await launched(stage, image_id)
    (gone,) = first
    zone = stage.zones[stage.instance(gone).zone]
    await eventually(lambda: told(zone) == first | second)
    zone.away = True
    (other,) = await launched(stage, image_id)
    await terminate(stage, *second)
    zone.away = False
    await eventually(lambda: told(zone) == first | {other})


async def test_a_zone_that_is_away_holds_up_no_other(stage: Stage, leader: Leader, image_id: str) -> None:
    ids = set[str]()
    for name in stage.zones:
        ids |= await launched(stage, image_id, zone=name)
    await eventually(lambda: all(told(zone) == ids for zone in stage.zones.values()))
    for name, zone in stage.zones.items():
        (away,) = (other for other in stage.zones.values() if other is not zone)
        away.away = True
        ids |= await launched(stage, image_id, zone=name)
        await eventually(lambda: told(zone) == ids)  # noqa: B023
        away.away = False


async def test_a_cluster_controller_that_knows_nothing_is_told_all(stage: Stage, leader: Leader, image_id: str) -> None:
    ids = await launched(stage, image_id, count=3)
    zone = stage.zones[stage.instance(min(ids)).zone]
    await eventually(lambda: told(zone) == ids)
    zone.plans.clear()
    zone.restarts()
    await eventually(lambda: told(zone) == ids)


async def test_a_new_leader_tells_what_the_last_one_did_not(stage: Stage, image_id: str) -> None:
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(lead(stage))
        ids = await launched(stage, image_id)
        zone = stage.zones[stage.instance(min(ids)).zone]
        await eventually(lambda: told(zone) == ids)
        first.cancel()
        await asyncio.wait([first])
        ids |= await launched(stage, image_id, count=3)
        second = tasks.create_task(lead(stage))
        await eventually(lambda: told(zone) == ids)
        second.cancel()


async def lead(stage: Stage) -> None:
    await Leader(stage.cloud, b"t" * 32).lead(Leadership("/key", 1, asyncio.Event()))

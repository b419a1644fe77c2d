"""TerminateInstances, and what nobody placed: taken away until the node says that nothing is left."""

from __future__ import annotations

import asyncio

from mallee.nc.v1 import instance_pb2
from tests.eventually import eventually
from tests.service.cc.stage import Stage, instance_id, spec


async def test_what_is_gone_at_once_is_released_at_once(stage: Stage) -> None:
    await stage.node("nc-1")
    zone = await stage.zone(nodes=1)
    await zone.ensure(spec(1), spec(2))
    assert await zone.terminate(1, 3) == [instance_id(1), instance_id(3)]
    assert list(stage.records()) == [instance_id(2)]
    await eventually(lambda: zone.observations[instance_id(1)].state == instance_pb2.VM_STATE_GONE)
    await eventually(lambda: zone.nodes["nc-1"].free.vcpus == 7)
    assert await zone.terminate(1) == [instance_id(1)]


async def test_what_takes_time_is_released_when_the_node_says_so(stage: Stage) -> None:
    process = await stage.node("nc-1")
    process.node.gone_at_once = False
    zone = await stage.zone(nodes=1)
    await zone.ensure(spec(1))
    assert await zone.terminate(1) == []
    assert list(stage.records()) == [instance_id(1)]
    process.node.say(instance_id(1), instance_pb2.VM_STATE_GONE)
    await eventually(lambda: zone.observations[instance_id(1)].state == instance_pb2.VM_STATE_GONE)
    assert not stage.records()
    assert await zone.terminate(1) == [instance_id(1)]


async def test_a_node_that_is_away_is_ordered_when_it_returns(stage: Stage) -> None:
    process = await stage.node("nc-1")
    zone = await stage.zone(nodes=1)
    await zone.ensure(spec(1))
    await process.stop()
    await eventually(lambda: not zone.nodes["nc-1"].alive)
    assert await zone.terminate(1) == []
    assert list(stage.records()) == [instance_id(1)]
    await process.start()
    await eventually(lambda: zone.observations[instance_id(1)].state == instance_pb2.VM_STATE_GONE)
    assert process.node.terminated == [instance_id(1)]
    assert not stage.records()


async def test_what_runs_without_a_placement_is_taken_away(stage: Stage) -> None:
    process = await stage.node("nc-1")
    await stage.node("nc-2")
    process.node.say(instance_id(9), instance_pb2.VM_STATE_RUNNING)
    zone = await stage.zone(nodes=2)
    await eventually(lambda: process.node.terminated == [instance_id(9)])
    # Also where it is placed on another node.
    placed = await zone.ensure(spec(1), spec(2))
    elsewhere = next(p.instance_id for p in placed if p.node == "nc-2")
    process.node.say(elsewhere, instance_pb2.VM_STATE_RUNNING)
    await eventually(lambda: elsewhere in process.node.terminated)
    assert stage.records()[elsewhere].node == "nc-2"
    assert instance_id(9) not in zone.observations


async def test_what_is_being_taken_away_is_not_launched_again(stage: Stage) -> None:
    process = await stage.node("nc-1")
    process.node.gone_at_once = False
    zone = await stage.zone(nodes=1)
    await zone.ensure(spec(1))
    await zone.terminate(1)
    (placed,) = await zone.ensure(spec(1))
    assert placed.error_code == "Unavailable"
    process.node.say(instance_id(1), instance_pb2.VM_STATE_GONE)
    await eventually(lambda: not stage.records())


async def test_a_launch_and_its_end_at_once_leave_nothing(stage: Stage) -> None:
    process = await stage.node("nc-1", vcpus=40)
    zone = await stage.zone(nodes=1)

    async def end(n: int) -> None:
        while not await zone.terminate(n):
            pass

    async with asyncio.TaskGroup() as tasks:
        for n in range(20):
            tasks.create_task(zone.ensure(spec(n)))
            tasks.create_task(end(n))
    await asyncio.gather(*(end(n) for n in range(20)))
    await eventually(lambda: not process.node.specs)
    assert not stage.records()
    await eventually(lambda: zone.nodes["nc-1"].free.vcpus == 40)

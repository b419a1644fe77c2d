"""ApplyVpcPlan: the newest plan reaches every node that has or had a member, sooner or later."""

from __future__ import annotations

import asyncio

from tests.eventually import eventually
from tests.service.cc.stage import VPC, Stage, spec

OTHER = "vpc-00000000000000002"


async def test_only_nodes_with_a_member_are_given_members(stage: Stage) -> None:
    nodes = [(await stage.node(f"nc-{n}")).node for n in (1, 2)]
    zone = await stage.zone(nodes=2)
    await zone.ensure(spec(1))
    assert await zone.apply(5) == []
    assert nodes[0].plans[VPC].revision == 5
    assert nodes[0].plans[VPC].interfaces
    # Whether it has leftovers of an earlier term is not known, so it is told that there is nothing.
    await eventually(lambda: VPC in nodes[1].plans)
    assert not nodes[1].plans[VPC].interfaces
    assert await zone.apply(6) == []
    assert nodes[0].plans[VPC].revision == 6
    assert nodes[1].plans[VPC].revision == 5


async def test_an_older_plan_changes_nothing(stage: Stage) -> None:
    node = (await stage.node("nc-1")).node
    zone = await stage.zone(nodes=1)
    await zone.ensure(spec(1))
    await zone.apply(5)
    assert await zone.apply(4) == []
    assert node.plans[VPC].revision == 5


async def test_a_new_member_brings_the_known_plan_along(stage: Stage) -> None:
    nodes = [(await stage.node(f"nc-{n}")).node for n in (1, 2)]
    zone = await stage.zone(nodes=2)
    await zone.ensure(spec(1))
    await zone.apply(5)
    await eventually(lambda: VPC in nodes[1].plans)
    await zone.ensure(spec(2))
    await eventually(lambda: nodes[1].plans[VPC].interfaces)
    assert OTHER not in nodes[1].plans


async def test_a_node_whose_last_member_left_is_told(stage: Stage) -> None:
    node = (await stage.node("nc-1")).node
    zone = await stage.zone(nodes=1)
    await zone.ensure(spec(1), spec(2, vpc_id=OTHER))
    await zone.apply(5)
    await zone.apply(5, OTHER)
    await zone.terminate(1)
    await eventually(lambda: not node.plans[VPC].interfaces)
    assert node.plans[OTHER].interfaces


async def test_a_node_that_hangs_holds_up_no_other(stage: Stage) -> None:
    lively, hanging = [(await stage.node(f"nc-{n}")).node for n in (1, 2)]
    zone = await stage.zone(nodes=2)
    await zone.ensure(*(spec(n) for n in range(1, 5)))
    assert await zone.apply(5) == []
    hanging.plans_gate.clear()
    async with asyncio.timeout(6):
        for revision in (6, 7):
            assert await zone.apply(revision) == ["nc-2"]
            assert lively.plans[VPC].revision == revision
    hanging.plans_gate.set()
    await eventually(lambda: hanging.plans[VPC].revision == 7)


async def test_a_node_that_was_away_catches_up(stage: Stage) -> None:
    process = await stage.node("nc-1")
    zone = await stage.zone(nodes=1)
    await zone.ensure(spec(1))
    await zone.apply(5)
    await process.stop()
    await eventually(lambda: not zone.nodes["nc-1"].alive)
    await eventually(lambda: not zone.connected_nodes)
    assert await zone.apply(6) == ["nc-1"]
    await process.start()
    await eventually(lambda: process.node.plans[VPC].revision == 6)


async def test_a_restarted_node_is_told_all_again(stage: Stage) -> None:
    process = await stage.node("nc-1")
    zone = await stage.zone(nodes=1)
    await zone.ensure(spec(1))
    await zone.apply(5)
    await process.stop()
    process.node.plans.clear()
    await process.start()
    await eventually(lambda: VPC in process.node.plans)

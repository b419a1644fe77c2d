"""Leaders come and go: one at a time answers, the next knows every placement, and nodes obey the newest."""

from __future__ import annotations

import pytest

from common.errors import Unavailable
from common.rpc.channel import cloud_errors
from mallee.cc.v1 import service_pb2 as cc
from mallee.nc.v1 import instance_pb2
from tests.eventually import eventually
from tests.service.cc.stage import Stage, instance_id, spec


async def test_a_standby_answers_unavailable(stage: Stage) -> None:
    await stage.node("nc-1")
    leader = await stage.zone("cc-1", nodes=1)
    standby = await stage.zone("cc-2")
    with pytest.raises(Unavailable):
        await standby.ensure(spec(1))
    with pytest.raises(Unavailable):
        await standby.stub.DescribeNodes(cc.DescribeNodesRequest())
    await leader.ensure(spec(1))


async def test_the_next_leader_goes_on_where_the_last_one_was(stage: Stage) -> None:
    processes = [await stage.node(f"nc-{n}") for n in (1, 2)]
    first = await stage.zone("cc-1", nodes=2)
    second = await stage.zone("cc-2")
    placed = await first.ensure(spec(1), spec(2))
    processes[0].node.say(instance_id(1), instance_pb2.VM_STATE_RUNNING)
    epoch = processes[0].node.epoch
    await first.stop()
    await second.leads()
    await second.watch()
    await eventually(lambda: sum(node.alive for node in second.nodes.values()) == 2)
    assert sorted(second.placed) == [instance_id(1), instance_id(2)]
    assert {name: node.free.vcpus for name, node in second.nodes.items()} == {"nc-1": 7, "nc-2": 7}
    await eventually(lambda: len(second.observations) == 2)
    assert second.observations[instance_id(1)].state == instance_pb2.VM_STATE_RUNNING
    assert await second.ensure(spec(1), spec(2)) == placed
    assert processes[0].node.epoch > epoch
    assert not processes[0].node.terminated


async def test_a_node_is_ordered_nothing_before_it_has_said_where_it_is(stage: Stage) -> None:
    """What is told of its instances would lack its address, and their network with it."""
    process = await stage.node("nc-1")
    first = await stage.zone("cc-1", nodes=1)
    [placed] = await first.ensure(spec(1))
    await first.stop()
    epoch = process.node.epoch
    process.node.describes.clear()
    second = await stage.zone("cc-2")
    await second.leads()
    [early] = await second.ensure(spec(1))
    assert early.error_code == Unavailable.default_code
    assert process.node.epoch == epoch
    process.node.describes.set()
    await second.watch()
    await eventually(lambda: second.nodes and all(node.alive for node in second.nodes.values()))
    assert await second.ensure(spec(1)) == [placed]


async def test_a_deposed_leader_places_and_orders_nothing(stage: Stage) -> None:
    """It does not know yet that it was deposed: its key is gone from etcd, and its lease stands."""
    process = await stage.node("nc-1")
    zone = await stage.zone("cc-1", nodes=1)
    await stage.depose()
    with pytest.raises(Unavailable):
        await zone.ensure(spec(1))
    assert not stage.records()
    assert not process.node.specs


async def test_an_old_leaders_order_is_refused_by_the_node(stage: Stage) -> None:
    process = await stage.node("nc-1")
    zone = await stage.zone("cc-1", nodes=1)
    await zone.ensure(spec(1))
    process.node.epoch += 1000
    (placed,) = await zone.ensure(spec(1))
    assert placed.error_code == "Unavailable"
    assert await zone.terminate(1) == []


async def test_watches_end_when_the_term_does(stage: Stage) -> None:
    zone = await stage.zone("cc-1", nodes=0)

    async def follow() -> None:
        with cloud_errors():
            async for response in zone.stub.WatchInstances(cc.WatchInstancesRequest()):
                assert response.snapshot_complete
                await zone.controller.stop()

    with pytest.raises(Unavailable):
        await follow()


async def test_a_dead_node_keeps_its_placements_and_gets_no_more(stage: Stage) -> None:
    processes = [await stage.node(f"nc-{n}") for n in (1, 2)]
    zone = await stage.zone("cc-1", nodes=2)
    await zone.ensure(spec(1), spec(2))
    await processes[0].stop()
    await eventually(lambda: not zone.nodes["nc-1"].alive)
    placed = await zone.ensure(spec(3), spec(4))
    assert {p.node for p in placed} == {"nc-2"}
    assert stage.records()[instance_id(1)].node == "nc-1"
    described = await zone.stub.DescribeNodes(cc.DescribeNodesRequest())
    assert [(n.node, n.alive, n.instances) for n in described.nodes] == [("nc-1", False, 1), ("nc-2", True, 3)]
    await processes[0].start()
    await eventually(lambda: zone.connected_nodes == {"nc-1", "nc-2"})
    placed = await zone.ensure(spec(5), spec(6))
    assert {p.node for p in placed} == {"nc-1", "nc-2"}
    processes[0].node.say(instance_id(1), instance_pb2.VM_STATE_RUNNING)
    await eventually(lambda: zone.observations[instance_id(1)].state == instance_pb2.VM_STATE_RUNNING)


async def test_a_new_leader_refuses_nobody_for_lack_of_room_before_it_heard_from_the_nodes(stage: Stage) -> None:
    zone = await stage.zone("cc-1", nodes=0)
    (placed,) = await zone.ensure(spec(1))
    assert (placed.node, placed.error_code) == ("", "Unavailable")
    await stage.node("nc-1", vcpus=1)
    await eventually(lambda: "nc-1" in zone.nodes and zone.nodes["nc-1"].alive)
    placed, too_much = await zone.ensure(spec(1), spec(2))
    assert placed.node == "nc-1"
    assert too_much.error_code == "InsufficientInstanceCapacity"

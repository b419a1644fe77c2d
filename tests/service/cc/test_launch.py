"""EnsureInstances: placed durably before any order, ordered in parallel, repeated without harm."""

from __future__ import annotations

import asyncio

import pytest

from common import ticket
from common.errors import InvalidArgument, NoCapacity, NotFound, Unavailable
from mallee.cc.v1 import service_pb2 as cc
from mallee.nc.v1 import instance_pb2, service_pb2
from tests.eventually import eventually
from tests.service.cc.stage import Stage, instance_id, spec


async def test_instances_go_round_the_nodes_and_are_seen_running(stage: Stage) -> None:
    nodes = [await stage.node(f"nc-{n}") for n in (1, 2)]
    zone = await stage.zone(nodes=2)
    placed = await zone.ensure(*(spec(n) for n in range(4)))
    assert [p.node for p in placed] == ["nc-1", "nc-2", "nc-1", "nc-2"]
    assert {p.node_address for p in placed} == {"127.0.0.1"}
    nodes[1].node.say(instance_id(1), instance_pb2.VM_STATE_RUNNING)
    await eventually(lambda: zone.observations[instance_id(1)].state == instance_pb2.VM_STATE_RUNNING)
    assert zone.observations[instance_id(1)].node == "nc-2"
    assert zone.observations[instance_id(1)].node_address == "127.0.0.1"
    await eventually(lambda: sorted(zone.placed) == [instance_id(n) for n in range(4)])
    assert zone.nodes["nc-1"].free.vcpus == 6
    assert zone.nodes["nc-1"].instances == 2


async def test_the_placement_stands_in_etcd_when_the_order_arrives(stage: Stage) -> None:
    process = await stage.node("nc-1")
    seen: list[str] = []

    def check(request: service_pb2.EnsureInstanceRequest) -> None:
        record = stage.records()[request.spec.instance_id]
        assert (record.node, record.generation) == ("nc-1", request.spec.generation)
        seen.append(record.instance_id)

    process.node.before_ensure = check
    zone = await stage.zone(nodes=1)
    await zone.ensure(spec(1), spec(2))
    assert sorted(seen) == [instance_id(1), instance_id(2)]


async def test_asked_again_it_is_the_same_node_and_the_order_is_sent_again(stage: Stage) -> None:
    processes = [await stage.node(f"nc-{n}") for n in (1, 2)]
    zone = await stage.zone(nodes=2)
    first, other = await zone.ensure(spec(1), spec(2))
    assert (first.node, other.node) == ("nc-1", "nc-2")
    processes[0].node.specs.clear()
    again = await zone.ensure(spec(1))
    assert again == [first]
    assert instance_id(1) in processes[0].node.specs
    (newer,) = await zone.ensure(spec(1, generation=2))
    assert newer.node == "nc-1"
    assert stage.records()[instance_id(1)].generation == 2
    (older,) = await zone.ensure(spec(1, generation=1))
    assert older.error_code == Unavailable.default_code


async def test_nodes_are_ordered_in_parallel_and_calls_do_not_wait_for_each_other(stage: Stage) -> None:
    processes = [await stage.node(f"nc-{n}") for n in (1, 2)]
    for process in processes:
        process.node.gate.clear()
    zone = await stage.zone(nodes=2)
    calls = [asyncio.ensure_future(zone.ensure(spec(2 * n), spec(2 * n + 1))) for n in range(4)]
    await eventually(lambda: sum(process.node.waiting for process in processes) == 8)
    for process in processes:
        process.node.gate.set()
    placed = [p for answers in await asyncio.gather(*calls) for p in answers]
    assert {p.instance_id for p in placed} == {instance_id(n) for n in range(8)}
    assert all(not p.error_code for p in placed)


async def test_the_last_place_goes_to_one_and_the_other_is_told(stage: Stage) -> None:
    await stage.node("nc-1", vcpus=1)
    zone = await stage.zone(nodes=1)
    answers = await asyncio.gather(zone.ensure(spec(1)), zone.ensure(spec(2)))
    codes = sorted(placed.error_code for (placed,) in answers)
    assert codes == ["", NoCapacity.default_code]
    assert len(stage.records()) == 1
    # One that does not fit does not keep others out.
    mixed = await zone.ensure(spec(3, vcpus=64), *[spec(1), spec(2)])
    assert [bool(placed.error_code) for placed in mixed].count(True) == 2


async def test_a_node_that_has_less_than_it_told_is_passed_over(stage: Stage) -> None:
    processes = [await stage.node(f"nc-{n}") for n in (1, 2)]
    processes[0].node.refuse = NoCapacity("full")
    zone = await stage.zone(nodes=2)
    (placed,) = await zone.ensure(spec(1))
    assert (placed.node, placed.error_code) == ("nc-2", "")
    assert stage.records()[instance_id(1)].node == "nc-2"
    processes[1].node.refuse = NoCapacity("full")
    (nowhere,) = await zone.ensure(spec(2))
    assert (nowhere.node, nowhere.error_code) == ("", NoCapacity.default_code)
    assert list(stage.records()) == [instance_id(1)]
    await eventually(lambda: zone.nodes["nc-1"].instances == 0)


async def test_a_malformed_spec_is_refused_for_good_and_leaves_nothing(stage: Stage) -> None:
    process = await stage.node("nc-1")
    process.node.refuse = InvalidArgument("no such thing", code="InvalidParameterValue")
    zone = await stage.zone(nodes=1)
    (placed,) = await zone.ensure(spec(1))
    assert (placed.node, placed.error_code, placed.error_message) == ("", "InvalidParameterValue", "no such thing")
    await eventually(lambda: not stage.records())
    (bad,) = await zone.ensure(instance_pb2.InstanceSpec(instance_id="../x"))
    assert bad.error_code == "InvalidParameterValue"


async def test_a_node_that_does_not_answer_keeps_the_placement(stage: Stage) -> None:
    process = await stage.node("nc-1")
    zone = await stage.zone(nodes=1)
    process.node.refuse = Unavailable("not now")
    (placed,) = await zone.ensure(spec(1))
    assert (placed.node, placed.error_code) == ("nc-1", Unavailable.default_code)
    assert stage.records()[instance_id(1)].node == "nc-1"
    process.node.refuse = None
    (again,) = await zone.ensure(spec(1))
    assert (again.node, again.error_code) == ("nc-1", "")


async def test_tickets_are_narrowed_to_the_node(stage: Stage) -> None:
    process = await stage.node("nc-1")
    zone = await stage.zone(nodes=1)
    await zone.ensure(spec(1, ticket=b"wide"))
    image = process.node.specs[instance_id(1)].boot.machine
    assert image.ticket == ticket.narrow(b"wide", node="nc-1")
    assert not process.node.specs[instance_id(1)].boot.kernel.ticket


async def test_a_hundred_instances_are_one_call(stage: Stage) -> None:
    await stage.node("nc-1", vcpus=200)
    zone = await stage.zone(nodes=1)
    placed = await zone.ensure(*(spec(n) for n in range(120)))
    assert all(not p.error_code for p in placed)
    assert len(stage.records()) == 120


async def test_a_node_of_another_subnet_is_refused(stage: Stage) -> None:
    process = await stage.node("nc-1")
    process.node.hypervisor, process.node.underlay_address = "qemu", "192.0.2.1"
    zone = await stage.zone()
    await zone.leads()
    await zone.watch()
    await eventually(lambda: "nc-1" in zone.nodes and zone.nodes["nc-1"].hypervisor)
    assert not zone.nodes["nc-1"].alive
    (placed,) = await zone.ensure(spec(1))
    assert placed.error_code == NoCapacity.default_code


async def test_guests_are_asked_where_they_are_and_a_silent_node_is_left_out(stage: Stage) -> None:
    node = await stage.node("nc-1")
    zone = await stage.zone(nodes=1)
    await zone.ensure(spec(1))
    request = cc.CheckInstancesRequest(instance_ids=[instance_id(1), instance_id(2)])
    (check,) = (await zone.stub.CheckInstances(request)).checks
    assert (check.instance_id, check.state) == (instance_id(1), service_pb2.CHECK_STATE_PASSED)
    await node.stop()
    await eventually(lambda: not zone.nodes["nc-1"].alive)
    assert not (await zone.stub.CheckInstances(request)).checks


@pytest.mark.parametrize("what", ["RebootInstance", "RestInstance", "GetConsoleOutput", "GetConsoleScreenshot"])
async def test_orders_reach_the_node_of_the_instance(stage: Stage, what: str) -> None:
    await stage.node("nc-1")
    zone = await stage.zone(nodes=1)
    await zone.ensure(spec(1))
    request = getattr(cc, f"{what}Request")
    answer = await getattr(zone.stub, what)(request(instance_id=instance_id(1)))
    if what == "GetConsoleOutput":
        assert (answer.output, answer.written_at_ms) == (instance_id(1).encode(), 7)
    if what == "RestInstance":
        assert answer.at_rest
    with pytest.raises(NotFound):
        await getattr(zone.stub, what)(request(instance_id=instance_id(2)))

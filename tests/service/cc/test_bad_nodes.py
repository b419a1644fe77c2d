"""Nodes that are slow, or have less than they tell: others are taken, and nobody waits for them long."""

from __future__ import annotations

import itertools

from common.errors import IMAGE_CACHE_FULL, NoCapacity, Unavailable
from common.etcd.client import Etcd
from common.etcd.election import Election
from common.etcd.membership import Membership
from services.cc.ledger import Trust
from services.cc.term import leading
from tests.eventually import eventually
from tests.service.cc.fake_node import ZONE, FakeNode
from tests.service.cc.stage import RULES, Stage, Zone, instance_id, spec


async def two(stage: Stage) -> tuple[Zone, FakeNode, FakeNode]:
    processes = [await stage.node(name) for name in ("nc-1", "nc-2")]
    return await stage.zone(nodes=2), processes[0].node, processes[1].node


def count_orders(node: FakeNode) -> list[str]:
    asked: list[str] = []
    node.before_ensure = lambda request: asked.append(request.spec.instance_id)
    return asked


async def test_a_slow_node_is_passed_over_until_it_answers_and_keeps_what_it_was_given(stage: Stage) -> None:
    zone, slow, _ = await two(stage)
    slow.gate.clear()
    slow.describes.clear()
    first, second = await zone.ensure(spec(1), spec(2))
    assert (first.node, first.error_code) == ("nc-1", Unavailable.default_code)
    assert (second.node, second.error_code) == ("nc-2", "")
    assert {p.node for p in await zone.ensure(spec(3), spec(4), spec(5))} == {"nc-2"}
    slow.gate.set()
    slow.describes.set()
    (again,) = await zone.ensure(spec(1))
    assert (again.node, again.error_code) == ("nc-1", "")
    for number in itertools.count(10):
        (placed,) = await zone.ensure(spec(number, vcpus=0))
        if placed.node == "nc-1":
            break


async def test_what_is_to_go_from_a_slow_node_goes_when_it_answers_and_holds_up_nothing_else(stage: Stage) -> None:
    zone, slow, _ = await two(stage)
    await zone.ensure(spec(1), spec(2))
    slow.terminates.clear()
    assert await zone.terminate(1, 2) == [instance_id(2)]
    assert list(stage.records()) == [instance_id(1)]
    slow.terminates.set()
    await eventually(lambda: not stage.records())
    assert await zone.terminate(1) == [instance_id(1)]


async def test_a_node_that_is_all_there_is_gets_the_order_however_slow(stage: Stage) -> None:
    process = await stage.node("nc-1")
    zone = await stage.zone(nodes=1)
    process.node.gate.clear()
    process.node.describes.clear()
    assert {p.node for p in await zone.ensure(spec(1))} == {"nc-1"}
    assert [(p.node, p.error_code) for p in await zone.ensure(spec(2))] == [("nc-1", Unavailable.default_code)]
    assert zone.nodes["nc-1"].alive


async def test_a_node_that_overstates_its_room_is_left_alone_for_a_while(stage: Stage) -> None:
    zone, liar, _ = await two(stage)
    asked = count_orders(liar)
    liar.refuse = NoCapacity("full")
    placed = await zone.ensure(spec(1), spec(2), spec(3), spec(4))
    assert {(p.node, p.error_code) for p in placed} == {("nc-2", "")}
    assert len(asked) == 2
    # Nobody is to count on its room meanwhile.
    await eventually(lambda: zone.nodes["nc-1"].free.vcpus == 0)
    assert zone.nodes["nc-1"].alive
    assert {p.node for p in await zone.ensure(spec(5), spec(6))} == {"nc-2"}
    assert len(asked) == 2
    liar.refuse = None
    # Where nothing else is left it is asked all the same.
    (large,) = await zone.ensure(spec(7, vcpus=8))
    assert (large.node, large.error_code) == ("nc-1", "")
    await zone.terminate(7)
    await eventually(lambda: zone.nodes["nc-1"].free.vcpus == 8)


async def test_a_node_that_refuses_an_image_is_good_for_others(stage: Stage) -> None:
    zone, first, second = await two(stage)
    asked = count_orders(first)
    first.refuse = NoCapacity("the image is too large", code=IMAGE_CACHE_FULL)
    assert {p.node for p in await zone.ensure(spec(1))} == {"nc-2"}
    assert {p.node for p in await zone.ensure(spec(2), spec(3))} == {"nc-2"}
    assert len(asked) == 2
    second.refuse = first.refuse
    (nowhere,) = await zone.ensure(spec(4))
    assert nowhere.error_code == NoCapacity.default_code
    assert nowhere.error_message.endswith("the image is too large)")
    first.refuse = None
    assert {p.node for p in await zone.ensure(spec(5))} == {"nc-1"}
    assert zone.nodes["nc-2"].free.vcpus == 5


async def test_a_call_that_outlives_its_term_doubts_nobody(stage: Stage) -> None:
    await stage.node("nc-1")
    identity = stage.identities["cc-1"]
    async with Etcd([stage.etcd_address], None) as etcd, Membership(etcd) as membership:
        election = Election(etcd, f"cc/{ZONE}", "cc-1")
        async with (
            election.leadership() as leadership,
            leading(etcd, membership, identity, zone=ZONE, rules=RULES, leadership=leadership) as term,
        ):
            await eventually(lambda: term.nodes.connected)
        term.nodes.doubt("nc-1", Trust.SILENT)
        assert term.ledger.nodes["nc-1"].trust is Trust.FULL


async def test_who_names_a_host_is_placed_there_or_not_at_all(stage: Stage) -> None:
    zone, first, second = await two(stage)
    there = {instance_id(number): "nc-2" for number in range(10)}
    assert {p.node for p in await zone.ensure(*(spec(n) for n in range(3)), hosts=there)} == {"nc-2"}
    (too_large,) = await zone.ensure(spec(4, vcpus=6), hosts=there)
    second.refuse = NoCapacity("full")
    (refused,) = await zone.ensure(spec(5), hosts=there)
    (nowhere,) = await zone.ensure(spec(6), hosts={instance_id(6): "nc-9"})
    assert {p.error_code for p in (too_large, refused, nowhere)} == {NoCapacity.default_code}
    assert not first.specs
    assert set(stage.records()) == {instance_id(n) for n in range(3)}

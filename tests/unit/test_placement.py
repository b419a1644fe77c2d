"""Placement: a pure function, checked against what it promises for any zone, any wants and each policy."""

from __future__ import annotations

import typing
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import PlacementPolicy
from services.cc.placement import NOTHING, Placing, Room, Want, place

POLICIES: tuple[PlacementPolicy, ...] = typing.get_args(PlacementPolicy)


@dataclass(frozen=True, kw_only=True)
class Node:
    name: str
    total: Room
    used: Room = NOTHING
    is_doubted: bool = False


rooms = st.builds(
    Room,
    vcpus=st.integers(0, 8),
    memory_bytes=st.integers(0, 8).map(lambda n: n << 28),
    disk_bytes=st.integers(0, 8).map(lambda n: n << 30),
)
names = st.integers(1, 9).map(lambda n: f"nc-{n}")
# `used` may be more than the total: a node that shrank.
nodes = st.builds(Node, name=names, total=rooms, used=rooms | st.just(NOTHING), is_doubted=st.booleans())
zones = st.lists(nodes, max_size=6, unique_by=lambda node: node.name)
wants = st.lists(
    st.builds(
        Want,
        instance_id=st.uuids().map(str),
        need=rooms,
        vpc_id=st.sampled_from(["vpc-1", "vpc-2"]),
        host=st.just("") | names,
        not_on=st.frozensets(names, max_size=2),
    ),
    max_size=12,
)
members = st.dictionaries(st.tuples(st.sampled_from(["vpc-1", "vpc-2"]), names), st.integers(1, 3))
policies = st.sampled_from(POLICIES)

UNIT = Room(vcpus=1, memory_bytes=1, disk_bytes=1)


def times(n: int, unit: Room = UNIT) -> Room:
    return Room(vcpus=n * unit.vcpus, memory_bytes=n * unit.memory_bytes, disk_bytes=n * unit.disk_bytes)


def zone_of(*sizes: int) -> list[Node]:
    return [Node(name=f"nc-{n}", total=times(size)) for n, size in enumerate(sizes, 1)]


def put(zone: list[Node], count: int, policy: PlacementPolicy, **more: typing.Any) -> list[str]:
    placing = place(zone, [Want(instance_id=str(n), need=UNIT) for n in range(count)], policy=policy, **more)
    return [placing.nodes[str(n)] for n in range(count)]


def left(zone: list[Node], placing: Placing, wanted: list[Want]) -> dict[str, Room]:
    used = {
        node.name: sum((w.need for w in wanted if placing.nodes.get(w.instance_id) == node.name), node.used)
        for node in zone
    }
    return {node.name: node.total - used[node.name] for node in zone}


@given(zones, wants, policies, names, members)
def test_no_node_holds_more_than_it_has(
    zone: list[Node], wanted: list[Want], policy: PlacementPolicy, last: str, there: dict[tuple[str, str], int]
) -> None:
    placing = place(zone, wanted, policy=policy, last=last, members=there)
    taken = set(placing.nodes.values())
    assert taken <= {node.name for node in zone}
    assert all(room.holds(NOTHING) for name, room in left(zone, placing, wanted).items() if name in taken)


@given(zones, wants, policies, names, members)
def test_who_is_left_out_fits_nowhere(
    zone: list[Node], wanted: list[Want], policy: PlacementPolicy, last: str, there: dict[tuple[str, str], int]
) -> None:
    """Room only shrinks as the list is worked off, so what is left at the end is the most a later one could get."""
    placing = place(zone, wanted, policy=policy, last=last, members=there)
    room = left(zone, placing, wanted)
    for want in wanted:
        if want.instance_id in placing.nodes:
            assert placing.nodes[want.instance_id] not in want.not_on
            assert want.host in ("", placing.nodes[want.instance_id])
            continue
        for node in zone:
            may = node.name not in want.not_on and want.host in ("", node.name)
            assert not (may and room[node.name].holds(want.need))


@given(zones, wants, policies, names, members, st.randoms())
def test_it_depends_on_nothing_but_the_snapshot(
    zone: list[Node],
    wanted: list[Want],
    policy: PlacementPolicy,
    last: str,
    there: dict[tuple[str, str], int],
    dice: typing.Any,
) -> None:
    shuffled = list(zone)
    dice.shuffle(shuffled)
    first = place(zone, wanted, policy=policy, last=last, members=there)
    assert place(shuffled, wanted, policy=policy, last=last, members=there) == first


@given(zones, wants, policies, names, members)
def test_a_batch_goes_where_its_instances_would_go_one_by_one(
    zone: list[Node], wanted: list[Want], policy: PlacementPolicy, last: str, there: dict[tuple[str, str], int]
) -> None:
    batch = place(zone, wanted, policy=policy, last=last, members=there)
    now, members_now, chosen = {node.name: node for node in zone}, dict(there), {}
    for want in wanted:
        one = place(now.values(), [want], policy=policy, last=last, members=members_now)
        last = one.last
        for name in one.nodes.values():
            node = now[name]
            now[name] = Node(name=name, total=node.total, used=node.used + want.need, is_doubted=node.is_doubted)
            members_now[want.vpc_id, name] = members_now.get((want.vpc_id, name), 0) + 1
            chosen[want.instance_id] = name
    assert batch == Placing(nodes=chosen, last=last)


def test_round_robin_goes_round_and_on_from_where_it_was() -> None:
    zone = zone_of(2, 2, 2)
    assert put(zone, 4, "round-robin", last="nc-2") == ["nc-3", "nc-1", "nc-2", "nc-3"]
    # A node that left leaves no hole in the order.
    assert put(zone[:2], 1, "round-robin", last="nc-9") == ["nc-1"]
    # One that is full is passed over, and the others keep their turns.
    assert put(zone_of(3, 1, 3), 6, "round-robin") == ["nc-1", "nc-2", "nc-3", "nc-1", "nc-3", "nc-1"]


def test_greedy_fills_the_first() -> None:
    assert put(zone_of(2, 3, 2), 6, "greedy") == ["nc-1", "nc-1", "nc-2", "nc-2", "nc-2", "nc-3"]


def test_pack_fills_the_fullest_that_has_room() -> None:
    zone = [Node(name="nc-1", total=times(8)), Node(name="nc-2", total=times(8), used=times(6)), *zone_of(0)]
    zone[2] = Node(name="nc-3", total=times(4), used=times(4))
    assert put(zone, 4, "pack") == ["nc-2", "nc-2", "nc-1", "nc-1"]


def test_spread_takes_the_least_used() -> None:
    zone = [
        Node(name="nc-1", total=times(8), used=times(2)),
        Node(name="nc-2", total=times(8), used=times(5)),
        Node(name="nc-3", total=times(8)),
    ]
    of_many = [Want(instance_id=str(n), need=UNIT, vpc_id=f"vpc-{n}") for n in range(4)]
    assert list(place(zone, of_many, policy="spread").nodes.values()) == ["nc-3", "nc-3", "nc-1", "nc-3"]


def test_spread_keeps_the_instances_of_a_vpc_apart() -> None:
    zone = [Node(name="nc-1", total=times(8)), Node(name="nc-2", total=times(8), used=times(5))]
    there = {("vpc-1", "nc-1"): 1}
    wanted = [Want(instance_id=str(n), need=UNIT, vpc_id="vpc-1") for n in range(3)]
    placing = place(zone, wanted, policy="spread", members=there)
    assert list(placing.nodes.values()) == ["nc-2", "nc-1", "nc-2"]


@pytest.mark.parametrize("policy", POLICIES)
def test_one_that_is_doubted_is_taken_when_no_other_will_do(policy: PlacementPolicy) -> None:
    zone = [Node(name="nc-1", total=times(9), is_doubted=True), Node(name="nc-2", total=times(2))]
    assert put(zone, 3, policy) == ["nc-2", "nc-2", "nc-1"]


@pytest.mark.parametrize("policy", POLICIES)
def test_who_names_a_node_gets_it_or_nothing(policy: PlacementPolicy) -> None:
    wanted = [Want(instance_id=str(n), need=UNIT, host="nc-2") for n in range(3)]
    assert place(zone_of(9, 2), wanted, policy=policy).nodes == {"0": "nc-2", "1": "nc-2"}
    assert place(zone_of(9), wanted, policy=policy).nodes == {}


@pytest.mark.parametrize("policy", POLICIES)
def test_each_resource_counts(policy: PlacementPolicy) -> None:
    for short in ("vcpus", "memory_bytes", "disk_bytes"):
        need = Room(**({"vcpus": 1, "memory_bytes": 1, "disk_bytes": 1} | {short: 2}))
        assert place(zone_of(1), [Want(instance_id="x", need=need)], policy=policy).nodes == {}

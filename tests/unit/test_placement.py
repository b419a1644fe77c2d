"""Placement: a pure function, checked against what it promises for any zone and any wants."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.cc.placement import NOTHING, Candidate, Room, Want, place

rooms = st.builds(
    Room,
    vcpus=st.integers(0, 8),
    memory_bytes=st.integers(0, 8).map(lambda n: n << 28),
    disk_bytes=st.integers(0, 8).map(lambda n: n << 30),
)
names = st.integers(1, 9).map(lambda n: f"nc-{n}")
zones = st.lists(st.builds(Candidate, name=names, free=rooms), max_size=6, unique_by=lambda c: c.name)
wants = st.lists(
    st.builds(Want, instance_id=st.uuids().map(str), need=rooms, not_on=st.frozensets(names, max_size=2)), max_size=12
)


@given(zones, wants, names)
def test_no_node_holds_more_than_it_has(zone: list[Candidate], wanted: list[Want], last: str) -> None:
    placing = place(zone, wanted, last=last)
    for node in zone:
        used = sum((w.need for w in wanted if placing.nodes.get(w.instance_id) == node.name), NOTHING)
        assert node.free.holds(used)


@given(zones, wants, names)
def test_who_is_left_out_fits_nowhere(zone: list[Candidate], wanted: list[Want], last: str) -> None:
    """Room only shrinks as the list is worked off, so what is left at the end is the most a later one could get."""
    placing = place(zone, wanted, last=last)
    for want in wanted:
        if want.instance_id in placing.nodes:
            assert placing.nodes[want.instance_id] not in want.not_on
            continue
        for node in zone:
            used = sum((w.need for w in wanted if placing.nodes.get(w.instance_id) == node.name), NOTHING)
            assert node.name in want.not_on or not (node.free - used).holds(want.need)


@given(zones, wants, names, st.randoms())
def test_it_depends_on_nothing_but_the_snapshot(
    zone: list[Candidate], wanted: list[Want], last: str, dice: object
) -> None:
    shuffled = sorted(zone, key=lambda candidate: hash((candidate.name, str(dice))))
    assert place(shuffled, wanted, last=last) == place(zone, wanted, last=last)


def test_it_goes_round_and_on_from_where_it_was() -> None:
    zone = [Candidate(name=f"nc-{n}", free=Room(vcpus=2, memory_bytes=2, disk_bytes=2)) for n in (1, 2, 3)]
    need = Room(vcpus=1, memory_bytes=1, disk_bytes=1)
    placing = place(zone, [Want(instance_id=str(n), need=need) for n in range(4)], last="nc-2")
    assert list(placing.nodes.values()) == ["nc-3", "nc-1", "nc-2", "nc-3"]
    assert placing.last == "nc-3"
    # A node that left leaves no hole in the order.
    assert list(place(zone[:2], [Want(instance_id="x", need=need)], last="nc-9").nodes.values()) == ["nc-1"]


def test_each_resource_counts() -> None:
    full = Room(vcpus=1, memory_bytes=1, disk_bytes=1)
    for short in ("vcpus", "memory_bytes", "disk_bytes"):
        need = Room(**({"vcpus": 1, "memory_bytes": 1, "disk_bytes": 1} | {short: 2}))
        assert place([Candidate(name="nc-1", free=full)], [Want(instance_id="x", need=need)]).nodes == {}

"""Admission against what a zone reports."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.clc.capacity import Room, admissible

rooms = st.builds(
    Room,
    vcpus=st.integers(0, 16),
    memory_bytes=st.integers(0, 64),
    disk_bytes=st.integers(0, 64),
)
shapes = st.builds(Room, vcpus=st.integers(1, 4), memory_bytes=st.integers(1, 16), disk_bytes=st.integers(1, 16))


def room(n: int) -> Room:
    return Room(vcpus=n, memory_bytes=n, disk_bytes=n)


def test_a_node_takes_what_its_scarcest_resource_allows() -> None:
    node = Room(vcpus=8, memory_bytes=100, disk_bytes=5)
    assert admissible([node], [], Room(vcpus=1, memory_bytes=10, disk_bytes=2), 100) == 2


def test_launches_under_way_take_their_room() -> None:
    assert admissible([room(4), room(4)], [room(1)] * 3, room(1), 100) == 5


def test_room_on_two_nodes_is_not_room_for_one_large_instance() -> None:
    assert admissible([room(2), room(2)], [], room(3), 1) == 0


@given(st.lists(rooms, max_size=5), st.lists(shapes, max_size=5), shapes, st.integers(0, 20))
def test_never_more_than_wanted_or_than_there_is(free: Any, pending: Any, shape: Any, wanted: int) -> None:
    count = admissible(free, pending, shape, wanted)
    assert 0 <= count <= max(0, wanted)
    assert count <= sum(node.fits(shape) for node in free)


@given(st.lists(rooms, max_size=5), shapes, st.integers(1, 20))
def test_what_is_admitted_can_be_placed(free: Any, shape: Any, wanted: int) -> None:
    count = admissible(free, [], shape, wanted)
    assert count == min(wanted, sum(node.fits(shape) for node in free))

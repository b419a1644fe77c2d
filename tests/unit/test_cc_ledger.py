"""The ledger: free room is what a node has less all its placements, whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.cc.ledger import Ledger, Placement
from services.cc.placement import NOTHING, Room, Want

NODES = ("nc-1", "nc-2")
NEED = Room(vcpus=1, memory_bytes=1 << 20, disk_bytes=1 << 30)


def _ledger() -> Ledger:
    ledger = Ledger()
    for name in NODES:
        node = ledger.node(name)
        node.alive = node.described = True
        node.total = Room(vcpus=4, memory_bytes=4 << 20, disk_bytes=4 << 30)
    return ledger


def _reserve(ledger: Ledger, *ids: str) -> list[Placement]:
    return ledger.reserve(
        [Want(instance_id=i, need=NEED) for i in ids],
        lambda i, node: Placement(instance_id=i, node=node, generation=1, need=NEED, vpc_id="vpc-1"),
    )


@given(st.lists(st.tuples(st.sampled_from(["reserve", "release"]), st.integers(0, 12))))
def test_free_room_is_total_less_placements(steps: list[tuple[str, int]]) -> None:
    ledger = _ledger()
    for what, n in steps:
        if what == "release":
            ledger.release(f"i-{n}")
        elif f"i-{n}" not in ledger.placements:
            _reserve(ledger, f"i-{n}")
        for name in NODES:
            there = ledger.on_node(name)
            node = ledger.nodes[name]
            assert node.free == node.total - sum((p.need for p in there), NOTHING)
            assert node.free.holds(NOTHING)
            assert ledger.capacity(name).instances == len(there)
            assert ledger.has_member("vpc-1", name) == bool(there)


def test_changes_are_told_with_what_was_placed() -> None:
    ledger = _ledger()
    told: list[tuple[list[str], list[str]]] = []
    ledger.changed = lambda nodes, placed: told.append((list(nodes), list(placed)))
    _reserve(ledger, "i-1", "i-2")
    ledger.release("i-1")
    ledger.release("i-1")
    assert told == [(["nc-1", "nc-2"], ["i-1", "i-2"]), (["nc-1"], [])]


def test_nothing_is_placed_on_a_node_that_is_away_unknown_or_refused() -> None:
    ledger = _ledger()
    ledger.nodes["nc-1"].alive = False
    ledger.nodes["nc-2"].refused = "another subnet"
    ledger.node("nc-3").alive = True
    assert _reserve(ledger, "i-1") == []
    assert not ledger.capacity("nc-2").alive


def test_a_node_that_shrank_shows_no_negative_room() -> None:
    ledger = _ledger()
    _reserve(ledger, "i-1", "i-2", "i-3", "i-4")
    ledger.nodes["nc-1"].total = NEED
    assert ledger.capacity("nc-1").free.vcpus == 0
    (placed,) = _reserve(ledger, "i-5")
    assert placed.node == "nc-2"


def test_placements_survive_their_record() -> None:
    placement = Placement(instance_id="i-1", node="nc-1", generation=3, need=NEED, vpc_id="vpc-1", written=True)
    again = Placement.from_record(placement.to_record(), 7)
    assert again.mod_revision == 7
    again.mod_revision = 0
    assert again == placement

"""The checker of histories: it accepts what one register could have done, and nothing else."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tests.linearizable import NEVER, Kind, Operation, is_linearizable


def put(value: str | None, began: float, ended: float = NEVER) -> Operation:
    return Operation(kind=Kind.PUT if value is not None else Kind.DELETE, value=value, began=began, ended=ended)


def read(value: str | None, began: float, ended: float) -> Operation:
    return Operation(kind=Kind.READ, value=value, began=began, ended=ended)


def test_reads_agree_on_the_order_of_writes_that_ran_beside_each_other() -> None:
    writes = [put("a", 0, 10), put("b", 0, 10)]
    assert is_linearizable([*writes, read("a", 1, 2), read("b", 3, 4), read("b", 11, 12)])
    assert not is_linearizable([*writes, read("a", 1, 2), read("b", 3, 4), read("a", 5, 6)])
    assert not is_linearizable([*writes, read("a", 11, 12), read("b", 13, 14)])


def test_a_read_after_a_write_or_a_deletion_sees_it() -> None:
    assert is_linearizable([put("a", 0, 1), read("a", 2, 3), put(None, 4, 5), read(None, 6, 7)])
    assert not is_linearizable([put("a", 0, 1), read(None, 2, 3)])
    assert not is_linearizable([put("a", 0, 1), put(None, 4, 5), read("a", 6, 7)])
    assert not is_linearizable([read("a", 0, 1), put("a", 2, 3)])


def test_a_write_that_nobody_saw_the_end_of_may_come_late_or_never() -> None:
    lost = put("a", 0)
    assert is_linearizable([lost, read(None, 1, 2), read("a", 3, 4)])
    assert is_linearizable([lost, read(None, 1, 2), read(None, 3, 4)])
    assert not is_linearizable([lost, read("a", 1, 2), read(None, 3, 4)])


_OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["a", "b", None]), st.booleans(), st.integers(0, 6), st.integers(1, 4)), max_size=5
)


@given(_OPERATIONS)
def test_it_says_what_trying_every_order_says(drawn: list[tuple[str | None, bool, int, int]]) -> None:
    history = [
        read(value, began, began + took) if is_read else put(value, began, began + took)
        for value, is_read, began, took in drawn
    ]
    assert is_linearizable(history) == any(_explains(order) for order in itertools.permutations(history))


def _explains(order: tuple[Operation, ...]) -> bool:
    value: str | None = None
    for place, one in enumerate(order):
        if any(later.ended < one.began for later in order[place:]):
            return False
        if one.kind is Kind.READ and one.value != value:
            return False
        value = value if one.kind is Kind.READ else one.value
    return True

"""The rule by which names are shared out among processes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.shards import MOST, Shards, shard_of

NAMES = [f"bucket-{number}" for number in range(3000)]


# Where data lies today.
FIXED = {"a-bucket": [0, 1, 1, 4, 13], "photos": [0, 0, 2, 2, 11], "logs.x": [0, 0, 0, 0, 0]}


def test_the_rule_is_the_one_that_stored_data_was_shared_out_by() -> None:
    shown = {name: [shard_of(name, count) for count in (1, 2, 3, 7, 16)] for name in ("a-bucket", "photos", "logs.x")}
    assert shown == FIXED


@given(st.text(max_size=70), st.integers(1, MOST))
def test_every_name_has_one_place(name: str, count: int) -> None:
    assert 0 <= shard_of(name, count) < count
    assert shard_of(name, count) == shard_of(name, count)


@pytest.mark.parametrize("count", [2, 3, 5, MOST])
def test_names_are_shared_out_evenly(count: int) -> None:
    each = Counter(shard_of(name, count) for name in NAMES)
    assert len(each) == count
    assert max(each.values()) < 1.4 * len(NAMES) / count


@given(st.text(max_size=70), st.integers(1, MOST - 1))
def test_with_one_more_only_what_goes_to_it_moves(name: str, count: int) -> None:
    assert shard_of(name, count + 1) in (shard_of(name, count), count)


def test_members_are_counted_from_one() -> None:
    shards = Shards("walrus", 3)
    assert list(shards) == ["walrus-1", "walrus-2", "walrus-3"]
    assert shards.first == "walrus-1"
    assert [shards.number(member) for member in shards] == [0, 1, 2]
    assert all(shards.of(name) == shards.member(shard_of(name, 3)) for name in NAMES[:50])


@pytest.mark.parametrize("stranger", ["walrus-0", "walrus-4", "walrus", "clc-1", "walrus-x", "walrus-²"])
def test_others_have_no_number(stranger: str) -> None:
    with pytest.raises(ValueError, match=stranger):
        Shards("walrus", 3).number(stranger)

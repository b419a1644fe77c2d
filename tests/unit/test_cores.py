"""The rule by which the threads of a volume find one core."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from common.cores import core_of
from common.ids import VolumeId

USABLE = st.sets(st.integers(0, 300), min_size=1, max_size=128)
VOLUMES = [VolumeId(f"vol-{number:017x}") for number in range(3000)]


@given(st.sampled_from(VOLUMES), USABLE)
def test_it_is_a_core_that_may_be_used_in_whatever_order_they_are_told(volume_id: VolumeId, usable: set[int]) -> None:
    assert core_of(volume_id, usable) in usable
    assert core_of(volume_id, usable) == core_of(volume_id, frozenset(sorted(usable, reverse=True)))


def test_volumes_are_spread_evenly() -> None:
    usable = {0, 1, 2, 3, 8, 9, 10, 11}
    each = Counter(core_of(volume_id, usable) for volume_id in VOLUMES)
    assert each.keys() == usable
    assert max(each.values()) < 1.3 * len(VOLUMES) / len(usable)

"""What a zone may promise of a disk that it has alone, shares, or promises twice."""

from __future__ import annotations

from typing import Any, cast

import pytest

from common.errors import NoCapacity
from mallee.sc.v1.record_pb2 import VolumeRecord
from mallee.sc.v1.volume_pb2 import VOLUME_STATE_FAILED, VolumeSpec
from services.sc.capacity import Capacity

GIB = 1 << 30


class _Engine:
    total_bytes = 100 * GIB
    used_bytes = 20 * GIB


class _Volumes:
    def __init__(self, **sizes: int) -> None:
        self._records = {name: VolumeRecord(spec=VolumeSpec(size_bytes=size)) for name, size in sizes.items()}

    def get(self, volume_id: str) -> VolumeRecord | None:
        return self._records.get(volume_id)

    def all(self) -> dict[str, VolumeRecord]:
        return self._records


def _capacity(volumes: _Volumes, **rules: float) -> Capacity:
    return Capacity(cast(Any, volumes), cast(Any, _Engine()), **{"overcommit": 1.0, **rules})


@pytest.mark.parametrize(
    ("rules", "free_gib"),
    [({}, 70), ({"overcommit": 2.0}, 170), ({"share": 0.5}, 30), ({"share": 0.5, "overcommit": 2.0}, 90)],
)
def test_what_is_free_is_what_was_not_promised(rules: dict[str, float], free_gib: int) -> None:
    assert _capacity(_Volumes(a=30 * GIB), **rules).free_bytes == free_gib * GIB


def test_what_is_asked_for_counts_until_it_is_recorded() -> None:
    capacity = _capacity(_Volumes(a=30 * GIB))
    with capacity.reserve("b", 50 * GIB):
        assert capacity.free_bytes == 20 * GIB
        with pytest.raises(NoCapacity), capacity.reserve("c", 21 * GIB):
            pass
    assert capacity.free_bytes == 70 * GIB


def test_a_volume_that_grows_takes_the_difference() -> None:
    capacity = _capacity(_Volumes(a=30 * GIB))
    with capacity.reserve("a", 100 * GIB):
        assert capacity.free_bytes == 0
    with pytest.raises(NoCapacity), capacity.reserve("a", 101 * GIB):
        pass


def test_what_is_promised_already_is_kept_on_a_disk_that_became_too_small() -> None:
    capacity = _capacity(_Volumes(a=300 * GIB))
    assert capacity.free_bytes == 0
    with capacity.reserve("a", 300 * GIB):
        pass


def test_a_volume_that_failed_takes_nothing() -> None:
    volumes = _Volumes(a=30 * GIB, b=50 * GIB)
    volumes.all()["b"].state = VOLUME_STATE_FAILED
    assert _capacity(volumes).free_bytes == 70 * GIB

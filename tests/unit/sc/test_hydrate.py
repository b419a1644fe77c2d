"""A volume that its source has come into: what its map says of it, made true of its bytes."""

from __future__ import annotations

import subprocess
import tracemalloc
from pathlib import Path

import pytest

from common.errors import Unavailable
from common.ids import VolumeId
from services.sc.drivers.qsd import hydrate
from services.sc.drivers.qsd.layout import VolumePlace

_CLUSTER = 64 << 10
_PARTS = 4000


@pytest.fixture
async def place(tmp_path: Path) -> VolumePlace:
    """Written everywhere; the map counts nothing of it yet."""
    place = VolumePlace(volume_id=VolumeId("vol-0123456789abcdef0"), folder=tmp_path, sockets=tmp_path)
    await hydrate.make(place, 8 * _CLUSTER, source_bytes=8 * _CLUSTER)
    place.data.write_bytes(b"old!" * (2 * _CLUSTER))
    return place


def written(place: VolumePlace, *commands: str) -> None:
    options = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", *options, str(place.map)], check=True, stdout=subprocess.DEVNULL)


def test_what_the_map_says_are_zeros_becomes_zeros_and_nothing_else(place: VolumePlace) -> None:
    written(place, "write -P 1 0 64k", "write -z 64k 64k", "write -P 2 128k 64k", "write -z 192k 64k")
    assert hydrate.clear(place, 4 * _CLUSTER)
    expected = [b"\1", b"\0", b"\2", b"\0", b"\0", b"\0", b"\0", b"\0"]
    assert place.data.read_bytes() == b"".join(byte * _CLUSTER for byte in expected)


def test_a_part_of_the_source_that_has_not_come_is_missed(place: VolumePlace) -> None:
    written(place, "write -P 1 0 64k", "write -P 2 128k 64k")
    assert not hydrate.clear(place, 3 * _CLUSTER)
    assert hydrate.clear(place, _CLUSTER)


def test_a_map_that_cannot_be_read_is_no_word_of_a_whole_volume(place: VolumePlace) -> None:
    place.map.write_bytes(b"torn")
    with pytest.raises(Unavailable):
        hydrate.clear(place, 0)


async def test_however_many_parts_it_has_takes_no_memory(tmp_path: Path) -> None:
    """A guest can make as many of them as its volume has clusters."""
    place = VolumePlace(volume_id=VolumeId("vol-0123456789abcdef1"), folder=tmp_path, sockets=tmp_path)
    await hydrate.make(place, 2 * _PARTS * _CLUSTER, source_bytes=2 * _PARTS * _CLUSTER)
    written(place, *(f"write -z {2 * part * _CLUSTER} 64k" for part in range(_PARTS)))
    tracemalloc.start()
    try:
        hydrate.clear(place, 0)
        assert tracemalloc.get_traced_memory()[1] < _PARTS * 100
    finally:
        tracemalloc.stop()

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from mallee.nc.v1 import instance_pb2
from mallee.sc.v1 import volume_pb2
from services.nc.disks import Do, engine_disk, next_step, told
from services.nc.drivers.base import AttachedDisk, ExportSource

VOLUME = "vol-0123456789abcdef0"
GIB = 1 << 30


def disk(*, slot: int = 5, generation: int = 3, size: int = GIB) -> instance_pb2.Disk:
    return instance_pb2.Disk(volume_id=VOLUME, slot=slot, grant_generation=generation, size_bytes=size)


def attached(*, slot: int = 5, generation: int = 3, size: int = GIB) -> AttachedDisk:
    return AttachedDisk(volume_id=VOLUME, slot=slot, generation=generation, size_bytes=size)


SLOTS, GENERATIONS, SIZES = (5, 6), (0, 2, 3, 4), (GIB, 2 * GIB)
WANTED = [None, *(disk(slot=s, generation=g, size=b) for s, g, b in itertools.product(SLOTS, GENERATIONS[1:], SIZES))]
FOUND = [None, *(attached(slot=s, generation=g, size=b) for s, g, b in itertools.product(SLOTS, GENERATIONS, SIZES))]
ALL = list(itertools.product(WANTED, FOUND, (False, True)))


@pytest.mark.parametrize(("wanted", "found", "free"), ALL)
def test_steps_fit_what_is_wanted_and_found(
    wanted: instance_pb2.Disk | None, found: AttachedDisk | None, free: bool
) -> None:
    match next_step(wanted, found, slot_is_free=free):
        case Do.ATTACH:
            assert wanted is not None
            assert found is None
            assert free
        case Do.DETACH:
            assert found is not None
            assert wanted is None or wanted.slot != found.slot
        case Do.REFRESH:
            assert wanted is not None
            assert found is not None
            assert wanted.grant_generation > found.generation or wanted.size_bytes > found.size_bytes
        case None:
            # It rests only where nothing is missing, or another disk is to go first.
            if wanted is None or found is None:
                assert found is None
                assert wanted is None or not free
            else:
                assert (wanted.slot, wanted.size_bytes) <= (found.slot, found.size_bytes)
                assert wanted.grant_generation <= found.generation


@pytest.mark.parametrize("found", FOUND)
@pytest.mark.parametrize("wanted", [None, disk(), disk(slot=6, generation=4, size=2 * GIB)])
def test_every_way_ends_with_what_is_wanted(wanted: instance_pb2.Disk | None, found: AttachedDisk | None) -> None:
    for _ in range(3):
        match next_step(wanted, found):
            case Do.DETACH:
                found = None
            case Do.ATTACH | Do.REFRESH:
                assert wanted is not None
                size = max(wanted.size_bytes, found.size_bytes if found is not None else 0)
                found = attached(slot=wanted.slot, generation=wanted.grant_generation, size=size)
            case None:
                break
    assert next_step(wanted, found) is None
    assert (wanted is None) == (found is None)


@pytest.mark.parametrize("wanted", WANTED)
def test_one_is_told_plugged_only_as_it_is_wanted_and_absent_only_when_it_is_not_there(
    wanted: instance_pb2.Disk | None,
) -> None:
    for found, asked, busy in itertools.product(FOUND, (False, True), (False, True)):
        seen = told(wanted, found, asked=asked, busy=busy)
        if seen is None:
            assert found is None
            assert wanted is None
            continue
        if seen.state == instance_pb2.DISK_STATE_PLUGGED:
            assert found is not None
            assert wanted is not None
            assert wanted.slot == found.slot
            assert seen.grant_generation == found.generation >= wanted.grant_generation
            assert seen.size_bytes == found.size_bytes
        if found is not None and next_step(wanted, found) is Do.DETACH:
            leaving = instance_pb2.DISK_STATE_BUSY if asked and busy else instance_pb2.DISK_STATE_UNPLUGGING
            assert seen.state == leaving
        if wanted is not None and found is None:
            assert (seen.state, seen.grant_generation) == (instance_pb2.DISK_STATE_PLUGGING, wanted.grant_generation)


def test_what_could_not_be_attached_says_why() -> None:
    seen = told(disk(), None, asked=False, busy=False, failure="slot 5 is taken")
    assert seen is not None
    assert (seen.state, seen.message) == (instance_pb2.DISK_STATE_FAILED, "slot 5 is taken")


def test_a_guest_sees_no_more_than_there_is() -> None:
    export = volume_pb2.Export(unix_socket="/run/v", name="v", size_bytes=GIB)
    assert engine_disk(disk(size=2 * GIB), export).size_bytes == GIB
    assert engine_disk(disk(), export).source == ExportSource(name="v", socket=Path("/run/v"))


def test_a_volume_elsewhere_is_reached_by_the_name_in_its_certificate() -> None:
    tls = volume_pb2.TlsEndpoint(address="100.64.0.1", port=10809, server_name="sc-us-east-1a")
    source = engine_disk(disk(), volume_pb2.Export(tls=tls, name="v", size_bytes=GIB)).source
    assert source == ExportSource(name="v", address="100.64.0.1", port=10809, server_name="sc-us-east-1a")

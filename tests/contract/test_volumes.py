"""What every VolumeDriver promises: the fake, and the storage daemons."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from common.errors import NoCapacity, NotFound, WrongState
from common.ids import SnapshotId, VolumeId
from services.sc.drivers.base import BLOCK_BYTES, ExportGrant, ExportPlace, Limits, ObservedVolume, Volume
from tests.contract.volume_bench import Bench, Client, fake_bench, served, started

FIRST, SECOND = VolumeId("vol-0123456789abcdef0"), VolumeId("vol-0123456789abcdef1")
ONE, TWO, THREE = (SnapshotId(f"snap-0123456789abcdef{n}") for n in range(3))
SIZE = 8 * BLOCK_BYTES
NODE, OTHER = "nc-us-east-1a-1", "nc-us-east-1a-2"
KIB = 1024
DEADLINE_S = 30.0


@pytest.fixture(params=["fake", "qsd"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    if request.param == "fake":
        made = fake_bench(tmp_path)
    else:
        made = pytest.importorskip("tests.contract.qsd_bench").qsd_bench(tmp_path)
    async with made as ready:
        await ready.driver.open()
        try:
            yield ready
        finally:
            await ready.driver.destroy()


def volume(volume_id: VolumeId = FIRST, **changes: object) -> Volume:
    return Volume(**{"volume_id": volume_id, "size_bytes": SIZE, "limits": Limits(), **changes})  # type: ignore[arg-type]


def grant(generation: int = 1, node: str = NODE, *, local: bool = True) -> ExportGrant:
    return ExportGrant(generation=generation, node=node, local=local)


@contextlib.asynccontextmanager
async def using(bench: Bench, place: ExportPlace, node: str = NODE) -> AsyncIterator[Client]:
    client = await bench.connect(place, node)
    try:
        yield client
    finally:
        await client.close()


async def seen(bench: Bench, volume_id: VolumeId = FIRST) -> ObservedVolume:
    return (await bench.driver.observe())[volume_id]


async def becomes(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.02)


async def cut_off(client: Client) -> None:
    with pytest.raises(ConnectionError):
        await client.write(0, b"x" * 512)


async def read_point(bench: Bench, snapshot_id: SnapshotId, *, base: SnapshotId | None = None) -> dict[int, bytes]:
    """Changed blocks by index."""
    blocks = {}
    async with bench.driver.frozen(snapshot_id, base=base) as point:
        for extent in await point.changed():
            assert extent.start % BLOCK_BYTES == 0
            assert extent.length % BLOCK_BYTES == 0 or extent.start + extent.length == point.size_bytes
            content = await point.read(extent)
            assert len(content) == extent.length
            for at in range(0, extent.length, BLOCK_BYTES):
                blocks[(extent.start + at) // BLOCK_BYTES] = content[at : at + BLOCK_BYTES]
    return blocks


# Volumes


async def test_a_new_volume_is_zeros_and_keeps_what_is_written(bench: Bench) -> None:
    await bench.driver.create(volume())
    place = await bench.driver.export(FIRST, grant())
    assert place.size_bytes == SIZE
    async with using(bench, place) as client:
        assert await client.read(0, SIZE) == bytes(SIZE)
        await client.write(64 * KIB, b"kept" * 128)
    async with using(bench, place) as client:
        assert await client.read(64 * KIB, 512) == b"kept" * 128


async def test_creating_again_leaves_it_alone(bench: Bench) -> None:
    await bench.driver.create(volume())
    place = await bench.driver.export(FIRST, grant())
    async with using(bench, place) as client:
        await client.write(0, b"kept" * 128)
        await bench.driver.create(volume())
        assert await client.read(0, 512) == b"kept" * 128


async def test_what_is_there_is_observed(bench: Bench) -> None:
    assert dict(await bench.driver.observe()) == {}
    await bench.driver.create(volume())
    await bench.driver.create(volume(SECOND, size_bytes=2 * SIZE))
    found = await bench.driver.observe()
    assert {volume_id: one.size_bytes for volume_id, one in found.items()} == {FIRST: SIZE, SECOND: 2 * SIZE}
    assert found[FIRST].exported is None
    assert not found[FIRST].frozen
    assert not found[FIRST].trouble
    await bench.driver.export(FIRST, grant(3))
    assert (await seen(bench)).exported == grant(3)


async def test_what_is_removed_leaves_nothing_and_its_blocks_are_never_read_again(bench: Bench) -> None:
    before = sorted(bench.remains())
    await bench.driver.create(volume())
    place = await bench.driver.export(FIRST, grant())
    async with using(bench, place) as client:
        await client.write(0, os.urandom(SIZE))
    await bench.driver.freeze({ONE: FIRST})
    with pytest.raises(WrongState):
        await bench.driver.remove(FIRST)
    await bench.driver.unexport(FIRST)
    await bench.driver.remove(FIRST)
    await bench.driver.remove(FIRST)
    assert dict(await bench.driver.observe()) == {}
    assert sorted(bench.remains()) == before
    with pytest.raises(NotFound):
        await read_point(bench, ONE)
    await bench.driver.create(volume())
    async with using(bench, await bench.driver.export(FIRST, grant(2))) as client:
        assert await client.read(0, SIZE) == bytes(SIZE)


async def test_what_is_unknown_is_not_found_or_gone_already(bench: Bench) -> None:
    for refused in (
        bench.driver.resize(FIRST, SIZE),
        bench.driver.limit(FIRST, Limits(iops=1)),
        bench.driver.export(FIRST, grant()),
        bench.driver.freeze({ONE: FIRST}),
        read_point(bench, ONE),
    ):
        with pytest.raises(NotFound):
            await refused
    await bench.driver.unexport(FIRST)
    await bench.driver.remove(FIRST)
    await bench.driver.release(ONE, keep_as_base=True)


async def test_a_full_host_refuses_before_anything_is_written(bench: Bench) -> None:
    full = bench.full()
    await full.open()
    try:
        with pytest.raises(NoCapacity):
            await full.create(volume())
        assert dict(await full.observe()) == {}
        total, used = await full.capacity()
        assert total <= used
    finally:
        await full.destroy()


async def test_capacity_is_told(bench: Bench) -> None:
    total, used = await bench.driver.capacity()
    assert total > used >= 0
    await bench.driver.create(volume())
    async with using(bench, await bench.driver.export(FIRST, grant())) as client:
        await client.write(0, os.urandom(SIZE))
    assert (await bench.driver.capacity())[1] >= used + SIZE
    assert (await seen(bench)).used_bytes >= SIZE


async def test_it_grows_under_its_client_and_never_shrinks(bench: Bench) -> None:
    await bench.driver.create(volume())
    place = await bench.driver.export(FIRST, grant())
    async with using(bench, place) as client:
        await client.write(SIZE - 512, b"last" * 128)
        await bench.driver.resize(FIRST, 2 * SIZE)
        assert await client.read(SIZE - 512, 512) == b"last" * 128
    bigger = await bench.driver.export(FIRST, grant())
    assert bigger.size_bytes == 2 * SIZE
    async with using(bench, bigger) as client:
        assert await client.read(SIZE - 512, 512) == b"last" * 128
        assert await client.read(SIZE, SIZE) == bytes(SIZE)
        await client.write(2 * SIZE - 512, b"more" * 128)
    await bench.driver.resize(FIRST, SIZE)
    assert (await seen(bench)).size_bytes == 2 * SIZE


async def test_limits_may_change_while_it_is_used(bench: Bench) -> None:
    await bench.driver.create(volume(limits=Limits(iops=10_000, throughput_bytes_per_s=1 << 30)))
    async with using(bench, await bench.driver.export(FIRST, grant())) as client:
        await bench.driver.limit(FIRST, Limits(iops=5_000, burst_iops=6_000, burst_s=2))
        await client.write(0, b"on" * 256)
        await bench.driver.limit(FIRST, Limits())
        assert await client.read(0, 512) == b"on" * 256


# Sources


async def test_it_starts_with_its_source_and_goes_on_with_zeros(bench: Bench, tmp_path: Path) -> None:
    content = os.urandom(BLOCK_BYTES) + bytes(BLOCK_BYTES) + os.urandom(BLOCK_BYTES // 2)
    image = tmp_path / "source.raw"
    image.write_bytes(content)
    with served(image, tmp_path / "source.sock") as source:
        await started(source)
        await bench.driver.create(volume(source=source))
        place = await bench.driver.export(FIRST, grant())
        async with using(bench, place) as client:
            await client.write(BLOCK_BYTES, b"mine" * 128)

        async def fetched() -> bool:
            return (await seen(bench)).missing_bytes == 0

        await becomes(fetched)
    async with using(bench, place) as client:
        now = await client.read(0, SIZE)
    expected = bytearray(content.ljust(SIZE, b"\0"))
    expected[BLOCK_BYTES : BLOCK_BYTES + 512] = b"mine" * 128
    assert now == bytes(expected)


async def test_a_volume_of_a_source_is_whole_in_a_snapshot(bench: Bench, tmp_path: Path) -> None:
    image = tmp_path / "source.raw"
    image.write_bytes(content := os.urandom(2 * BLOCK_BYTES))
    with served(image, tmp_path / "source.sock") as source:
        await started(source)
        await bench.driver.create(volume(source=source))
        await bench.driver.freeze({ONE: FIRST})
        blocks = await read_point(bench, ONE)
    assert blocks[0] + blocks[1] == content


# Exports


async def test_one_client_at_a_time(bench: Bench) -> None:
    await bench.driver.create(volume())
    place = await bench.driver.export(FIRST, grant())
    assert await bench.driver.export(FIRST, grant()) == place
    with pytest.raises(WrongState):
        await bench.driver.export(FIRST, grant(2, OTHER))
    async with using(bench, place) as client:
        await client.write(0, b"one!" * 128)


async def test_unexport_cuts_the_client_off_for_good(bench: Bench) -> None:
    await bench.driver.create(volume())
    place = await bench.driver.export(FIRST, grant())
    async with using(bench, place) as client:
        await client.write(0, b"one!" * 128)
        await bench.driver.unexport(FIRST)
        await cut_off(client)
    with pytest.raises(ConnectionError):
        await bench.connect(place, NODE)
    assert (await seen(bench)).exported is None
    again = await bench.driver.export(FIRST, grant(2, OTHER))
    async with using(bench, again, OTHER) as client:
        assert await client.read(0, 512) == b"one!" * 128
    with pytest.raises(ConnectionError):
        await bench.connect(place, NODE)


async def test_a_client_elsewhere_is_known_by_its_name(bench: Bench) -> None:
    await bench.driver.create(volume())
    place = await bench.driver.export(FIRST, grant(local=False))
    assert place.socket is None
    assert place.port
    async with using(bench, place) as client:
        await client.write(0, b"one!" * 128)
    with pytest.raises(ConnectionError):
        await bench.connect(place, OTHER)
    await bench.driver.unexport(FIRST)
    with pytest.raises(ConnectionError):
        await bench.connect(place, NODE)


# Restarts


async def test_clients_go_on_without_the_controller_and_the_next_one_finds_all(bench: Bench) -> None:
    await bench.driver.create(volume())
    place = await bench.driver.export(FIRST, grant())
    async with using(bench, place) as client:
        await client.write(0, b"one!" * 128)
        await bench.driver.freeze({ONE: FIRST})
        before = await seen(bench)
        await bench.driver.close()
        await client.write(0, b"two!" * 128)
        again = bench.again()
        await again.open()
        try:
            found = (await again.observe())[FIRST]
            assert (found.size_bytes, found.exported, found.frozen) == (SIZE, before.exported, frozenset({ONE}))
            assert await again.export(FIRST, grant()) == place
            assert await client.read(0, 512) == b"two!" * 128
            async with again.frozen(ONE, base=None) as point:
                (extent, *_) = await point.changed()
                assert (await point.read(extent))[:512] == b"one!" * 128
        finally:
            await again.close()
    await bench.driver.open()


async def test_an_engine_that_dies_is_back_at_the_same_place_with_every_acknowledged_write(bench: Bench) -> None:
    await bench.driver.create(volume())
    place = await bench.driver.export(FIRST, grant())
    async with using(bench, place) as client:
        await client.write(0, b"one!" * 128)
    changes = bench.driver.changes()
    told = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    bench.kill(FIRST)
    async with asyncio.timeout(DEADLINE_S):
        assert await told == FIRST

    async def back() -> bool:
        with contextlib.suppress(ConnectionError):
            async with using(bench, place) as client:
                assert await client.read(0, 512) == b"one!" * 128
                return True
        return False

    await becomes(back)
    assert (await seen(bench)).exported == grant()


async def test_an_engine_that_died_without_the_controller_is_brought_back(bench: Bench) -> None:
    await bench.driver.create(volume())
    place = await bench.driver.export(FIRST, grant())
    async with using(bench, place) as client:
        await client.write(0, b"one!" * 128)
    await bench.driver.close()
    bench.kill(FIRST)
    again = bench.again()
    await again.open()
    try:
        assert await again.export(FIRST, grant()) == place
        async with using(bench, place) as client:
            assert await client.read(0, 512) == b"one!" * 128
    finally:
        await again.close()
    await bench.driver.open()


# Points in time


async def test_a_point_keeps_what_was_while_the_client_writes_on(bench: Bench) -> None:
    await bench.driver.create(volume())
    async with using(bench, await bench.driver.export(FIRST, grant())) as client:
        await client.write(0, b"old!" * 128)
        await client.write(5 * BLOCK_BYTES, b"five" * 128)
        await bench.driver.freeze({ONE: FIRST})
        await client.write(0, b"new!" * 128)
        await client.write(2 * BLOCK_BYTES, b"late" * 128)
        blocks = await read_point(bench, ONE)
        assert blocks[0][:512] == b"old!" * 128
        assert blocks[5][:512] == b"five" * 128
        assert blocks.get(2, bytes(BLOCK_BYTES)) == bytes(BLOCK_BYTES)
        assert await client.read(0, 512) == b"new!" * 128
    assert (await seen(bench)).frozen == {ONE}
    await bench.driver.release(ONE, keep_as_base=False)
    assert (await seen(bench)).frozen == set()
    with pytest.raises(NotFound):
        await read_point(bench, ONE)


async def test_freezing_again_leaves_the_point_alone(bench: Bench) -> None:
    await bench.driver.create(volume())
    async with using(bench, await bench.driver.export(FIRST, grant())) as client:
        await client.write(0, b"old!" * 128)
        await bench.driver.freeze({ONE: FIRST})
        await client.write(0, b"new!" * 128)
        await bench.driver.freeze({ONE: FIRST})
    assert (await read_point(bench, ONE))[0][:512] == b"old!" * 128


async def test_only_what_changed_since_the_base_is_told(bench: Bench) -> None:
    await bench.driver.create(volume())
    async with using(bench, await bench.driver.export(FIRST, grant())) as client:
        for block in range(4):
            await client.write(block * BLOCK_BYTES, b"old!" * 128)
        await bench.driver.freeze({ONE: FIRST})
        await client.write(BLOCK_BYTES, b"new!" * 128)
        await read_point(bench, ONE)
        await bench.driver.release(ONE, keep_as_base=True)
        await client.write(6 * BLOCK_BYTES, b"new!" * 128)
        await bench.driver.freeze({TWO: FIRST})
        await client.write(7 * BLOCK_BYTES, b"late" * 128)
        second = await read_point(bench, TWO, base=ONE)
        assert set(second) == {1, 6}
        await bench.driver.release(TWO, keep_as_base=True)
        await bench.driver.freeze({THREE: FIRST})
    assert set(await read_point(bench, THREE, base=TWO)) == {7}


async def test_against_a_base_that_is_not_known_everything_counts_as_changed(bench: Bench) -> None:
    await bench.driver.create(volume())
    async with using(bench, await bench.driver.export(FIRST, grant())) as client:
        await client.write(BLOCK_BYTES, b"one!" * 128)
        await bench.driver.freeze({ONE: FIRST})
        await bench.driver.release(ONE, keep_as_base=False)
        await bench.driver.freeze({TWO: FIRST})
    blocks = await read_point(bench, TWO, base=ONE)
    assert set(blocks) == set(range(SIZE // BLOCK_BYTES))


async def test_a_volume_has_several_points_and_each_is_its_own(bench: Bench) -> None:
    await bench.driver.create(volume())
    async with using(bench, await bench.driver.export(FIRST, grant())) as client:
        for number, snapshot_id in enumerate((ONE, TWO, THREE)):
            await client.write(0, bytes([number + 1]) * 512)
            await bench.driver.freeze({snapshot_id: FIRST})
        await client.write(0, b"\xff" * 512)
    for number, snapshot_id in enumerate((ONE, TWO, THREE)):
        assert (await read_point(bench, snapshot_id))[0][:512] == bytes([number + 1]) * 512
    await bench.driver.release(TWO, keep_as_base=False)
    assert (await read_point(bench, ONE))[0][:512] == b"\x01" * 512
    assert (await read_point(bench, THREE))[0][:512] == b"\x03" * 512


async def test_points_of_several_volumes_are_of_one_moment(bench: Bench) -> None:
    """The client writes to the second what was acknowledged on the first: no point of the second is ahead."""
    await bench.driver.create(volume())
    await bench.driver.create(volume(SECOND))
    async with (
        using(bench, await bench.driver.export(FIRST, grant())) as first,
        using(bench, await bench.driver.export(SECOND, grant())) as second,
    ):
        stop = asyncio.Event()

        async def write_on() -> None:
            for number in itertools.count(1):
                if stop.is_set():
                    return
                await first.write(0, number.to_bytes(8, "big") * 64)
                await second.write(0, number.to_bytes(8, "big") * 64)
                await asyncio.sleep(0)

        writing = asyncio.ensure_future(write_on())
        await asyncio.sleep(0)
        await bench.driver.freeze({ONE: FIRST, TWO: SECOND})
        stop.set()
        await writing
    found = [await read_point(bench, point) for point in (ONE, TWO)]
    ahead, behind = (int.from_bytes(blocks.get(0, bytes(8))[:8], "big") for blocks in found)
    assert ahead - behind in (0, 1)


async def test_all_points_or_none(bench: Bench) -> None:
    await bench.driver.create(volume())
    with pytest.raises(NotFound):
        await bench.driver.freeze({ONE: FIRST, TWO: SECOND})
    assert (await seen(bench)).frozen == set()


async def test_a_point_of_a_volume_that_nobody_uses(bench: Bench) -> None:
    await bench.driver.create(volume())
    await bench.driver.freeze({ONE: FIRST})
    assert all(not block.strip(b"\0") for block in (await read_point(bench, ONE)).values())


async def test_growing_after_a_point_changes_nothing_in_it(bench: Bench) -> None:
    await bench.driver.create(volume())
    async with using(bench, await bench.driver.export(FIRST, grant())) as client:
        await client.write(0, b"old!" * 128)
    await bench.driver.freeze({ONE: FIRST})
    with contextlib.suppress(WrongState):
        await bench.driver.resize(FIRST, 2 * SIZE)
    async with bench.driver.frozen(ONE, base=None) as point:
        assert point.size_bytes == SIZE
    assert (await read_point(bench, ONE))[0][:512] == b"old!" * 128

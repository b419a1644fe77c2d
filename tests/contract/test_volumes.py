"""What every VolumeDriver promises: the fake, and the storage daemons."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from common.blocks import BLOCK_BYTES
from common.errors import NoCapacity, NotFound, WrongState
from services.sc.drivers.base import Limits
from tests.contract.volume_bench import Bench, served, started
from tests.contract.volume_suite import (
    DEADLINE_S,
    FIRST,
    KIB,
    NODE,
    ONE,
    OTHER,
    SECOND,
    SIZE,
    bench,
    cut_off,
    grant,
    read_point,
    seen,
    using,
    volume,
)
from tests.eventually import becomes

__all__ = ["bench"]

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


async def test_what_is_behind_its_source_is_zeros_while_that_comes(bench: Bench, tmp_path: Path) -> None:
    image = tmp_path / "source.raw"
    image.write_bytes(content := os.urandom(64 << 20))
    with served(image, tmp_path / "source.sock") as source:
        await started(source)
        await bench.driver.create(volume(source=source, size_bytes=(64 << 20) + SIZE))
        async with using(bench, await bench.driver.export(FIRST, grant())) as client:
            while True:
                coming = (await seen(bench)).missing_bytes
                # Leaves something in the engine's memory.
                assert await client.read(0, SIZE) == content[:SIZE]
                assert await client.read(64 << 20, SIZE) == bytes(SIZE)
                if not coming:
                    break


async def test_a_volume_of_a_source_is_whole_in_a_snapshot(bench: Bench, tmp_path: Path) -> None:
    image = tmp_path / "source.raw"
    image.write_bytes(content := os.urandom(2 * BLOCK_BYTES))
    with served(image, tmp_path / "source.sock") as source:
        await started(source)
        await bench.driver.create(volume(source=source))
        await bench.driver.freeze({ONE: FIRST})
        blocks = await read_point(bench, ONE)
    assert blocks[0] + blocks[1] == content


async def test_it_grows_while_its_source_comes(bench: Bench, tmp_path: Path) -> None:
    image = tmp_path / "source.raw"
    image.write_bytes(content := os.urandom(64 << 20))
    with served(image, tmp_path / "source.sock") as source:
        await started(source)
        await bench.driver.create(volume(source=source, size_bytes=source.size_bytes))

        async def coming() -> bool:
            return (await seen(bench)).missing_bytes < source.size_bytes

        await becomes(coming)
        await bench.driver.resize(FIRST, 2 * source.size_bytes)
        async with using(bench, await bench.driver.export(FIRST, grant())) as client:
            await client.write(source.size_bytes, b"more" * 128)

            async def filled() -> bool:
                return (await seen(bench)).missing_bytes == 0

            await becomes(filled)
            assert await client.read(source.size_bytes - BLOCK_BYTES, BLOCK_BYTES) == content[-BLOCK_BYTES:]
            grown = await client.read(source.size_bytes, BLOCK_BYTES)
            assert grown == b"more" * 128 + bytes(BLOCK_BYTES - 512)
            assert await client.read(2 * source.size_bytes - 512, 512) == bytes(512)


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
    bench.kill(FIRST)
    async with asyncio.timeout(DEADLINE_S):
        assert await anext(changes) == FIRST

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

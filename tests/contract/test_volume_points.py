"""What every VolumeDriver promises of points in time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence

import pytest

from common.blocks import BLOCK_BYTES
from common.errors import NotFound, WrongState
from common.ids import SnapshotId, VolumeId
from tests.contract.volume_bench import Bench, Client
from tests.contract.volume_suite import (
    DEADLINE_S,
    FIRST,
    ONE,
    SECOND,
    SIZE,
    THREE,
    TWO,
    bench,
    grant,
    read_point,
    seen,
    using,
    volume,
)

__all__ = ["bench"]

# Of several volumes: one alone may be right by chance.
MOMENTS = 6


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
    """The client writes to each what was acknowledged on the one before: no point is ahead of one before it."""
    ids = [VolumeId(f"vol-0123456789abcdef{n}") for n in range(4)]
    async with contextlib.AsyncExitStack() as clients:
        writers = []
        for volume_id in ids:
            await bench.driver.create(volume(volume_id))
            place = await bench.driver.export(volume_id, grant())
            writers.append(await clients.enter_async_context(using(bench, place)))
        for number in range(MOMENTS):
            points = [SnapshotId(f"snap-0123456789abcd{number:02}{n}") for n in range(len(ids))]
            async with writing_in_turn(writers):
                await bench.driver.freeze(dict(zip(points, ids, strict=True)))
            found = [await read_point(bench, point) for point in points]
            counts = [int.from_bytes(blocks.get(0, bytes(8))[:8], "big") for blocks in found]
            assert counts[-1]
            assert counts == sorted(counts, reverse=True)
            assert counts[0] - counts[-1] in (0, 1)
            for point in points:
                await bench.driver.release(point, keep_as_base=False)


@contextlib.asynccontextmanager
async def writing_in_turn(writers: Sequence[Client]) -> AsyncIterator[None]:
    """Counts up, the next number once all have the last one. Each has one when it begins."""
    begun, stop = asyncio.Event(), asyncio.Event()

    async def write_on() -> None:
        for number in itertools.count(1):
            if stop.is_set():
                return
            for writer in writers:
                await writer.write(0, number.to_bytes(8, "big") * 64)
            begun.set()
            # The fake's client gives way nowhere else.
            await asyncio.sleep(0)

    writing = asyncio.ensure_future(write_on())
    await begun.wait()
    yield
    stop.set()
    await writing


async def test_points_that_only_some_volumes_have_are_fixed_anew_with_the_others(bench: Bench) -> None:
    """A controller was killed before the last of them stood."""
    for volume_id in (FIRST, SECOND):
        await bench.driver.create(volume(volume_id))
    async with using(bench, await bench.driver.export(FIRST, grant())) as client:
        await bench.driver.freeze({ONE: FIRST})
        await client.write(0, b"late" * 128)
        await bench.driver.freeze({ONE: FIRST, TWO: SECOND})
        await client.write(0, b"more" * 128)
    assert (await read_point(bench, ONE))[0][:512] == b"late" * 128
    assert (await seen(bench, SECOND)).frozen == {TWO}


async def test_all_points_or_none(bench: Bench) -> None:
    await bench.driver.create(volume())
    with pytest.raises(NotFound):
        await bench.driver.freeze({ONE: FIRST, TWO: SECOND})
    assert (await seen(bench)).frozen == set()


async def test_a_caller_who_goes_leaves_nothing_that_a_client_waits_for(bench: Bench) -> None:
    """Wherever it is cut short: the next point is fixed, and writes after it come back."""
    for name in (FIRST, SECOND):
        await bench.driver.create(volume(name))
    async with using(bench, await bench.driver.export(FIRST, grant())) as client:
        for number in range(12):
            freezing = asyncio.ensure_future(bench.driver.freeze({ONE: FIRST, TWO: SECOND}))
            await asyncio.wait([freezing], timeout=number * 0.004)
            freezing.cancel()
            await asyncio.gather(freezing, return_exceptions=True)
            for point in (ONE, TWO):
                await bench.driver.release(point, keep_as_base=False)
            await bench.driver.freeze({THREE: FIRST})
            for at in (0, BLOCK_BYTES):
                await asyncio.wait_for(client.write(at, bytes([number]) * 4096), DEADLINE_S)
            await bench.driver.release(THREE, keep_as_base=False)


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

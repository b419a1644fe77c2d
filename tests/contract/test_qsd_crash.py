"""Storage daemons that are killed while their clients write, and disks that fill: what was acknowledged is there."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from common.blocks import BLOCK_BYTES
from common.ids import SnapshotId, VolumeId
from services.sc.drivers.base import ExportGrant, Extent, Limits, Volume
from services.sc.drivers.qsd import hydrate, points
from services.sc.drivers.qsd.door import DoorKeys
from services.sc.drivers.qsd.engine import Around, VolumeEngine
from services.sc.drivers.qsd.layout import Layout
from tests.contract.nbd_writer import NbdWriter
from tests.contract.qsd_bench import NODES, QsdBench, qsd_bench
from tests.contract.volume_bench import served, started
from tests.contract.volume_suite import read_point
from tests.eventually import becomes

FIRST = VolumeId("vol-0123456789abcdef0")
ONE, TWO = SnapshotId("snap-0123456789abcdef0"), SnapshotId("snap-0123456789abcdef1")
SIZE = 16 * BLOCK_BYTES
SECTOR = 4096
# Nobody else fills or empties the disk by so much meanwhile.
_SPARE_BYTES = 2 << 30
# What is not done by then waits.
WAITS_S = 0.3
GRANT = ExportGrant(generation=1, node=NODES[0], local=True)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[QsdBench]:
    async with qsd_bench(tmp_path) as made:
        await made.driver.open()
        try:
            yield made
        finally:
            await made.driver.destroy()


class CheckedWriter:
    """Writes sectors anywhere, one after the other, and remembers what was acknowledged."""

    def __init__(self, client: NbdWriter, content: bytes) -> None:
        self.written = 0
        self._client = client
        self.content = bytearray(content)
        self._random = random.Random(1)
        self._stop = asyncio.Event()

    async def run(self) -> None:
        while not self._stop.is_set():
            at = self._random.randrange(SIZE // SECTOR) * SECTOR
            sector = self._random.randbytes(SECTOR)
            await self._client.write(at, sector)
            self.content[at : at + SECTOR] = sector
            self.written += 1

    def end(self) -> None:
        self._stop.set()


async def connected(bench: QsdBench, grant: ExportGrant = GRANT) -> NbdWriter:
    client = NbdWriter(await bench.driver.export(FIRST, grant), bench.context(grant.node))
    await client.connect()
    return client


async def connected_to(bench: QsdBench, client: NbdWriter) -> NbdWriter:
    """Once more, to the same place."""
    other = NbdWriter(client.place, bench.context(NODES[0]))
    await other.connect()
    return other


async def killed_under(bench: QsdBench, writer: CheckedWriter, *, times: int) -> None:
    for _ in range(times):
        so_far = writer.written

        async def wrote(so_far: int = so_far) -> bool:
            return writer.written > so_far + 20

        await becomes(wrote)
        bench.kill(FIRST)


@pytest.mark.parametrize("local", [True, False])
async def test_no_acknowledged_write_is_lost_to_kill_9(bench: QsdBench, local: bool) -> None:
    await bench.driver.create(Volume(volume_id=FIRST, size_bytes=SIZE, limits=Limits()))
    client = await connected(bench, ExportGrant(generation=1, node=NODES[0], local=local))
    writer = CheckedWriter(client, bytes(SIZE))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(writer.run())
        await killed_under(bench, writer, times=3)
        writer.end()
    assert await client.read(0, SIZE) == bytes(writer.content)
    await client.close()


async def test_a_volume_that_fills_loses_nothing_to_kill_9_of_it_and_of_its_source(
    bench: QsdBench, tmp_path: Path
) -> None:
    image = tmp_path / "source.raw"
    image.write_bytes(content := os.urandom(SIZE))
    socket = tmp_path / "source.sock"
    with served(image, socket) as source:
        await started(source)
        await bench.driver.create(Volume(volume_id=FIRST, size_bytes=SIZE, limits=Limits(), source=source))
        client = await connected(bench)
        writer = CheckedWriter(client, content)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(writer.run())
            await killed_under(bench, writer, times=1)
            writer.end()
    socket.unlink()
    with served(image, socket) as source:
        await started(source)

        async def filled() -> bool:
            return (await bench.driver.observe())[FIRST].missing_bytes == 0

        await becomes(filled)
    assert await client.read(0, SIZE) == bytes(writer.content)
    bench.kill(FIRST)
    assert await client.read(0, SIZE) == bytes(writer.content)
    await client.close()


async def test_what_changed_is_not_known_after_kill_9_and_all_counts(bench: QsdBench) -> None:
    await bench.driver.create(Volume(volume_id=FIRST, size_bytes=SIZE, limits=Limits()))
    client = await connected(bench)
    await client.write(0, b"one!" * 128)
    await bench.driver.freeze({ONE: FIRST})
    await bench.driver.release(ONE, keep_as_base=True)
    await client.write(3 * BLOCK_BYTES, b"two!" * 128)
    bench.kill(FIRST)
    assert (await client.read(0, 512)) == b"one!" * 128
    await bench.driver.freeze({TWO: FIRST})
    blocks = await read_point(bench, TWO, base=ONE)
    assert set(blocks) == set(range(SIZE // BLOCK_BYTES))
    assert blocks[3][:512] == b"two!" * 128
    await client.close()


async def test_a_point_that_died_with_its_daemon_is_told_as_lost(bench: QsdBench) -> None:
    await bench.driver.create(Volume(volume_id=FIRST, size_bytes=SIZE, limits=Limits()))
    client = await connected(bench)
    await bench.driver.freeze({ONE: FIRST})
    bench.kill(FIRST)
    assert await client.read(0, 512) == bytes(512)
    assert (await bench.driver.observe())[FIRST].frozen == frozenset()
    await bench.driver.release(ONE, keep_as_base=True)
    await client.close()


async def test_a_controller_that_dies_between_the_points_of_several_volumes_keeps_no_client_waiting(
    bench: QsdBench, tmp_path: Path
) -> None:
    await bench.driver.create(Volume(volume_id=FIRST, size_bytes=SIZE, limits=Limits()))
    client = await connected(bench)
    await bench.driver.close()
    place = Layout(tmp_path / "engine", bench.monitor(FIRST).parent.parent).place(FIRST)
    keys = DoorKeys(folder=tmp_path / "engine" / "tls", address="127.0.0.1")
    engine = VolumeEngine(place, Around(keys=keys, direct=True), died=lambda: None)
    async with engine.lock:
        point = await points.name(engine, ONE)
        await points.prepare(engine, point, closed=True)
        await points.fix(engine, point)
    waiting = asyncio.ensure_future(client.write(0, b"one!" * 128))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), WAITS_S)
    await engine.let_go()
    again = bench.again()
    await again.open()
    await waiting
    assert (await again.observe())[FIRST].frozen == frozenset()
    await again.freeze({ONE: FIRST})
    async with again.frozen(ONE, base=None) as frozen:
        assert (await frozen.read(Extent(start=0, length=512))) == b"one!" * 128
    await client.close()


async def test_a_point_is_of_one_moment_while_its_client_writes(bench: QsdBench) -> None:
    """The client counts up, each block after the last: in a point no block is two counts behind one before it."""
    await bench.driver.create(Volume(volume_id=FIRST, size_bytes=SIZE, limits=Limits()))
    client = await connected(bench)
    stop = asyncio.Event()

    async def count() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for block in range(SIZE // BLOCK_BYTES):
                await client.write(block * BLOCK_BYTES, number.to_bytes(8, "big") * 64)

    counting = asyncio.ensure_future(count())
    for point in (ONE, TWO):
        await bench.driver.freeze({point: FIRST})
        blocks = await read_point(bench, point)
        counts = [int.from_bytes(blocks.get(block, bytes(8))[:8], "big") for block in range(SIZE // BLOCK_BYTES)]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] - counts[-1] <= 1
        await bench.driver.release(point, keep_as_base=True)
    stop.set()
    await counting
    await client.close()


async def test_writes_wait_while_the_disk_has_only_what_is_kept_for_the_host(bench: QsdBench) -> None:
    await bench.driver.create(Volume(volume_id=FIRST, size_bytes=SIZE, limits=Limits()))
    client = await connected(bench)
    await client.write(0, b"one!" * 128)
    await bench.driver.close()
    full = bench.leaving(1 << 60)
    await full.open()
    assert "full" in (await full.observe())[FIRST].trouble
    # The first one goes through: it takes up all that may be written for a long time.
    await client.write(0, b"two!" * 1024)
    late = asyncio.ensure_future(client.write(SECTOR, b"late" * 1024))
    other = await connected_to(bench, client)
    assert await other.read(0, 512) == b"two!" * 128
    assert not late.done()
    await other.close()
    await full.close()
    await bench.driver.open()
    await late
    assert await client.read(SECTOR, 512) == b"late" * 128
    await client.close()


async def test_a_source_does_not_come_into_what_is_kept_for_the_host(bench: QsdBench, tmp_path: Path) -> None:
    image = tmp_path / "source.raw"
    image.write_bytes(content := os.urandom(64 << 20))
    with served(image, tmp_path / "source.sock") as source:
        await started(source)
        size = source.size_bytes
        await bench.driver.create(Volume(volume_id=FIRST, size_bytes=size, limits=Limits(), source=source))
        await bench.driver.close()
        full = bench.leaving(1 << 60)
        await full.open()
        before = (await full.observe())[FIRST]
        assert before.missing_bytes == size
        engine = full._engines[FIRST]
        for _ in range(3):
            async with engine.lock:
                await hydrate.step(engine)
        assert (await full.observe())[FIRST].used_bytes == before.used_bytes
        await full.close()
        await bench.driver.open()

        async def filled() -> bool:
            return (await bench.driver.observe())[FIRST].missing_bytes == 0

        await becomes(filled)
    client = await connected(bench)
    assert await client.read(size - SECTOR, SECTOR) == content[-SECTOR:]
    await client.close()


async def test_a_daemon_that_hung_when_space_came_back_lets_writes_on_when_it_answers(
    bench: QsdBench, tmp_path: Path
) -> None:
    await bench.driver.create(Volume(volume_id=FIRST, size_bytes=SIZE, limits=Limits()))
    client = await connected(bench)
    await bench.driver.close()
    driver = bench.leaving(shutil.disk_usage(tmp_path).free - _SPARE_BYTES)
    await driver.open()

    def trouble(word: str) -> Callable[[], Awaitable[bool]]:
        async def told() -> bool:
            return word in (await driver.observe())[FIRST].trouble

        return told

    filler = tmp_path / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 2 * _SPARE_BYTES)
    await becomes(trouble("full"))
    await client.write(0, b"one!" * 1024)
    late = asyncio.ensure_future(client.write(SECTOR, b"late" * 1024))
    bench.hang(FIRST)
    filler.unlink()
    # Nobody gets an answer of it now.
    await becomes(trouble("does not answer"))
    bench.wake(FIRST)
    await asyncio.wait_for(late, 30)
    assert await client.read(SECTOR, 512) == b"late" * 128
    await client.close()


async def test_a_daemon_that_cannot_be_spoken_to_is_replaced(bench: QsdBench) -> None:
    """Its monitor's name was taken by another one, which ended: of a controller that was killed while it started it."""
    await bench.driver.create(Volume(volume_id=FIRST, size_bytes=SIZE, limits=Limits()))
    client = await connected(bench)
    await client.write(0, b"kept" * 128)
    await bench.driver.close()
    bench.monitor(FIRST).unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(bench.monitor(FIRST)))
        other.listen()
    await bench.driver.open()
    assert not (await bench.driver.observe())[FIRST].trouble
    assert await client.read(0, 512) == b"kept" * 128
    await client.close()

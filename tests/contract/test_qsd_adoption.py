"""A controller that is killed at any moment: the next one finds a volume it can use, fence and remove, whole."""

from __future__ import annotations

import asyncio
import functools
import random
import shutil
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.pki import create_authority, issue
from services.sc.drivers.base import ExportGrant, Limits, Volume
from services.sc.drivers.qsd.driver import QsdVolumes
from tests import processes
from tests.contract.nbd_writer import NbdWriter
from tests.contract.qsd_bench import client_context, daemons_of
from tests.contract.qsd_controller import NODE, POINTS, SIZE, VOLUME, driver_at
from tests.eventually import becomes

ROUNDS = 6
LONGEST_S = 0.6


@pytest.fixture
async def places(tmp_path: Path) -> AsyncIterator[tuple[Path, Path, Path]]:
    sockets = Path(tempfile.mkdtemp(prefix="mallee-qsd-"))
    pki = tmp_path / "pki"
    create_authority(pki)
    issue(pki, "sc-us-east-1a", "sc", ips=["127.0.0.1"])
    issue(pki, NODE, "nc")
    try:
        yield tmp_path / "engine", sockets / "engine", pki
    finally:
        for pid in daemons_of(sockets):
            processes.kill(int(pid))
        shutil.rmtree(sockets)


async def killed_at_work(places: tuple[Path, Path, Path], after_s: float) -> None:
    command = [sys.executable, "-m", "tests.contract.qsd_controller", *map(str, places)]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"on\n", (await process.stderr.read()).decode()
        # However far it has come by then.
        await asyncio.sleep(after_s)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _is_well(driver: QsdVolumes) -> bool:
    return not any(one.trouble for one in (await driver.observe()).values())


async def test_the_next_controller_finds_all_as_it_should_be(places: tuple[Path, Path, Path]) -> None:
    chance = random.Random(4)
    for number in range(ROUNDS):
        await killed_at_work(places, chance.uniform(0, LONGEST_S))
        driver = driver_at(*places)
        await driver.open()
        # What the dead one had just started, or asked to end, may be in the way for a moment.
        await becomes(functools.partial(_is_well, driver))
        found = await driver.observe()
        if VOLUME in found and (stands := found[VOLUME].exported):
            place = await driver.export(VOLUME, stands)
            client = NbdWriter(place, client_context(places[2], NODE))
            await client.connect()
            await client.write(0, number.to_bytes(8, "big") * 64)
            await driver.unexport(VOLUME)
            with pytest.raises(ConnectionError):
                await client.connect()
            await client.close()
        await driver.create(Volume(volume_id=VOLUME, size_bytes=SIZE, limits=Limits()))
        grant = ExportGrant(generation=1_000_000 + number, node=NODE, local=True)
        await driver.unexport(VOLUME)
        client = NbdWriter(await driver.export(VOLUME, grant), client_context(places[2], NODE))
        await client.connect()
        await client.write(0, b"mine" * 128)
        for point in POINTS:
            await driver.release(point, keep_as_base=False)
        for point in POINTS:
            await driver.freeze({point: VOLUME})
        async with driver.frozen(POINTS[0], base=None) as frozen:
            (extent, *_) = await frozen.changed()
            assert (await frozen.read(extent))[:512] == b"mine" * 128
        await client.close()
        await driver.unexport(VOLUME)
        await driver.remove(VOLUME)
        await driver.close()
        assert daemons_of(places[1]) == []
        assert [path.name for path in places[0].iterdir()] == ["tls"]

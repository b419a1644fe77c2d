"""A volume's daemon runs beside the thread of its guest's QEMU, on the core that both know by the volume's name."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.cores import core_of
from services.sc.drivers.base import ExportGrant, Limits, Volume
from tests.contract.qsd_bench import NODES, QsdBench, qsd_bench
from tests.contract.volume_suite import FIRST, ONE, SIZE
from tests.eventually import becomes
from tests.processes import cores_of

HERE = ExportGrant(generation=1, node=NODES[0], local=True)
ELSEWHERE = ExportGrant(generation=2, node=NODES[1], local=False)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[QsdBench]:
    async with qsd_bench(tmp_path) as made:
        await made.driver.open()
        try:
            yield made
        finally:
            await made.driver.destroy()


async def test_a_daemon_shares_the_core_of_its_volume_with_a_guest_of_its_host(bench: QsdBench) -> None:
    usable = os.sched_getaffinity(0)
    one = {core_of(FIRST, usable)}
    await bench.driver.create(Volume(volume_id=FIRST, size_bytes=SIZE, limits=Limits()))
    place = await bench.driver.export(FIRST, HERE)
    first = bench.pid(FIRST)
    assert cores_of(first) == one

    # Whoever brings its successor up.
    bench.kill(FIRST)

    async def is_back() -> bool:
        return bench.pid(FIRST) != first and cores_of(bench.pid(FIRST)) == one

    await becomes(is_back)
    client = await bench.connect(place, NODES[0])
    await client.close()

    # A point keeps the daemon when its guest goes. One of another host has no thread here.
    await bench.driver.freeze({ONE: FIRST})
    again = bench.pid(FIRST)
    await bench.driver.unexport(FIRST)
    await bench.driver.export(FIRST, ELSEWHERE)
    assert bench.pid(FIRST) == again
    assert cores_of(again) == usable

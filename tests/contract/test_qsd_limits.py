"""What a volume's type lets it do is in force in its storage daemon, and no client gets past it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from qemu.qmp import QMPClient

from common.blocks import BLOCK_BYTES
from common.ids import VolumeId
from mallee.sc.v1 import volume_pb2
from services.clc.volume.types import TYPES, check_shape
from services.clc.volume.types import limits_of as limits_of_shape
from services.sc.drivers.base import ExportGrant, Limits, Volume
from services.sc.volume import limits_of
from tests.contract.nbd_writer import NbdWriter
from tests.contract.qsd_bench import NODES, QsdBench, qsd_bench

FIRST = VolumeId("vol-0123456789abcdef0")
SIZE = 32 * BLOCK_BYTES
KIB, MIB = 1 << 10, 1 << 20
NO_BURST = (0, 1)

# Type, GiB, IOPS and MiB/s as given → IOPS, MiB/s, and what a gp2 volume may do beyond, for how many seconds.
# https://docs.aws.amazon.com/ebs/latest/userguide/ebs-volume-types.html
RULES: Final = [
    ({"volume_type": "gp2", "size_gib": 8}, 100, 128, (3000, 1862)),
    ({"volume_type": "gp2", "size_gib": 500}, 1500, 250, (3000, 3600)),
    ({"volume_type": "gp2", "size_gib": 5334}, 16_000, 250, NO_BURST),
    ({"volume_type": "gp3", "size_gib": 8}, 3000, 125, NO_BURST),
    ({"volume_type": "gp3", "size_gib": 100, "iops": 16_000, "throughput_mibps": 1000}, 16_000, 1000, NO_BURST),
    ({"volume_type": "io1", "size_gib": 10, "iops": 500}, 500, 125, NO_BURST),
    ({"volume_type": "io2", "size_gib": 10, "iops": 10_000}, 10_000, 2500, NO_BURST),
    ({"volume_type": "st1", "size_gib": 512}, 500, 125, NO_BURST),
    ({"volume_type": "sc1", "size_gib": 1024}, 320, 80, NO_BURST),
    ({"volume_type": "standard", "size_gib": 8}, 200, 90, NO_BURST),
]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[QsdBench]:
    async with qsd_bench(tmp_path) as made:
        await made.driver.open()
        yield made


def limits_of_type(**given: Any) -> Limits:
    return limits_of(volume_pb2.VolumeSpec(limits=limits_of_shape(check_shape(**given))))


async def in_force(bench: QsdBench) -> dict[str, int]:
    """As the daemon of the first volume says itself; its controller has let go of it."""
    await bench.driver.close()
    client = QMPClient("limits")
    await client.connect(str(bench.monitor(FIRST)))
    try:
        told: Any = await client.execute("qom-get", {"path": "/objects/limits", "property": "limits"})
        exports: Any = await client.execute("query-block-exports")
        nodes: Any = await client.execute("query-named-block-nodes", {"flat": True})
    finally:
        await client.disconnect()
    # What clients reach is what the limits are of.
    kinds = {node["node-name"]: node["drv"] for node in nodes}
    assert [kinds[export["node-name"]] for export in exports] == ["throttle"]
    return {name: value for name, value in told.items() if isinstance(value, int)}


def test_every_type_has_its_rule() -> None:
    assert {given["volume_type"] for given, *_ in RULES} == set(TYPES)


@pytest.mark.parametrize(("given", "iops", "throughput_mib", "burst"), RULES)
async def test_a_type_is_in_force(
    bench: QsdBench, given: dict[str, Any], iops: int, throughput_mib: int, burst: tuple[int, int]
) -> None:
    await bench.driver.create(Volume(volume_id=FIRST, size_bytes=SIZE, limits=limits_of_type(**given)))
    await (await connected(bench)).close()
    told = await in_force(bench)
    assert (told["iops-total"], told["bps-total"], told["iops-size"]) == (iops, throughput_mib * MIB, 256 * KIB)
    assert (told["iops-total-max"], told["iops-total-max-length"]) == burst
    others = {"iops-total", "bps-total", "iops-size", "iops-total-max"}
    assert {name for name, value in told.items() if value and not name.endswith("-length")} <= others


async def test_a_type_that_changes_is_in_force_and_outlives_the_daemon(bench: QsdBench) -> None:
    driver = bench.driver
    await driver.create(Volume(volume_id=FIRST, size_bytes=SIZE, limits=limits_of_type(volume_type="gp2", size_gib=8)))
    await driver.limit(FIRST, limits_of_type(volume_type="gp3", size_gib=8, iops=4000))
    client = await connected(bench)
    bench.kill(FIRST)
    # Served anew.
    await client.read(0, 512)
    await client.close()
    told = await in_force(bench)
    assert (told["iops-total"], told["bps-total"], told["iops-total-max"]) == (4000, 125 * MIB, 0)


@pytest.mark.parametrize(
    ("limits", "length", "count", "most_per_s"),
    [
        (Limits(iops=100), 4 * KIB, 150, 100),
        # A large operation counts as several.
        (Limits(iops=100), 512 * KIB, 80, 50),
        (Limits(throughput_bytes_per_s=16 * MIB), 512 * KIB, 40, 32),
    ],
)
async def test_no_client_gets_past_a_limit(
    bench: QsdBench, limits: Limits, length: int, count: int, most_per_s: int
) -> None:
    """However slow or fast the machine: it is what was done in the time that it took that is compared."""
    await bench.driver.create(Volume(volume_id=FIRST, size_bytes=SIZE, limits=limits))
    client = await connected(bench)

    async def done_per_s(act: Callable[[], Awaitable[object]]) -> float:
        began = time.perf_counter()
        for _ in range(count):
            await act()
        return count / (time.perf_counter() - began)

    content = bytes(length)
    # QEMU lets a tenth of a second's worth through at once.
    assert await done_per_s(lambda: client.read(0, length)) < most_per_s * 1.25
    assert await done_per_s(lambda: client.write(0, content)) < most_per_s * 1.25
    await client.close()


async def connected(bench: QsdBench) -> NbdWriter:
    grant = ExportGrant(generation=1, node=NODES[0], local=True)
    client = NbdWriter(await bench.driver.export(FIRST, grant), bench.context(NODES[0]))
    await client.connect()
    return client

"""What the tests of volume drivers share: the benches, and short words for what is done on them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.blocks import BLOCK_BYTES
from common.ids import SnapshotId, VolumeId
from services.sc.drivers.base import ExportGrant, ExportPlace, Limits, ObservedVolume, Volume
from tests.contract.volume_bench import Bench, Client, fake_bench

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

"""Who may reach a volume of the storage daemons: the one client of the grant, for as long as it stands."""

from __future__ import annotations

import asyncio
import os
import ssl
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.blocks import BLOCK_BYTES
from common.ids import SnapshotId, VolumeId
from common.pki import create_authority, issue
from services.sc.drivers.base import ExportGrant, Limits, Volume
from tests.contract.nbd_writer import NbdWriter, option
from tests.contract.qsd_bench import NODES, QsdBench, client_context, qsd_bench
from tests.contract.volume_bench import served, started

FIRST, SECOND = VolumeId("vol-0123456789abcdef0"), VolumeId("vol-0123456789abcdef1")
SNAPSHOT = SnapshotId("snap-0123456789abcdef0")
SIZE = 4 * BLOCK_BYTES
MINE, THEIRS = (ExportGrant(generation=n, node=NODES[n - 1], local=True) for n in (1, 2))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[QsdBench]:
    async with qsd_bench(tmp_path) as made:
        await made.driver.open()
        await made.driver.create(Volume(volume_id=FIRST, size_bytes=SIZE, limits=Limits()))
        try:
            yield made
        finally:
            await made.driver.destroy()


async def refused(client: NbdWriter) -> None:
    with pytest.raises(ConnectionError):
        await client.connect()


async def test_who_waits_at_the_door_when_the_grant_ends_is_not_let_in(bench: QsdBench) -> None:
    """A connection that has not named its export yet survives no fence, and the old name opens nothing."""
    place = await bench.driver.export(FIRST, MINE)
    assert place.socket is not None
    reader, writer = await asyncio.open_unix_connection(place.socket)
    await reader.readexactly(18)
    await bench.driver.unexport(FIRST)
    await bench.driver.export(FIRST, THEIRS)
    writer.write(struct.pack(">I", 3))
    name = place.name.encode()
    with pytest.raises((OSError, EOFError)):
        await option(reader, writer, 7, struct.pack(">I", len(name)) + name + b"\0\0")
    writer.close()


async def test_a_point_that_stands_keeps_no_client_in(bench: QsdBench) -> None:
    place = await bench.driver.export(FIRST, MINE)
    client = NbdWriter(place, bench.context(NODES[0]))
    await client.connect()
    await bench.driver.freeze({SNAPSHOT: FIRST})
    await bench.driver.unexport(FIRST)
    with pytest.raises(ConnectionError):
        await client.write(0, b"late" * 128)
    await refused(NbdWriter(place, bench.context(NODES[0])))
    after = NbdWriter(await bench.driver.export(FIRST, THEIRS), bench.context(NODES[1]))
    await after.connect()
    assert await after.read(0, 512) == bytes(512)
    await after.close()


async def test_a_daemon_that_hangs_is_fenced_too(bench: QsdBench) -> None:
    place = await bench.driver.export(FIRST, MINE)
    client = NbdWriter(place, bench.context(NODES[0]))
    await client.connect()
    bench.hang(FIRST)
    late = asyncio.ensure_future(client.write(0, b"late" * 128))
    await bench.driver.unexport(FIRST)
    with pytest.raises(ConnectionError):
        await late
    after = NbdWriter(await bench.driver.export(FIRST, THEIRS), bench.context(NODES[1]))
    await after.connect()
    assert await after.read(0, 512) == bytes(512)
    await after.close()


async def test_a_volume_whose_source_is_away_is_fenced_too(bench: QsdBench, tmp_path: Path) -> None:
    """Its daemon cannot come up again before the source does: that is no reason to leave its client the volume."""
    image = tmp_path / "source.raw"
    image.write_bytes(os.urandom(64 << 20))
    with served(image, tmp_path / "source.sock") as source:
        await started(source)
        size = source.size_bytes
        await bench.driver.create(Volume(volume_id=SECOND, size_bytes=size, limits=Limits(), source=source))
        place = await bench.driver.export(SECOND, MINE)
        bench.hang(SECOND)
    await bench.driver.unexport(SECOND)
    assert (await bench.driver.observe())[SECOND].exported is None
    await refused(NbdWriter(place, bench.context(NODES[0])))


async def test_only_the_certificate_of_the_grant_opens_the_way_from_another_host(
    bench: QsdBench, tmp_path: Path
) -> None:
    place = await bench.driver.export(FIRST, replace(MINE, local=False))
    create_authority(tmp_path / "other-pki")
    issue(tmp_path / "other-pki", NODES[0], "nc")
    strangers = client_context(tmp_path / "other-pki", NODES[0])
    strangers.verify_mode = ssl.CERT_NONE
    for context in (bench.context(NODES[1]), strangers):
        await refused(NbdWriter(place, context))
    reader, writer = await asyncio.open_connection(place.address, place.port)
    await reader.readexactly(18)
    writer.write(struct.pack(">I", 3))
    name = place.name.encode()
    with pytest.raises((OSError, EOFError)):
        await option(reader, writer, 7, struct.pack(">I", len(name)) + name + b"\0\0")
    writer.close()
    client = NbdWriter(place, bench.context(NODES[0]))
    await client.connect()
    await client.write(0, b"mine" * 128)
    await client.close()

"""A volume's whole way: frozen while it is written, to Walrus, and into another volume, whatever is killed on it."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common.blocks import BLOCK_BYTES
from common.errors import NotFound, Unavailable
from common.etcd.client import Etcd
from common.etcd.membership import Membership
from common.ids import AccountId, SnapshotId, VolumeId
from common.pki import Identity
from common.rpc.peers import Peers
from mallee.walrus.v1.service_pb2_grpc import WalrusServiceStub
from services.sc.clients import Progress, Upload, Uploaded
from services.sc.drivers.base import ExportGrant, Limits, Volume
from services.sc.source import WalrusSources
from services.sc.source_files import SourceFiles
from services.sc.upload import WalrusUploader
from tests import processes
from tests.contract.qsd_bench import qsd_bench
from tests.contract.volume_bench import Bench, Client
from tests.etcd_fixture import EtcdServer
from tests.eventually import becomes, eventually
from tests.service.walrus_fixtures import etcd_server, home
from tests.service.walrus_process import ENVIRONMENT, walrus
from tests.service.walrus_snapshots import download

__all__ = ["etcd_server", "home"]

if TYPE_CHECKING:
    from mallee.walrus.v1.service_pb2_grpc import WalrusServiceAsyncStub

OLD, NEW = VolumeId("vol-0123456789abcdef0"), VolumeId("vol-0123456789abcdef1")
FIRST, SECOND, THIRD = (SnapshotId(f"snap-0000000000000000{number}") for number in (1, 2, 3))
NODE = "nc-us-east-1a-1"
BLOCKS = 96
SIZE = BLOCKS * BLOCK_BYTES


@pytest.fixture
async def stub(home: Path, etcd_server: EtcdServer) -> AsyncIterator[Callable[[], WalrusServiceAsyncStub]]:
    identity = Identity.load(home / "pki", "sc-a")
    async with (
        walrus(home),
        Etcd([etcd_server.address], identity) as etcd,
        Membership(etcd) as membership,
        Peers(membership, identity, "walrus") as peers,
    ):
        await eventually(lambda: peers.members, within_s=60)
        yield lambda: peers.stub(WalrusServiceStub)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with qsd_bench(tmp_path / "engine") as bench:
        await bench.driver.open()
        try:
            yield bench
        finally:
            await bench.driver.destroy()


@asynccontextmanager
async def sources_of(home: Path, stub: Callable[[], WalrusServiceAsyncStub]) -> AsyncIterator[WalrusSources]:
    # It works in the root folder.
    command = ("env", f"PYTHONPATH={ENVIRONMENT['PYTHONPATH']}", sys.executable, "-m", "services.sc.source_main")
    sources = WalrusSources(
        home / "sources",
        home / "source",
        command=[*command, "--config", str(home / "mallee.toml"), "--member", "sc-a"],
        holder="sc-a",
        walrus=stub,
    )
    await sources.open()
    try:
        yield sources
    finally:
        await sources.destroy()
        await sources.close()


async def connected(bench: Bench) -> Client:
    """The first volume, and its client."""
    await bench.driver.create(Volume(volume_id=OLD, size_bytes=SIZE, limits=Limits()))
    place = await bench.driver.export(OLD, ExportGrant(generation=1, node=NODE, local=True))
    return await bench.connect(place, NODE)


async def uploaded(
    bench: Bench,
    uploader: WalrusUploader,
    notes: Path,
    snapshot_id: SnapshotId,
    base: SnapshotId | None,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Uploaded:
    async with bench.driver.frozen(snapshot_id, base=base) as content:
        upload = Upload(
            snapshot_id=snapshot_id, account_id=AccountId("1" * 12), base=base, content=content, notes=notes
        )
        done = await uploader.upload(upload, tell)
    await bench.driver.release(snapshot_id, keep_as_base=True)
    return done


async def test_a_volume_of_a_snapshot_is_what_the_other_was_whatever_dies(
    home: Path, stub: Callable[[], WalrusServiceAsyncStub], bench: Bench
) -> None:
    chance = random.Random(3)
    uploader = WalrusUploader(stub)
    notes = [home / name for name in ("first", "second")]
    for folder in notes:
        folder.mkdir()

    client = await connected(bench)
    body = bytearray(SIZE)

    async def write(index: int, content: bytes) -> None:
        body[index * BLOCK_BYTES : index * BLOCK_BYTES + len(content)] = content
        await client.write(index * BLOCK_BYTES, content)

    for index in range(0, BLOCKS, 2):
        await write(index, chance.randbytes(BLOCK_BYTES))
    await bench.driver.freeze({FIRST: OLD})
    # What is written from here on is in the second one alone.
    await write(10, chance.randbytes(BLOCK_BYTES))
    await write(51, chance.randbytes(4096))
    assert (await uploaded(bench, uploader, notes[0], FIRST, None)).progress.sent_bytes == SIZE // 2
    await bench.driver.freeze({SECOND: OLD})
    then = bytes(body)
    await write(20, chance.randbytes(BLOCK_BYTES))
    second = await uploaded(bench, uploader, notes[1], SECOND, FIRST)
    assert BLOCK_BYTES <= second.progress.sent_bytes < 2 * BLOCK_BYTES
    assert second.full_bytes == (BLOCKS // 2 + 1) * BLOCK_BYTES

    async def is_filled() -> bool:
        return not (await bench.driver.observe())[NEW].missing_bytes

    files = SourceFiles(home / "sources")
    async with sources_of(home, stub) as sources:
        source = await sources.serve(SECOND)
        await bench.driver.create(Volume(volume_id=NEW, size_bytes=2 * SIZE, limits=Limits(), source=source))
        # The snapshot is deleted, and what serves it dies, while the volume is read and filled.
        await uploader.forget(SECOND)
        died = files.holder()
        assert died is not None
        processes.kill(died)
        place = await bench.driver.export(NEW, ExportGrant(generation=1, node=NODE, local=True))
        reader = await bench.connect(place, NODE)
        parts = [await reader.read(start, 8 * BLOCK_BYTES) for start in range(0, 2 * SIZE, 8 * BLOCK_BYTES)]
        assert b"".join(parts) == then + bytes(SIZE)
        await reader.close()
        await becomes(is_filled)
        await sources.stop(SECOND, unless=lambda: False)
        await eventually(lambda: files.holder() is None)
        reader = await bench.connect(place, NODE)
        assert await reader.read(0, 8 * BLOCK_BYTES) == then[: 8 * BLOCK_BYTES]
        await reader.close()
    await client.close()
    await uploader.close()


async def test_a_snapshot_under_way_is_lost_with_its_storage_daemon_and_the_next_one_is_right(
    home: Path, stub: Callable[[], WalrusServiceAsyncStub], bench: Bench
) -> None:
    chance, uploader = random.Random(5), WalrusUploader(stub)
    notes = [home / name for name in ("first", "second", "third")]
    for folder in notes:
        folder.mkdir()
    client = await connected(bench)
    body = bytearray(SIZE)

    async def write(index: int, content: bytes) -> None:
        body[index * BLOCK_BYTES : index * BLOCK_BYTES + len(content)] = content
        await client.write(index * BLOCK_BYTES, content)

    for index in range(0, BLOCKS, 2):
        await write(index, chance.randbytes(BLOCK_BYTES))
    await bench.driver.freeze({FIRST: OLD})
    await uploaded(bench, uploader, notes[0], FIRST, None)
    for index in range(1, BLOCKS, 8):
        await write(index, chance.randbytes(BLOCK_BYTES))
    await bench.driver.freeze({SECOND: OLD})

    def killed_at_once(progress: Progress) -> None:
        # It knows what changed, and has read nothing of it.
        if not killed:
            killed.append(True)
            bench.kill(OLD)

    killed: list[bool] = []

    async def tried() -> Uploaded:
        """As its controller does: what may pass is tried again."""
        while True:
            with contextlib.suppress(Unavailable):
                return await uploaded(bench, uploader, notes[1], SECOND, FIRST, killed_at_once)

    with pytest.raises(NotFound):
        await tried()
    await uploader.forget(SECOND)
    await bench.driver.release(SECOND, keep_as_base=False)
    # Nobody remembers what changed since the first: all of it is compared, and what is zero now is zero.
    await write(4, bytes(BLOCK_BYTES))
    await write(9, fresh := chance.randbytes(BLOCK_BYTES))
    await bench.driver.freeze({THIRD: OLD})
    third = await uploaded(bench, uploader, notes[2], THIRD, FIRST)
    assert killed
    assert third.progress.looked_at_bytes == SIZE
    assert third.progress.sent_bytes < (BLOCKS // 8 + 1) * 1.1 * BLOCK_BYTES
    whole = await download(stub(), THIRD)
    assert whole[9] == fresh
    blocks = {index: bytes(body[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]) for index in range(BLOCKS)}
    assert whole == {index: content for index, content in blocks.items() if content.strip(b"\0")}
    await client.close()
    await uploader.close()

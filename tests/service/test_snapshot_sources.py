"""The server of snapshots as its own process: outlives its controller, is there again after kill -9, ends when idle."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common.blocks import BLOCK_BYTES
from common.errors import NotFound, Unavailable
from common.etcd.client import Etcd
from common.etcd.membership import Membership
from common.ids import SnapshotId
from common.pki import Identity
from common.rpc.peers import Peers
from mallee.walrus.v1 import service_pb2
from mallee.walrus.v1.service_pb2_grpc import WalrusServiceStub
from services.sc.nbd.client import connected
from services.sc.source import WalrusSources
from services.sc.source_files import SourceFiles
from tests import processes
from tests.etcd_fixture import EtcdServer
from tests.eventually import eventually
from tests.service.walrus_fixtures import etcd_server, home
from tests.service.walrus_process import ENVIRONMENT, walrus
from tests.service.walrus_snapshots import manifest, upload

__all__ = ["etcd_server", "home"]

if TYPE_CHECKING:
    from mallee.walrus.v1.service_pb2_grpc import WalrusServiceAsyncStub

ONE, TWO = SnapshotId("snap-00000000000000001"), SnapshotId("snap-00000000000000002")
BODY = random.Random(1).randbytes(20 * BLOCK_BYTES)
BLOCKS = {index: BODY[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES] for index in range(20)}


@pytest.fixture
async def stub(home: Path, etcd_server: EtcdServer) -> AsyncIterator[Callable[[], WalrusServiceAsyncStub]]:
    identity = Identity.load(home / "pki", "sc-a")
    async with (
        Etcd([etcd_server.address], identity) as etcd,
        Membership(etcd) as membership,
        Peers(membership, identity, "walrus", wait_for_ready=True) as peers,
    ):
        yield lambda: peers.stub(WalrusServiceStub)


@asynccontextmanager
async def sources_of(home: Path, stub: Callable[[], WalrusServiceAsyncStub]) -> AsyncIterator[WalrusSources]:
    """What its server has is left alone at the end, as a controller that ends does."""
    # It works in the root folder.
    command = ("env", f"PYTHONPATH={ENVIRONMENT['PYTHONPATH']}", sys.executable, "-m", "services.sc.source_main")
    sources = WalrusSources(
        home / "sources",
        home / "socket",
        command=[*command, "--config", str(home / "mallee.toml"), "--member", "sc-a"],
        holder="sc-a",
        walrus=stub,
    )
    await sources.open()
    try:
        yield sources
    finally:
        await sources.close()


async def walrus_is_there(stub: Callable[[], WalrusServiceAsyncStub]) -> None:
    def answers() -> bool:
        try:
            stub()
        except Unavailable:
            return False
        return True

    await eventually(answers, within_s=60)


async def read(home: Path, name: str, start: int = 0, length: int = 1000) -> bytes:
    async with connected(home / "socket", name) as nbd:
        return await nbd.read(start, length)


async def test_it_outlives_its_controller_and_comes_back_after_kill_9(
    home: Path, stub: Callable[[], WalrusServiceAsyncStub]
) -> None:
    files = SourceFiles(home / "sources")
    async with AsyncExitStack() as stack:
        child = await stack.enter_async_context(walrus(home))
        await walrus_is_there(stub)
        await upload(stub(), ONE, BLOCKS)
        async with sources_of(home, stub) as sources:
            with pytest.raises(NotFound):
                await sources.serve(TWO)
            assert await sources.serving() == frozenset()
            place = await sources.serve(ONE)
            assert place == await sources.serve(ONE)
            assert (place.name, place.size_bytes) == (ONE, 1 << 30)
            assert await read(home, ONE) == BODY[:1000]
            first = files.holder()
        # The controller is gone, and so is the snapshot: its reader has it all the same.
        await stub().ForgetSnapshot(service_pb2.ForgetSnapshotRequest(snapshot_id=ONE))
        assert await read(home, ONE, 3 * BLOCK_BYTES) == BODY[3 * BLOCK_BYTES :][:1000]
        async with sources_of(home, stub) as sources:
            assert await sources.serving() == {ONE}
            await sources.serve(ONE)
            assert first is not None
            assert files.holder() == first
            processes.kill(first)
            await eventually(lambda: files.holder() not in (None, first))
            # Walrus being away makes a reader wait, and no more.
            child.kill()
            await child.wait()
            assert await _patient_read(home, 0) == BODY[:1000]
            waiting = asyncio.ensure_future(_patient_read(home, 19 * BLOCK_BYTES))
            await stack.enter_async_context(walrus(home))
            assert await waiting == BODY[19 * BLOCK_BYTES :][:1000]
            await walrus_is_there(stub)
            for _ in range(2):
                await sources.stop(ONE, unless=lambda: False)
            await eventually(lambda: files.holder() is None)
            assert list(files.blocks.glob("??/*")) == []
        with pytest.raises(NotFound):
            await manifest(stub(), f"{ONE} for sc-a")


async def _patient_read(home: Path, start: int) -> bytes:
    """As QEMU does, which connects again."""
    await eventually((home / "socket").exists)
    while True:
        try:
            return await read(home, ONE, start)
        except Unavailable:
            await asyncio.sleep(0.05)


async def test_destroying_leaves_nothing(home: Path, stub: Callable[[], WalrusServiceAsyncStub]) -> None:
    files = SourceFiles(home / "sources")
    async with walrus(home):
        await walrus_is_there(stub)
        await upload(stub(), ONE, {0: BLOCKS[0]})
        await upload(stub(), TWO, {0: BLOCKS[0]})
        async with sources_of(home, stub) as sources:
            await sources.serve(ONE)
            await sources.serve(TWO)
            pid = files.holder()
            await sources.destroy()
            assert pid is not None
            await eventually(lambda: not Path(f"/proc/{pid}/exe").exists())
        assert not files.folder.exists()
        for held in (ONE, TWO):
            with pytest.raises(NotFound):
                await manifest(stub(), f"{held} for sc-a")

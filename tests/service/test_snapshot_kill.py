"""kill -9 of Walrus and of who uploads, in the midst of it: what is sealed is whole, nothing travels twice."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

from common.blocks import BLOCK_BYTES
from common.config import load
from common.errors import Unavailable
from common.ids import AccountId, SnapshotId
from common.pki import Identity
from common.rpc.channel import connect
from mallee.walrus.v1.service_pb2_grpc import WalrusServiceStub
from services.sc.clients import Upload
from services.sc.upload import WalrusUploader
from services.walrus.reclaim import Reclaimer
from tests.etcd_fixture import EtcdServer
from tests.service.snapshot_writer import Body
from tests.service.walrus_process import ENVIRONMENT, ROOT, configured, etcd_of, walrus
from tests.service.walrus_snapshots import download
from tests.service.walrus_stage import WalrusStage, make_certificates, walrus_stage
from tests.walrus_store import content_bytes, files_of, opened_store

Result = TypeVar("Result")

_BLOCKS = 64
_SNAPSHOTS = 6
_KILLS = 5


def snap(number: int) -> SnapshotId:
    return SnapshotId(f"snap-{number:017x}")


@pytest.fixture
def etcd_server(tmp_path: Path) -> Iterator[EtcdServer]:
    with etcd_of(tmp_path) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, etcd_server: EtcdServer) -> Path:
    return configured(tmp_path, etcd_server).parent


async def test_kill_9_of_walrus_disturbs_no_upload_and_no_reader(home: Path) -> None:
    """It is killed at random moments while snapshots are uploaded, sealed and read, over and over."""
    chance = random.Random(7)
    port = load(home / "mallee.toml").walrus.port
    done = asyncio.Event()

    async def lives_and_dies() -> int:
        kills = 0
        while not done.is_set():
            async with walrus(home):
                await _answers(port)
                # It is left alone in the end: on a busy machine nothing may come to an end between its deaths.
                lives_s = 0.1 + chance.random() * 1.5 if kills < _KILLS else None
                with suppress(TimeoutError):
                    async with asyncio.timeout(lives_s):
                        await done.wait()
            kills += 1
        return kills

    async with connect(f"127.0.0.1:{port}", Identity.load(home / "pki", "sc-a"), "walrus-1") as channel:
        stub = WalrusServiceStub(channel)
        uploader = WalrusUploader(lambda: stub)

        async def uploads(number: int) -> None:
            notes = home / f"notes-{number}"
            notes.mkdir()
            body = Body(number, _BLOCKS)
            upload = Upload(
                snapshot_id=snap(number), account_id=AccountId("1" * 12), base=None, content=body, notes=notes
            )
            await _until_it_works(lambda: uploader.upload(upload, lambda progress: None))
            found = await _until_it_works(lambda: download(stub, snap(number)))
            assert sorted(found) == list(range(_BLOCKS))
            assert [n for n in range(_BLOCKS) if found[n] != body.block(n)] == []

        async with asyncio.TaskGroup() as tasks:
            life = tasks.create_task(lives_and_dies())
            for start in range(0, _SNAPSHOTS, 3):
                async with asyncio.TaskGroup() as some:
                    for number in range(start, start + 3):
                        some.create_task(uploads(number))
            done.set()
        # The last one was not killed in the midst of anything.
        assert await life > 1
        await uploader.close()
    await _check_store(home / "walrus")


async def _answers(port: int) -> None:
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.02)


async def _until_it_works(call: Callable[[], Awaitable[Result]]) -> Result:
    while True:
        try:
            return await call()
        except Unavailable:
            await asyncio.sleep(0.05)


async def _check_store(root: Path) -> None:
    async with opened_store(root) as store:
        reclaimer = Reclaimer(store)
        await reclaimer.sweep_orphans()
        while await store.index.blocks.drain(4096) or await reclaimer.collect() or await reclaimer.repack():
            pass
        usage = await store.index.blocks.block_usage()
        assert (usage.snapshots, usage.uploads) == (_SNAPSHOTS, 0)
        assert usage.block_bytes == _SNAPSHOTS * _BLOCKS * BLOCK_BYTES
        assert sum(content_bytes(path) for path in files_of(root)) == usage.pack_bytes


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[WalrusStage]:
    async with walrus_stage(tmp_path / "walrus", make_certificates(tmp_path / "pki")) as stage:
        yield stage


async def test_kill_9_of_who_uploads_loses_nothing_that_was_sent(stage: WalrusStage, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    command = (str(stage.port), str(stage.certificates), str(notes), snap(1), "5", str(_BLOCKS * 2))
    sealed = ""
    for kills_after in (1, 3, 100):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.service.snapshot_writer", *command),
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=ENVIRONMENT,
        )
        assert child.stdout is not None
        said = 0
        async for line in child.stdout:
            word, figure = line.decode().split()
            said += word == "looked" and figure != "0"
            sealed = figure if word == "sealed" else ""
            if said == kills_after and child.returncode is None:
                child.kill()
        await child.wait()
    body = Body(5, _BLOCKS * 2)
    assert await download(await stage.walrus("sc-a"), snap(1)) == {n: body.block(n) for n in range(_BLOCKS * 2)}
    usage = await stage.store.index.blocks.block_usage()
    assert usage.block_bytes == _BLOCKS * 2 * BLOCK_BYTES
    # The figure of the one that came to its end is of all three; of four batches on their way each time it is unknown.
    assert int(sealed) >= (_BLOCKS * 2 - 2 * 4 * 16) * BLOCK_BYTES

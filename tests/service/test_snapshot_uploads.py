"""The storage controller's way to Walrus: only what changed travels, once, and whatever is killed on the way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common.blocks import BLOCK_BYTES
from common.errors import NotFound, Unavailable
from common.ids import AccountId, SnapshotId
from services.sc.clients import BaseMissing, Progress, Upload, Uploaded
from services.sc.drivers.base import Extent
from services.sc.upload import WalrusUploader
from services.walrus.reclaim import Reclaimer
from tests.eventually import eventually
from tests.service.walrus_fixtures import certificates, stage
from tests.service.walrus_snapshots import download
from tests.service.walrus_stage import WalrusStage
from tests.walrus_store import files_of

__all__ = ["certificates", "stage"]

if TYPE_CHECKING:
    from mallee.walrus.v1.service_pb2_grpc import WalrusServiceAsyncStub

# More than are on their way at once.
BLOCKS = 72
SIZE = BLOCKS * BLOCK_BYTES


@dataclass(kw_only=True)
class Content:
    """drivers/base.py Frozen in memory."""

    body: bytes
    blocks: Sequence[int] | None = None
    # Called before each read.
    disturb: Callable[[], None] = lambda: None
    reads: list[Extent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.size_bytes = len(self.body)

    async def changed(self) -> Sequence[Extent]:
        if self.blocks is None:
            return [Extent(start=0, length=len(self.body))]
        places = ((n * BLOCK_BYTES, min((n + 1) * BLOCK_BYTES, len(self.body))) for n in self.blocks)
        return [Extent(start=start, length=end - start) for start, end in places]

    async def read(self, extent: Extent) -> bytes:
        self.disturb()
        self.reads.append(extent)
        await asyncio.sleep(0)
        return self.body[extent.start : extent.start + extent.length]


@pytest.fixture
async def uploader(stage: WalrusStage) -> AsyncIterator[WalrusUploader]:
    stub = await stage.walrus("sc-a")
    uploader = WalrusUploader(lambda: stub)
    yield uploader
    await uploader.close()


@pytest.fixture
def uploads(uploader: WalrusUploader, tmp_path: Path) -> Uploads:
    return Uploads(uploader, tmp_path)


class Uploads:
    def __init__(self, uploader: WalrusUploader, folder: Path) -> None:
        self._uploader = uploader
        self._folder = folder
        self.told: list[Progress] = []

    async def __call__(self, number: int, content: Content, *, base: int | None = None) -> Uploaded:
        notes = self._folder / f"notes-{number}"
        notes.mkdir(exist_ok=True)
        upload = Upload(
            snapshot_id=snap(number),
            account_id=AccountId("1" * 12),
            base=None if base is None else snap(base),
            content=content,
            notes=notes,
        )
        return await self._uploader.upload(upload, self.told.append)


def snap(number: int) -> SnapshotId:
    return SnapshotId(f"snap-{number:017x}")


def random_body(seed: int, size: int = SIZE) -> bytes:
    return random.Random(seed).randbytes(size)


async def body_of(stage: WalrusStage, number: int, size: int = SIZE) -> bytes:
    body = bytearray(size)
    for index, block in (await download(await stage.walrus("sc-a"), snap(number))).items():
        body[index * BLOCK_BYTES : index * BLOCK_BYTES + len(block)] = block
    return bytes(body)


async def test_a_snapshot_is_what_the_volume_was_and_zeros_cost_nothing(stage: WalrusStage, uploads: Uploads) -> None:
    body = random_body(1, 3 * BLOCK_BYTES) + bytes(SIZE - 4 * BLOCK_BYTES) + random_body(2, BLOCK_BYTES // 2)
    done = await uploads(1, Content(body=body))
    assert await body_of(stage, 1, len(body)) == body
    assert done.full_bytes == 3 * BLOCK_BYTES + BLOCK_BYTES // 2
    assert done.progress.sent_bytes == done.full_bytes
    assert done.progress.saved_bytes == len(body) - done.full_bytes
    looked = [progress.looked_at_bytes for progress in uploads.told]
    assert looked == sorted(looked)
    assert (looked[0], looked[-1]) == (0, uploads.told[-1].to_look_at_bytes)


async def test_a_later_one_sends_what_changed_alone(stage: WalrusStage, uploads: Uploads) -> None:
    first = random_body(1)
    await uploads(1, Content(body=first))
    second = bytearray(first)
    second[5 * BLOCK_BYTES : 6 * BLOCK_BYTES] = random_body(3, BLOCK_BYTES)
    second[7 * BLOCK_BYTES : 8 * BLOCK_BYTES] = bytes(BLOCK_BYTES)
    # Said to be changed, and is as it was.
    content = Content(body=bytes(second), blocks=[5, 6, 7, 30])
    done = await uploads(2, content, base=1)
    assert await body_of(stage, 2) == second
    assert done.full_bytes == SIZE - BLOCK_BYTES
    assert (done.progress.sent_bytes, done.progress.saved_bytes) == (BLOCK_BYTES, SIZE - BLOCK_BYTES)
    assert sum(extent.length for extent in content.reads) == 4 * BLOCK_BYTES
    assert await body_of(stage, 1) == first


async def test_what_compresses_travels_compressed_and_the_same_block_once(stage: WalrusStage, uploads: Uploads) -> None:
    body = (b"the same words again" * 30_000)[:BLOCK_BYTES] * 15
    done = await uploads(1, Content(body=body))
    assert 0 < done.progress.sent_bytes < BLOCK_BYTES // 10
    assert done.full_bytes == 15 * BLOCK_BYTES
    assert await body_of(stage, 1, 15 * BLOCK_BYTES) == body


async def test_an_upload_that_is_repeated_returns_at_once(uploads: Uploads) -> None:
    content = Content(body=random_body(1))
    done = await uploads(1, content)
    again = Content(body=random_body(1))
    assert (await uploads(1, again)).full_bytes == done.full_bytes
    assert again.reads == []


async def test_another_controller_may_be_faster(stage: WalrusStage, uploads: Uploads) -> None:
    """One that does not know yet that it leads no more."""
    body = random_body(1)
    stub = await stage.walrus("sc-a")
    other = WalrusUploader(lambda: stub)

    class Overtaken(Content):
        async def read(self, extent: Extent) -> bytes:
            if not self.reads:
                await Uploads(other, uploads._folder)(1, Content(body=body))
            return await super().read(extent)

    done = await uploads(1, Overtaken(body=body))
    await other.close()
    assert done.full_bytes == SIZE
    assert await body_of(stage, 1) == body


async def test_an_upload_that_broke_off_goes_on_and_tells_what_travelled(stage: WalrusStage, uploads: Uploads) -> None:
    body = random_body(1)
    reads = 0

    def break_off() -> None:
        nonlocal reads
        reads += 1
        # Four are on their way at once: one is through.
        if reads == 5:
            raise Unavailable("the engine went away")

    with pytest.raises(Unavailable):
        await uploads(1, Content(body=body, disturb=break_off))
    done = await uploads(1, Content(body=body))
    assert await body_of(stage, 1) == body
    assert done.progress.sent_bytes + done.progress.saved_bytes == SIZE
    # Of the other three it may be unknown.
    assert done.progress.sent_bytes >= SIZE - 3 * 16 * BLOCK_BYTES
    assert (await stage.store.index.blocks.block_usage()).block_bytes == SIZE


async def test_a_cancelled_upload_is_forgotten_whole(stage: WalrusStage, uploads: Uploads) -> None:
    task = asyncio.ensure_future(uploads(1, Content(body=random_body(1))))
    await eventually(lambda: bool(uploads.told and uploads.told[-1].looked_at_bytes))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(2):
        await uploads._uploader.forget(snap(1))
    reclaimer = Reclaimer(stage.store)
    while await stage.store.index.blocks.drain(100) or await reclaimer.collect():
        pass
    assert files_of(stage.root) == []


async def test_a_base_that_is_gone_is_told(stage: WalrusStage, uploads: Uploads) -> None:
    await uploads(1, Content(body=random_body(1)))

    with pytest.raises(BaseMissing):
        await uploads(3, Content(body=random_body(1), blocks=[0]), base=2)
    # While the upload is under way, too.
    forgotten = False

    class Forgets(Content):
        async def read(self, extent: Extent) -> bytes:
            nonlocal forgotten
            if not forgotten:
                forgotten = True
                await uploads._uploader.forget(snap(1))
            return await super().read(extent)

    with pytest.raises(BaseMissing):
        await uploads(3, Forgets(body=random_body(1), blocks=[0, 5]), base=1)
    await uploads(3, Content(body=random_body(1)))
    assert await body_of(stage, 3) == random_body(1)


async def test_an_upload_waits_out_a_restart_of_walrus(stage: WalrusStage, tmp_path: Path) -> None:
    stub = await stage.walrus("sc-a")
    failures = iter([Unavailable("gone")] * 3)

    def walrus() -> WalrusServiceAsyncStub:
        for failure in failures:
            raise failure
        return stub

    uploader = WalrusUploader(walrus)
    # The first question is asked once; what follows is patient.
    for _ in range(3):
        with pytest.raises(Unavailable):
            await Uploads(uploader, tmp_path)(1, Content(body=random_body(1)))
    failures = iter(())
    uploads = Uploads(uploader, tmp_path)
    content = Content(body=random_body(1))
    content.disturb = lambda: _fail_once(content)

    def _fail_once(content: Content) -> None:
        nonlocal failures
        content.disturb = lambda: None
        failures = iter([Unavailable("gone")])

    await uploads(1, content)
    assert await body_of(stage, 1) == random_body(1)
    await uploader.close()


async def test_a_point_that_is_lost_is_told_as_it_is(uploads: Uploads) -> None:
    class Lost(Content):
        async def read(self, extent: Extent) -> bytes:
            raise NotFound("the point is lost")

    with pytest.raises(NotFound):
        await uploads(1, Lost(body=random_body(1)))

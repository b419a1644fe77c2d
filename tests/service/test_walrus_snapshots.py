"""Snapshots over gRPC: blocks by content, manifests whole by themselves, damage that is told, and nothing left over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.blocks import BLOCK_BYTES
from common.errors import DataLoss, Denied, InvalidArgument, NoCapacity, NotFound, WrongState
from common.rpc.channel import cloud_errors
from mallee.walrus.v1 import service_pb2
from services.walrus.reclaim import Reclaimer
from services.walrus.snapshots import Snapshots
from services.walrus.store import Limits
from tests.service.walrus_fixtures import certificates, stage
from tests.service.walrus_snapshots import (
    ACCOUNT,
    a_block,
    block_of,
    download,
    fetch,
    manifest,
    missing,
    seal,
    store,
    upload,
)
from tests.service.walrus_stage import WalrusStage, walrus_stage
from tests.walrus_store import BOB, files_of, get_bytes, put_bytes

__all__ = ["certificates", "stage"]


@pytest.fixture
async def walrus(stage: WalrusStage) -> Any:
    return await stage.walrus("sc-a")


async def reclaimed(stage: WalrusStage) -> None:
    reclaimer = Reclaimer(stage.store)
    while await stage.store.index.blocks.drain(4096) or await reclaimer.collect() or await reclaimer.repack():
        pass


async def test_a_snapshot_is_read_back_and_a_later_one_sends_what_changed(walrus: Any) -> None:
    first = {0: a_block(1), 700: a_block(2), 2047: a_block(3, 1000)}
    await upload(walrus, "snap-1", first)
    assert await download(walrus, "snap-1") == first
    changed = {700: a_block(4), 0: b"", 5: a_block(3, 1000)}
    assert await missing(walrus, "snap-2", [block_of(changed[5]).digest, block_of(changed[700]).digest]) == [
        block_of(changed[700]).digest
    ]
    await upload(walrus, "snap-2", changed, base="snap-1")
    second = {700: changed[700], 5: changed[5], 2047: first[2047]}
    assert await download(walrus, "snap-2") == second
    await walrus.ForgetSnapshot(service_pb2.ForgetSnapshotRequest(snapshot_id="snap-1"))
    assert await download(walrus, "snap-2") == second
    with pytest.raises(NotFound):
        await manifest(walrus, "snap-1")


async def test_sealing_may_be_repeated_and_half_a_stream_makes_nothing(walrus: Any) -> None:
    block = block_of(a_block(1))
    await store(walrus, "snap-1", [block])
    with pytest.raises(InvalidArgument):
        await seal(walrus, "snap-1", {3: block.digest}, complete=False)
    with pytest.raises(NotFound):
        await manifest(walrus, "snap-1")
    for _ in range(2):
        assert await seal(walrus, "snap-1", {3: block.digest}) == BLOCK_BYTES
    assert await manifest(walrus, "snap-1") == {3: block.digest}


async def test_one_that_is_forgotten_while_it_is_sealed_is_not_there_in_part(stage: WalrusStage, walrus: Any) -> None:
    block = block_of(a_block(1))
    await store(walrus, "snap-1", [block])
    drafted, goes_on = asyncio.Event(), asyncio.Event()

    async def stream() -> AsyncIterator[service_pb2.SealSnapshotRequest]:
        yield service_pb2.SealSnapshotRequest(snapshot_id="snap-1", account_id=ACCOUNT, size_bytes=1 << 30)
        yield service_pb2.SealSnapshotRequest(entries=[service_pb2.BlockEntry(index=0, digest=block.digest)])
        drafted.set()
        await goes_on.wait()
        yield service_pb2.SealSnapshotRequest(entries=[service_pb2.BlockEntry(index=700, digest=block.digest)])
        yield service_pb2.SealSnapshotRequest(complete=True)

    snapshots = Snapshots(stage.store)
    sealing = asyncio.ensure_future(snapshots.seal(stream()))
    await drafted.wait()
    forgetting = asyncio.ensure_future(snapshots.forget("snap-1"))
    # Longer than it takes where nothing holds it up.
    await asyncio.wait([forgetting], timeout=0.2)
    goes_on.set()
    assert (await sealing).full_bytes == 2 * BLOCK_BYTES
    await forgetting
    with pytest.raises(NotFound):
        await manifest(walrus, "snap-1")


async def test_a_snapshot_that_cannot_be_is_refused(walrus: Any) -> None:
    block = block_of(a_block(1))
    with pytest.raises(WrongState) as caught:
        await seal(walrus, "snap-1", {0: block.digest})
    assert caught.value.code == "BlockMissing"
    with pytest.raises(InvalidArgument):
        await seal(walrus, "snap-1", {2048: block.digest})
    with pytest.raises(InvalidArgument):
        await seal(walrus, "snap-1", {0: b"short"})
    with pytest.raises(NotFound) as gone:
        await seal(walrus, "snap-1", {}, base="snap-9")
    assert gone.value.code == "InvalidSnapshot.NotFound"
    await seal(walrus, "snap-2", {}, size=2 << 30)
    with pytest.raises(InvalidArgument):
        await seal(walrus, "snap-1", {}, base="snap-2")


async def test_a_block_that_is_not_what_its_name_says_is_refused_with_its_message(walrus: Any) -> None:
    good, lie, bomb = block_of(a_block(1)), block_of(a_block(2)), block_of(bytes(BLOCK_BYTES + 1))
    lie.digest = good.digest[::-1]
    for bad in (lie, bomb):
        with pytest.raises(InvalidArgument):
            await store(walrus, "snap-1", [good, bad])
        assert await missing(walrus, "snap-1", [good.digest]) == [good.digest]


async def test_one_stream_may_fill_several_packs(stage: WalrusStage, walrus: Any) -> None:
    contents = [a_block(n) for n in range(80)]
    blocks = [block_of(content) for content in contents]
    stored = await store(walrus, "snap-1", *(blocks[n : n + 8] for n in range(0, 80, 8)), blocks[:3])
    assert stored == sum(len(block.content) for block in blocks) + sum(len(block.content) for block in blocks[:3])
    assert len(files_of(stage.root)) >= 2
    assert await fetch(walrus, "snap-1", [block.digest for block in blocks]) == contents
    await walrus.ForgetSnapshot(service_pb2.ForgetSnapshotRequest(snapshot_id="snap-1"))
    await reclaimed(stage)
    assert files_of(stage.root) == []


async def test_what_a_crashed_step_left_is_swept(stage: WalrusStage, walrus: Any) -> None:
    await upload(walrus, "snap-1", {0: a_block(1)})
    async with stage.store.blobs.stage() as staged:
        await staged.write(b"x")
        await staged.seal()
        staged.keep()
    assert await Reclaimer(stage.store).sweep_orphans() == 1
    assert await download(walrus, "snap-1") == {0: a_block(1)}


async def test_deleting_frees_what_only_that_snapshot_needed(stage: WalrusStage, walrus: Any) -> None:
    await upload(walrus, "snap-1", {n: a_block(n) for n in range(8)})
    await upload(walrus, "snap-2", {n: a_block(n + 100) for n in range(6)}, base="snap-1")
    before = sum(path.stat().st_size for path in files_of(stage.root))
    await walrus.ForgetSnapshot(service_pb2.ForgetSnapshotRequest(snapshot_id="snap-1"))
    await reclaimed(stage)
    assert sum(path.stat().st_size for path in files_of(stage.root)) < before * 5 / 8
    expected = {n: a_block(n + 100) for n in range(6)} | {6: a_block(6), 7: a_block(7)}
    assert await download(walrus, "snap-2") == expected
    described = await (await stage.walrus("admin")).DescribeStore(service_pb2.DescribeStoreRequest())
    assert (described.snapshots, described.block_waste_bytes) == (1, 0)


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
async def test_damage_is_told_and_never_wrong_bytes(stage: WalrusStage, walrus: Any, damage: str) -> None:
    await upload(walrus, "snap-1", {0: a_block(1)})
    (pack,) = files_of(stage.root)
    match damage:
        case "flipped":
            body = bytearray(pack.read_bytes())
            body[1000] ^= 1
            pack.write_bytes(body)
        case "cut":
            pack.write_bytes(pack.read_bytes()[:-1])
        case "gone":
            pack.unlink()
    with pytest.raises(DataLoss):
        await download(walrus, "snap-1")
    # Who uploads the same content again puts it right for all.
    await upload(walrus, "snap-2", {5: a_block(1)})
    assert await download(walrus, "snap-1") == {0: a_block(1)}
    await reclaimed(stage)
    assert await download(walrus, "snap-2") == {5: a_block(1)}


async def test_a_block_that_is_not_here_is_not_found(walrus: Any) -> None:
    with pytest.raises(NotFound):
        await fetch(walrus, "snap-1", [bytes(32)])


async def test_a_full_store_takes_no_block(tmp_path: Path, certificates: Path) -> None:
    async with walrus_stage(tmp_path / "walrus", certificates, Limits(reserve_bytes=1 << 60)) as stage:
        with pytest.raises(NoCapacity):
            await store(await stage.walrus("sc-a"), "snap-1", [block_of(a_block(1))])


async def test_copies_share_blocks_and_outlive_their_source(stage: WalrusStage, walrus: Any) -> None:
    await upload(walrus, "snap-1", {0: a_block(1)})
    clc = await stage.walrus("clc-1")
    request = service_pb2.CopySnapshotRequest(source_snapshot_id="snap-1", snapshot_id="snap-2", account_id=ACCOUNT)
    for _ in range(2):
        answer = await clc.CopySnapshot(request)
        assert (answer.size_bytes, answer.full_bytes) == (1 << 30, BLOCK_BYTES)
    await clc.ForgetSnapshot(service_pb2.ForgetSnapshotRequest(snapshot_id="snap-1"))
    await reclaimed(stage)
    assert await download(walrus, "snap-2") == {0: a_block(1)}


async def test_uploads_at_once_of_the_same_blocks_disturb_nobody(stage: WalrusStage, walrus: Any) -> None:
    blocks = {n: a_block(n % 5) for n in range(12)}
    reclaimer = asyncio.create_task(Reclaimer(stage.store, pause_s=0).run())
    await asyncio.gather(*(upload(walrus, f"snap-{n}", blocks) for n in range(5)))
    for n in range(4):
        await walrus.ForgetSnapshot(service_pb2.ForgetSnapshotRequest(snapshot_id=f"snap-{n}"))
    reclaimer.cancel()
    await reclaimed(stage)
    assert await download(walrus, "snap-4") == blocks


async def test_only_storage_controllers_move_blocks(stage: WalrusStage) -> None:
    for member in ("nc-a-1", "facade-1", "clc-1"):
        with pytest.raises(Denied):
            await missing(await stage.walrus(member), "snap-1", [])


async def test_objects_are_fetched_from_any_offset_as_the_account_may(stage: WalrusStage, walrus: Any) -> None:
    body = bytes(n % 251 for n in range(200_000))
    await put_bytes(stage.store, "disk", body)

    async def fetched(account_id: str = ACCOUNT, key: bytes = b"disk", offset: int = 0) -> tuple[int, bytes]:
        request = service_pb2.FetchObjectRequest(account_id=account_id, bucket="bucket", key=key, offset=offset)
        with cloud_errors():
            answers = [answer async for answer in walrus.FetchObject(request)]
        return answers[0].size_bytes, b"".join(answer.chunk for answer in answers)

    assert await fetched() == (200_000, body)
    assert await fetched(offset=199_999) == (200_000, body[-1:])
    assert await fetched(offset=200_000) == (200_000, b"")
    with pytest.raises(NotFound):
        await fetched(key=b"nothing")
    with pytest.raises(Denied):
        await fetched(account_id=BOB.account_id)


async def test_objects_are_stored_whole_or_not_at_all(stage: WalrusStage, walrus: Any) -> None:
    async def stored(body: bytes, *, account_id: str = ACCOUNT, complete: bool = True, size: int | None = None) -> str:
        async def messages() -> AsyncIterator[service_pb2.StoreObjectRequest]:
            yield service_pb2.StoreObjectRequest(
                account_id=account_id, bucket="bucket", key=b"k", size_bytes=len(body) if size is None else size
            )
            for start in range(0, len(body), 1000):
                yield service_pb2.StoreObjectRequest(chunk=body[start : start + 1000])
            if complete:
                yield service_pb2.StoreObjectRequest(complete=True)

        with cloud_errors():
            return str((await walrus.StoreObject(messages())).etag)

    body = bytes(n % 251 for n in range(5000))
    for half in ({"complete": False}, {"size": 4999}):
        with pytest.raises(InvalidArgument):
            await stored(body, **half)
        with pytest.raises(NotFound):
            await get_bytes(stage.store, "k")
    with pytest.raises(Denied):
        await stored(b"", account_id=BOB.account_id)
    assert len(await stored(body)) == 32
    assert await get_bytes(stage.store, "k") == body
    await stored(b"")
    assert await get_bytes(stage.store, "k") == b""

"""What every blob engine of Walrus promises (services/walrus/drivers/base.py)."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from services.walrus.drivers.base import BlobId
from services.walrus.drivers.blobs import BlobDamaged, BlobMissing, Blobs, Copied
from services.walrus.drivers.embedded.blobs import FileBlobs
from services.walrus.drivers.embedded.sealed import SealedFile
from services.walrus.drivers.fake_blobs import FakeBlobs

MIB = 1 << 20


@pytest.fixture(params=["embedded", "fake"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Blobs]:
    engine: Blobs = FileBlobs(tmp_path / "store") if request.param == "embedded" else FakeBlobs()
    await engine.open()
    yield engine
    await engine.close()


async def put(blobs: Blobs, body: bytes) -> BlobId:
    async with blobs.stage() as staged:
        await staged.write(body)
        await staged.seal()
        staged.keep()
    return staged.blob


async def read(blobs: Blobs, blob: BlobId, start: int, end: int) -> bytes:
    return b"".join([chunk async for chunk in blobs.read(blob, start=start, end=end)])


async def drain(chunks: AsyncIterator[bytes], seen: bytearray) -> None:
    async for chunk in chunks:
        seen += chunk


async def all_blobs(blobs: Blobs) -> set[BlobId]:
    return {blob async for batch in blobs.scan() for blob in batch}


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1])
async def test_a_kept_blob_is_read_back_whole_and_in_part(blobs: Blobs, size: int) -> None:
    body = bytes(n % 251 for n in range(size))
    blob = await put(blobs, body)
    assert await read(blobs, blob, 0, size) == body
    assert await read(blobs, blob, size // 3, size // 2) == body[size // 3 : size // 2]
    chunks = [len(chunk) async for chunk in blobs.read(blob, start=0, end=size)]
    assert max(chunks, default=0) <= MIB


async def test_a_blob_may_be_written_by_who_is_lent_its_file(blobs: Blobs) -> None:
    body = bytes(n % 251 for n in range(2 * MIB + 5))
    seen = bytearray()
    async with blobs.stage() as staged:
        descriptor = await staged.lend()
        if descriptor is None:
            await staged.write(body)
        else:
            for start, end in ((0, MIB + 1), (MIB + 1, len(body))):
                os.pwrite(descriptor, body[start:end], start)
                await staged.written(end - start, seen.extend)
            assert seen == body
            # Told of by nobody: no part of it.
            os.pwrite(descriptor, b"more", len(body))
        await staged.seal()
        staged.keep()
    assert await read(blobs, staged.blob, 0, len(body)) == body
    with pytest.raises(BlobMissing):
        await read(blobs, staged.blob, 0, len(body) + 1)


async def test_a_blob_that_is_not_kept_is_gone_whatever_happened(blobs: Blobs) -> None:
    async with blobs.stage() as staged:
        await staged.write(b"x")
    with suppress(ZeroDivisionError):
        async with blobs.stage() as sealed:
            await sealed.write(b"x")
            await sealed.seal()
            raise ZeroDivisionError
    for blob in (staged.blob, sealed.blob):
        with pytest.raises(BlobMissing):
            await read(blobs, blob, 0, 1)
    assert await all_blobs(blobs) == set()


async def test_a_blob_whose_staging_is_open_is_not_scanned(blobs: Blobs) -> None:
    kept = await put(blobs, b"x")
    async with blobs.stage() as staged:
        await staged.write(b"x")
        await staged.seal()
        assert await all_blobs(blobs) == {kept}
        staged.keep()
    assert await all_blobs(blobs) == {kept, staged.blob}


async def test_cancelling_a_write_leaves_nothing(blobs: Blobs) -> None:
    async def writes() -> None:
        async with blobs.stage() as staged:
            while True:
                await staged.write(bytes(MIB))

    task = asyncio.ensure_future(writes())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await all_blobs(blobs) == set()


async def test_deleting_tells_the_bytes_and_may_be_repeated(blobs: Blobs) -> None:
    first, second = await put(blobs, b"abc"), await put(blobs, b"defg")
    assert await blobs.delete([first, second]) >= 7
    assert await blobs.delete([first, second]) == 0
    with pytest.raises(BlobMissing):
        await read(blobs, first, 0, 1)


async def test_an_open_blob_is_read_to_its_end_although_it_is_deleted(blobs: Blobs) -> None:
    blob = await put(blobs, bytes(3 * MIB))
    reader = blobs.read(blob, start=0, end=3 * MIB)
    first = await anext(reader)
    await blobs.delete([blob])
    assert len(first) + sum([len(chunk) async for chunk in reader]) == 3 * MIB


async def test_a_blob_that_is_shorter_than_asked_is_an_error(blobs: Blobs) -> None:
    blob = await put(blobs, b"abc")
    with pytest.raises(BlobMissing):
        await read(blobs, blob, 0, 4)


async def test_blobs_are_exported_as_one_file(blobs: Blobs, tmp_path: Path) -> None:
    first, second = await put(blobs, b"abc"), await put(blobs, b"defg")
    assert await blobs.export([first, second], tmp_path / "both") == 7
    assert await blobs.export([first], tmp_path / "one", exact=True) == 3
    assert await blobs.export([first], tmp_path / "linked") == 3
    await blobs.delete([first])
    assert ((tmp_path / "both").read_bytes(), (tmp_path / "one").read_bytes()) == (b"abcdefg", b"abc")
    assert (tmp_path / "linked").read_bytes()[:3] == b"abc"
    with pytest.raises(BlobMissing):
        await blobs.export([second, first], tmp_path / "none")
    assert not (tmp_path / "none").exists()


async def test_the_same_bytes_under_another_name_outlive_the_first(blobs: Blobs) -> None:
    body = bytes(n % 251 for n in range(MIB + 1))
    first = await put(blobs, body)
    async with blobs.stage() as dropped:
        assert await dropped.share(first)
        await dropped.seal()
    async with blobs.stage() as staged:
        assert await staged.share(first)
        await staged.seal()
        staged.keep()
    assert await all_blobs(blobs) == {first, staged.blob}
    await blobs.delete([first])
    assert await read(blobs, staged.blob, 0, len(body)) == body
    async with blobs.stage() as none:
        assert not await none.share(first)


async def test_there_is_room(blobs: Blobs) -> None:
    assert await blobs.free_bytes() > 0


def damage(blobs: Blobs, blob: BlobId, at: int) -> None:
    """One bit of that byte is another."""
    if isinstance(blobs, FakeBlobs):
        blobs.faults.damaged.add((blob, at))
        return
    assert isinstance(blobs, FileBlobs)
    with blobs.path(blob).open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("at", [0, MIB - 1, MIB, 3 * MIB - 1])
async def test_a_flipped_bit_is_found_before_its_piece_leaves(blobs: Blobs, tmp_path: Path, at: int) -> None:
    body = bytes(n % 251 for n in range(3 * MIB))
    blob, other = await put(blobs, body), await put(blobs, body)
    damage(blobs, blob, at)
    seen = bytearray()
    with pytest.raises(BlobDamaged):
        await drain(blobs.read(blob, start=0, end=len(body)), seen)
    assert body.startswith(seen)
    with pytest.raises(BlobDamaged):
        await read(blobs, blob, at, at + 1)
    for exported in ([blob], [other, blob]):
        with pytest.raises(BlobDamaged):
            await blobs.export(exported, tmp_path / "none")
        assert not (tmp_path / "none").exists()
    # What stands elsewhere is as good as it was.
    elsewhere = 2 * MIB if at < MIB else 0
    assert await read(blobs, blob, elsewhere, elsewhere + 5) == body[elsewhere : elsewhere + 5]


@pytest.mark.parametrize("size", [0, 3, 3 * MIB])
async def test_a_descriptor_is_handed_on_with_bytes_that_were_checked(blobs: Blobs, size: int) -> None:
    body = bytes(n % 251 for n in range(size))
    blob = await put(blobs, body)
    async with blobs.opened(blob) as file:
        await blobs.delete([blob])
        await file.verify(0, size)
        assert file.size == size
        assert os.pread(file.descriptor, file.size, 0) == body
        with pytest.raises(BlobMissing):
            await file.verify(0, size + 1)
    with pytest.raises(BlobMissing):
        async with blobs.opened(blob):
            pass


async def test_a_descriptor_of_damaged_bytes_says_so(blobs: Blobs) -> None:
    blob = await put(blobs, bytes(3 * MIB))
    damage(blobs, blob, 2 * MIB)
    async with blobs.opened(blob) as file:
        await file.verify(0, 2 * MIB)
        with pytest.raises(BlobDamaged):
            await file.verify(2 * MIB - 1, 2 * MIB + 1)


async def test_a_blob_is_copied_once_and_whole(blobs: Blobs, tmp_path: Path) -> None:
    blob = await put(blobs, b"abc")
    assert (await blobs.copy_to(blob, tmp_path / "backup")).new
    assert await blobs.copy_to(blob, tmp_path / "backup") == Copied(size=0, new=False)
    (path,) = (tmp_path / "backup" / blob[:2]).iterdir()
    assert path.read_bytes().startswith(b"abc")
    with pytest.raises(BlobMissing):
        await blobs.copy_to(BlobId.new(), tmp_path / "backup")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """On another file system."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        if Path(folder).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is one file system")
        yield Path(folder) / "blobs"


def copies_in(folder: Path) -> set[str]:
    return {path.name.partition(".")[0] for path in folder.glob("*/*") if path.suffix != ".part"}


async def test_a_copy_on_another_file_system_is_compared_on_the_way(blobs: Blobs, elsewhere: Path) -> None:
    body = bytes(3 * MIB)
    blob, bad = await put(blobs, body), await put(blobs, body)
    damage(blobs, bad, MIB)
    assert (await blobs.copy_to(blob, elsewhere)).size >= len(body)
    with pytest.raises(BlobDamaged):
        await blobs.copy_to(bad, elsewhere)
    assert copies_in(elsewhere) == {blob}
    if isinstance(blobs, FileBlobs):
        copied = SealedFile(elsewhere / blob[:2], blob)
        copied.verify(0, len(body))
        copied.close()

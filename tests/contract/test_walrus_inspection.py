"""What every index engine of Walrus promises to who looks at all of it (services/walrus/drivers/inspection.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.walrus.drivers.base import Assembled, BlobId, Bucket, Index, Inline, Pin, Single
from services.walrus.drivers.embedded.index import SqliteIndex
from services.walrus.drivers.fake import FakeIndex
from services.walrus.drivers.versions import ANYTHING, Deletion, Removal
from tests.contract.test_walrus_blocks import digest, made
from tests.contract.test_walrus_index import a_part, an_object, an_upload


@pytest.fixture(params=["embedded", "fake"])
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Index]:
    engine: Index = SqliteIndex(tmp_path / "index.sqlite") if request.param == "embedded" else FakeIndex()
    await engine.open()
    yield engine
    await engine.close()


@pytest.fixture
async def bucket(index: Index) -> Bucket:
    return await index.create_bucket("bucket", account_id="1" * 12, owner_id="a" * 64, created_ms=1000)


async def owners(index: Index) -> dict[BlobId, list[str]]:
    """Of every blob that must be there, read in pages of two."""
    found: dict[BlobId, list[str]] = {}
    after = ""
    while page := await index.inspection.needed(after=after, limit=2):
        assert [one.blob for one in page] == sorted(one.blob for one in page)
        found |= {one.blob: await index.inspection.owners(one.blob) for one in page}
        after = page[-1].blob
    return found


async def test_every_blob_is_needed_by_somebody_until_it_is_let_go(index: Index, bucket: Bucket) -> None:
    single = BlobId.new()
    await index.put_object(bucket, an_object(b"a/b", Single(blob=single)))
    await index.put_object(bucket, an_object(b"inline", Inline(body=b"abc")))
    open_, done = an_upload(bucket, b"open", "u1"), an_upload(bucket, b"done", "u2")
    first, second = a_part(1), a_part(2)
    for upload, part in ((open_, first), (done, second)):
        await index.create_upload(upload)
        await index.put_part(upload, part)
    whole = an_object(b"done", Assembled(upload_id="u2", part_count=1), size=10)
    await index.complete_upload(bucket, done, [second], whole, ANYTHING)
    await made(index.blocks, "snap-1", "ab")
    await made(index.blocks, "snap-2", "c", base="snap-1")
    found = await owners(index)
    packs = {blob: of for blob, of in found.items() if blob not in (single, first.blob, second.blob)}
    assert found[single] == ["bucket/a/b"]
    assert found[first.blob] == ["upload u1 of bucket/open part 1"]
    assert found[second.blob] == ["bucket/done part 2"]
    assert sorted(packs.values()) == [["snapshot snap-1", "snapshot snap-2"], ["snapshot snap-2"]]
    assert await index.inspection.owners_of_blocks([digest("c"), digest("z")]) == ["snapshot snap-2"]
    await index.delete(bucket, [Deletion(what=Removal(key=key)) for key in (b"a/b", b"done")], now_ms=0)
    await index.abort_upload(open_)
    assert (await owners(index)).keys() == packs.keys()
    assert await index.inspection.garbage_count() == 3


async def test_blobs_of_older_versions_are_needed(index: Index, bucket: Bucket) -> None:
    old, new = BlobId.new(), BlobId.new()
    for version, blob in (("v1", old), ("v2", new)):
        await index.put_object(bucket, replace(an_object(b"k", Single(blob=blob)), version_id=version))
    assert await owners(index) == {old: ["bucket/k version v1"], new: ["bucket/k version v2"]}


async def test_the_least_size_of_a_blob_is_known(index: Index, bucket: Bucket) -> None:
    single = BlobId.new()
    await index.put_object(bucket, an_object(b"k", Single(blob=single), size=77))
    await made(index.blocks, "snap-1", "a")
    sizes = {one.blob: (one.size, one.pack) for one in await index.inspection.needed(after="", limit=10)}
    assert sizes.pop(single) == (77, False)
    ((size, pack),) = sizes.values()
    assert size > 0
    assert pack


async def test_an_index_that_was_just_written_is_sound(index: Index, bucket: Bucket) -> None:
    await index.put_object(bucket, an_object(b"k", Inline(body=b"abc")))
    assert await index.inspection.unsound() == []
    bodies = await index.inspection.bodies(start=0, limit=10)
    assert (bodies.next, list(bodies.damaged)) == (None, [])


async def test_notes_and_pins_are_kept(index: Index) -> None:
    assert await index.inspection.note("n") == ""
    for text in ("one", "two"):
        await index.inspection.put_note("n", text)
        assert await index.inspection.note("n") == text
    pin = Pin(image_id="1", sha256="ab", size=3, format="raw", virtual_size=3, account_id="1", source="machine b/k")
    await index.put_pin(pin)
    assert await index.inspection.pins() == [pin]


async def test_a_copy_is_of_one_moment(index: Index, bucket: Bucket, tmp_path: Path) -> None:
    first, second = BlobId.new(), BlobId.new()
    await index.put_object(bucket, an_object(b"k", Single(blob=first)))
    copy = await index.inspection.copy_to(tmp_path / "copy")
    await index.put_object(bucket, an_object(b"k", Single(blob=second)))
    assert [one.blob for one in await copy.needed(after="", limit=10)] == [first]
    assert await copy.owners(first) == ["bucket/k"]
    assert (tmp_path / "copy").stat().st_size > 0
    assert [one.blob for one in await index.inspection.needed(after="", limit=10)] == [second]

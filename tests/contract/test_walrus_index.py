"""What every index engine of Walrus promises (services/walrus/drivers/base.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import pytest

from common.errors import CloudError, Stale
from services.walrus.drivers.base import (
    Assembled,
    Attributes,
    BlobId,
    Bucket,
    Checksum,
    Content,
    Index,
    Inline,
    Object,
    Part,
    Pin,
    Scan,
    Single,
    Summary,
    Upload,
)
from services.walrus.drivers.embedded.index import SqliteIndex
from services.walrus.drivers.fake import FakeIndex, Storage
from services.walrus.drivers.versions import Deletion, Expectation, Gone, Removal

Engine = Callable[[], AbstractAsyncContextManager[Index]]

NOW_MS = 10_000
CHECKSUM = Checksum(algorithm="CRC32", value="AAAAAA==")


@pytest.fixture(params=["embedded", "fake"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    """Opens the same stored index each time it is called."""
    return ENGINES[request.param](tmp_path)


def embedded_engine(folder: Path) -> Engine:
    @asynccontextmanager
    async def embedded() -> AsyncIterator[Index]:
        index = SqliteIndex(folder / "index.sqlite")
        await index.open()
        try:
            yield index
        finally:
            await index.close()

    return embedded


def fake_engine(_folder: Path) -> Engine:
    storage = Storage()

    @asynccontextmanager
    async def fake() -> AsyncIterator[Index]:
        yield FakeIndex(storage)

    return fake


ENGINES = {"embedded": embedded_engine, "fake": fake_engine}


@pytest.fixture
async def index(engine: Engine) -> AsyncIterator[Index]:
    async with engine() as index:
        yield index


@pytest.fixture
async def bucket(index: Index) -> Bucket:
    return await index.create_bucket("bucket", account_id="1" * 12, owner_id="a" * 64, created_ms=1000)


def an_object(key: bytes, content: Content | None = None, *, etag: str = "e", size: int = 3) -> Object:
    return Object(
        key=key,
        size=size,
        etag=etag,
        modified_ms=1234,
        checksum=CHECKSUM,
        attributes=Attributes(headers={"ContentType": "x/y"}, metadata={"ключ": "значение"}),
        content=content or Inline(body=b"abc"),
    )


def an_upload(bucket: Bucket, key: bytes = b"k", upload_id: str = "u1") -> Upload:
    return Upload(
        bucket_id=bucket.id,
        key=key,
        id=upload_id,
        initiator_id="a" * 64,
        initiator_name="arn",
        started_ms=1,
        algorithm="CRC32",
        composite=False,
        algorithm_chosen=True,
        attributes=Attributes(),
    )


def a_part(number: int, size: int = 10) -> Part:
    return Part(number=number, size=size, etag="e", modified_ms=1, checksum=CHECKSUM, blob=BlobId.new())


async def refused(code: str, call: Awaitable[object]) -> None:
    with pytest.raises(CloudError) as caught:
        await call
    assert caught.value.code == code


@pytest.mark.parametrize("content", [Inline(body=b""), Inline(body=b"abc"), Single(blob=BlobId("0" * 32))])
async def test_what_was_put_is_found_as_it_was_also_after_opening_again(engine: Engine, content: Content) -> None:
    new = an_object(b"\xff\x00k", content)
    async with engine() as index:
        bucket = await index.create_bucket("b", account_id="1", owner_id="2", created_ms=3)
        await index.put_object(bucket, new)
        assert await index.find_object(bucket, new.key) == new
    async with engine() as index:
        assert await index.find_bucket("b") == bucket
        assert await index.find_object(bucket, new.key) == new
        assert await index.find_object(bucket, b"other") is None


async def test_a_bucket_is_made_once_and_an_id_is_never_used_again(index: Index, bucket: Bucket) -> None:
    assert await index.create_bucket("bucket", account_id="2" * 12, owner_id="b", created_ms=2) == bucket
    await index.delete_bucket(bucket)
    assert await index.find_bucket("bucket") is None
    again = await index.create_bucket("bucket", account_id="2" * 12, owner_id="b", created_ms=2)
    assert again.id != bucket.id
    await refused("NoSuchBucket", index.put_object(bucket, an_object(b"k")))
    await refused("NoSuchBucket", index.create_upload(an_upload(bucket)))
    await refused("NoSuchBucket", index.delete_bucket(bucket))


async def test_buckets_are_listed_by_account_prefix_and_page(index: Index) -> None:
    for name in ("b-1", "a-1", "a-2", "a-3"):
        await index.create_bucket(name, account_id="1", owner_id="", created_ms=0)
    await index.create_bucket("a-0", account_id="2", owner_id="", created_ms=0)
    found = await index.list_buckets("1", prefix="a", after="a-1", limit=1)
    assert [one.name for one in found] == ["a-2"]
    assert len(await index.list_buckets("1", prefix="", after="", limit=9)) == 4


async def test_what_is_configured_belongs_to_one_bucket_and_ends_with_it(engine: Engine) -> None:
    async with engine() as index:
        made = await index.create_bucket("b", account_id="1", owner_id="o", created_ms=1, configs={"x": b"1"})
        assert made.configs == {"x": b"1"}
        again = await index.create_bucket("b", account_id="1", owner_id="o", created_ms=2, configs={"x": b"2"})
        assert (again, again.configs) == (made, made.configs)
        await index.create_bucket("other", account_id="1", owner_id="o", created_ms=1)
        await index.put_config(made, "y", b"3")
        await index.put_config(made, "x", b"4")
        await index.put_config(made, "never", None)
    async with engine() as index:
        found = await index.find_bucket("b")
        assert found is not None
        assert found.configs == {"x": b"4", "y": b"3"}
        await index.put_config(found, "x", None)
        assert (await _bucket(index, "b")).configs == {"y": b"3"}
        assert (await _bucket(index, "other")).configs == {}
        assert [one.name for one in await index.buckets_with("y")] == ["b"]
        assert await index.buckets_with("x") == []
        await index.delete_bucket(found)
        with pytest.raises(CloudError, match="does not exist"):
            await index.put_config(found, "y", b"5")
        await index.create_bucket("b", account_id="1", owner_id="o", created_ms=9)
        assert (await _bucket(index, "b")).configs == {}


async def _bucket(index: Index, name: str) -> Bucket:
    found = await index.find_bucket(name)
    assert found is not None
    return found


async def test_a_bucket_with_objects_stays(index: Index, bucket: Bucket) -> None:
    await index.put_object(bucket, an_object(b"k"))
    await refused("BucketNotEmpty", index.delete_bucket(bucket))
    await deleted(index, bucket, b"k")
    await index.delete_bucket(bucket)


async def test_replacing_and_deleting_let_go_of_blobs_in_the_same_step(index: Index, bucket: Bucket) -> None:
    first, second = BlobId.new(), BlobId.new()
    await index.put_object(bucket, an_object(b"k", Single(blob=first)))
    assert await index.named([first, second]) == {first}
    await index.put_object(bucket, an_object(b"k", Single(blob=second)))
    assert await index.garbage(10) == [first]
    await deleted(index, bucket, b"k", b"never")
    assert await index.garbage(10) == [first, second]
    assert await index.named([first, second]) == {first, second}
    await index.forget_garbage([first])
    assert await index.named([first, second]) == {second}


async def test_usage_follows_every_change(index: Index, bucket: Bucket) -> None:
    await index.put_object(bucket, an_object(b"a", size=5))
    await index.put_object(bucket, an_object(b"b", size=7))
    await index.put_object(bucket, an_object(b"a", size=2))
    usage = await index.usage()
    assert (usage.buckets, usage.objects, usage.size) == (1, 2, 9)
    await deleted(index, bucket, b"a", b"a", b"x")
    usage = await index.usage("1" * 12)
    assert (usage.objects, usage.size) == (1, 7)
    assert (await index.usage("9" * 12)).objects == 0


async def test_expectations_are_checked_in_the_step_itself(index: Index, bucket: Bucket) -> None:
    absent, matching = Expectation(absent=True), Expectation(if_match="e1")
    await refused("NoSuchKey", index.put_object(bucket, an_object(b"k"), matching))
    tries = [index.put_object(bucket, an_object(b"k", etag=f"e{n}"), absent) for n in range(5)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    await index.put_object(bucket, an_object(b"k", etag="e1"))
    await index.put_object(bucket, an_object(b"k", etag="e2"), matching)
    await refused("PreconditionFailed", index.put_object(bucket, an_object(b"k"), matching))
    deletion = Deletion(what=Removal(key=b"k"), expect=matching)
    (outcome,) = await index.delete(bucket, [deletion], now_ms=NOW_MS)
    assert isinstance(outcome, CloudError)
    assert outcome.code == "PreconditionFailed"
    assert (await found(index, bucket, b"k")).etag == "e2"


async def deleted(index: Index, bucket: Bucket, *keys: bytes) -> None:
    """For good, as in a bucket without versions."""
    deletions = [Deletion(what=Removal(key=key)) for key in keys]
    for outcome in await index.delete(bucket, deletions, now_ms=NOW_MS):
        assert isinstance(outcome, Gone)


async def found(index: Index, bucket: Bucket, key: bytes) -> Object:
    one = await index.find_object(bucket, key)
    assert isinstance(one, Object)
    return one


async def test_a_step_that_fails_changes_nothing_and_takes_no_other_with_it(index: Index, bucket: Bucket) -> None:
    blob = BlobId.new()
    await index.put_object(bucket, an_object(b"k", Single(blob=blob)))
    bad = index.put_object(bucket, an_object(b"k"), Expectation(absent=True))
    outcomes = await asyncio.gather(index.put_object(bucket, an_object(b"x")), bad, return_exceptions=True)
    assert outcomes[0] is None
    assert isinstance(outcomes[1], CloudError)
    assert await index.garbage(10) == []
    assert (await index.usage()).objects == 2


async def test_a_cancelled_change_has_a_known_outcome(index: Index, bucket: Bucket) -> None:
    task = asyncio.ensure_future(index.put_object(bucket, an_object(b"k")))
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert await index.find_object(bucket, b"k") is not None


async def test_whoever_leaves_during_a_change_of_a_bucket_leaves_no_other_than_was_stored(engine: Engine) -> None:
    async with engine() as index:
        bucket = await index.create_bucket("b", account_id="1", owner_id="2", created_ms=3)
        for turns in range(20):
            change = asyncio.ensure_future(index.put_config(bucket, "k", b"%d" % turns))
            for _ in range(turns + 1):
                await asyncio.sleep(0)
            while not change.done():
                change.cancel()
                await asyncio.sleep(0)
            found = await index.find_bucket("b")
            assert found is not None
            assert found.configs.get("k") == b"%d" % turns
        await index.delete_bucket(bucket)
    async with engine() as index:
        assert await index.find_bucket("b") is None


async def test_names_are_in_byte_order_and_prefixes_are_skipped(index: Index, bucket: Bucket) -> None:
    names = [
        b"a",
        b"a/",
        b"b\xff",
        b"b\xff\xff",
        b"b\xff\xff/1",
        b"c",
        *(b"d/%05d" % n for n in range(30)),
        b"d0",
        b"\xff",
    ]
    for name in reversed(names):
        await index.put_object(bucket, an_object(name))
    page = await index.list_objects(bucket, Scan())
    assert [one.key for one in page.entries if isinstance(one, Summary)] == names
    page = await index.list_objects(bucket, Scan(delimiter=b"/", limit=5))
    assert ([keys_of(one) for one in page.entries], page.truncated) == (
        [b"a", b"a/", b"b\xff", b"b\xff\xff", b"b\xff\xff/"],
        True,
    )
    page = await index.list_objects(bucket, Scan(delimiter=b"/", after=b"b\xff\xff/"))
    assert ([keys_of(one) for one in page.entries], page.truncated) == ([b"c", b"d/", b"d0", b"\xff"], False)
    page = await index.list_objects(bucket, Scan(prefix=b"b\xff"))
    assert len(page.entries) == 3


def keys_of(entry: Summary | bytes) -> bytes:
    return entry if isinstance(entry, bytes) else entry.key


async def test_parts_belong_to_an_upload_until_it_is_completed(index: Index, bucket: Bucket) -> None:
    upload = an_upload(bucket)
    await refused("NoSuchUpload", index.put_part(upload, a_part(1)))
    await index.create_upload(upload)
    assert await index.find_upload(bucket, b"k", "u1") == upload
    old, parts = a_part(2), [a_part(1), a_part(2), a_part(3)]
    for part in (old, *parts):
        await index.put_part(upload, part)
    assert await index.garbage(10) == [old.blob]
    assert await index.list_parts("u1", after=1, limit=1) == [parts[1]]
    content = Assembled(upload_id="u1", part_count=2)
    chosen = [parts[0], parts[2]]
    whole = an_object(b"k", content, size=20)
    with pytest.raises(Stale):
        await index.complete_upload(bucket, upload, [old], whole, Expectation())
    assert await index.find_completion(bucket, b"k", "u1") is None
    await index.complete_upload(bucket, upload, chosen, whole, Expectation())
    assert await index.garbage(10) == [old.blob, parts[1].blob]
    assert [part.start for part in await index.parts_of(content, start=0, end=20)] == [0, 10]
    assert [part.number for part in await index.parts_of(content, start=10, end=11)] == [3]
    assert (await index.part_at(content, 2) or parts[0]).blob == parts[2].blob
    assert await index.part_at(content, 3) is None
    done = await index.find_completion(bucket, b"k", "u1")
    assert done is not None
    assert done.checksum == CHECKSUM
    await refused("NoSuchUpload", index.complete_upload(bucket, upload, chosen, whole, Expectation()))
    await index.forget_completions(10_000)
    assert await index.find_completion(bucket, b"k", "u1") is None
    await deleted(index, bucket, b"k")
    assert len(await index.garbage(10)) == 4


async def test_of_many_parts_those_that_hold_the_bytes_are_found(index: Index, bucket: Bucket) -> None:
    upload = an_upload(bucket)
    await index.create_upload(upload)
    # Numbers with gaps, and parts without a byte.
    parts = [a_part(1 + 33 * n, size=n % 3) for n in range(300)]
    await asyncio.gather(*(index.put_part(upload, part) for part in parts))
    size = sum(part.size for part in parts)
    content = Assembled(upload_id="u1", part_count=len(parts))
    await index.complete_upload(bucket, upload, parts, an_object(b"k", content, size=size), Expectation())
    placed = await index.list_parts("u1", limit=1000)
    for start, end in ((0, size), (0, 1), (size - 1, size), (100, 101), (99, 250), (size // 2, size // 2 + 3)):
        wanted = [part for part in placed if part.start < end and part.start + part.size > start]
        assert await index.parts_of(content, start=start, end=end) == wanted


async def test_an_aborted_upload_lets_go_of_its_parts(index: Index, bucket: Bucket) -> None:
    upload = an_upload(bucket)
    await index.create_upload(upload)
    await index.put_part(upload, a_part(1))
    await index.abort_upload(upload)
    assert len(await index.garbage(10)) == 1
    await refused("NoSuchUpload", index.abort_upload(upload))


async def test_uploads_are_listed_by_key_and_id(index: Index, bucket: Bucket) -> None:
    for key, upload_id in ((b"b", "2"), (b"b", "1"), (b"a/x", "3"), (b"b", "3")):
        await index.create_upload(an_upload(bucket, key, upload_id))

    async def listed(scan: Scan) -> list[object]:
        page = await index.list_uploads(bucket, scan)
        return [one if isinstance(one, bytes) else (one.key, one.id) for one in page.entries]

    assert await listed(Scan(delimiter=b"/")) == [b"a/", (b"b", "1"), (b"b", "2"), (b"b", "3")]
    assert await listed(Scan(after=b"b", after_id="1", limit=1)) == [(b"b", "2")]
    assert await listed(Scan(after=b"b")) == []


async def test_pins_are_kept_by_image_and_contents_while_any_stands(index: Index) -> None:
    pins = [
        Pin(image_id=str(n), sha256="s", size=1, format="raw", virtual_size=1, account_id="1", source="machine b/k")
        for n in range(2)
    ]
    for pin in pins:
        await index.put_pin(pin)
    assert await index.find_pin("1") == pins[1]
    await index.delete_pin("1")
    await index.delete_pin("1")
    assert (await index.find_pin("1"), await index.pinned_contents()) == (None, {"s"})
    assert (await index.usage()).pins == 1
    await index.delete_pin("0")
    assert await index.pinned_contents() == set()

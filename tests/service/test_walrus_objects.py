"""Walrus' use cases of objects on the embedded engines."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sqlite3
import threading
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mallee.s3.v1 import bucket_pb2, object_pb2
from services.walrus import buckets, delete, get, put
from services.walrus.drivers.base import Object
from services.walrus.store import Limits, Store
from tests.walrus_store import (
    ALICE,
    BOB,
    files_of,
    get_bytes,
    get_object,
    make_bucket,
    opened_store,
    put_bytes,
    refused,
    stream,
)

SMALL = b"hello"
LARGE = bytes(range(256)) * 40


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path / "walrus") as store:
        await make_bucket(store)
        yield store


@pytest.mark.parametrize("body", [b"", SMALL, LARGE])
async def test_an_object_comes_back_as_it_was_put(store: Store, body: bytes) -> None:
    answer = await put_bytes(
        store, "k", body, metadata={"color": "red"}, content_type="text/plain", cache_control="no-cache"
    )
    assert answer.e_tag == f'"{hashlib.md5(body).hexdigest()}"'
    header, found = await get_object(store, "k", checksum_mode="ENABLED")
    assert found == body
    assert header.content_length == len(body)
    assert header.e_tag == answer.e_tag
    assert dict(header.metadata) == {"color": "red"}
    assert (header.content_type, header.cache_control) == ("text/plain", "no-cache")
    assert header.checksum_crc64_nvme == answer.checksum_crc64_nvme != ""
    assert header.checksum_type == "FULL_OBJECT"


@pytest.mark.parametrize("body", [SMALL, LARGE])
async def test_a_new_object_replaces_the_old_one_and_its_bytes_are_let_go(
    store: Store, body: bytes, tmp_path: Path
) -> None:
    await put_bytes(store, "k", LARGE)
    await put_bytes(store, "k", body)
    assert await get_bytes(store, "k") == body
    assert len(await store.index.garbage(10)) == 1
    usage = await store.index.usage()
    assert (usage.objects, usage.size) == (1, len(body))


async def test_a_stream_without_its_end_stores_nothing(store: Store, tmp_path: Path) -> None:
    header = object_pb2.PutObjectRequest(bucket="bucket", key="k")
    for body in (SMALL, LARGE):
        messages = stream(object_pb2.PutObjectStream, header, body, ended=False)
        await refused("IncompleteBody", put.put_object(store, messages, ALICE))
    await refused("NoSuchKey", get_bytes(store, "k"))
    assert files_of(tmp_path / "walrus") == []


async def test_a_body_of_another_length_than_announced_stores_nothing(store: Store, tmp_path: Path) -> None:
    await refused("IncompleteBody", put_bytes(store, "k", LARGE, content_length=len(LARGE) + 1))
    assert files_of(tmp_path / "walrus") == []


async def test_a_cancelled_upload_leaves_no_file(store: Store, tmp_path: Path) -> None:
    written = asyncio.Event()

    async def stalled() -> AsyncIterator[object_pb2.PutObjectStream]:
        yield object_pb2.PutObjectStream(header=object_pb2.PutObjectRequest(bucket="bucket", key="k"))
        yield object_pb2.PutObjectStream(chunk=LARGE)
        written.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(put.put_object(store, stalled(), ALICE))
    await written.wait()
    assert len(files_of(tmp_path / "walrus")) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files_of(tmp_path / "walrus") == []


async def test_an_upload_that_is_cancelled_twice_while_it_is_committed_keeps_what_the_index_names(
    store: Store, tmp_path: Path
) -> None:
    goes_on, writing, committing = threading.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def now_ms() -> int:
        """The last thing that is asked for before the step, once the blob is sealed."""
        if any(path.is_file() for path in (tmp_path / "walrus" / "blobs").rglob("*")):
            committing.set()
        return 1000

    def hold(now: Object) -> Object:
        """What the index does meanwhile waits for it."""
        loop.call_soon_threadsafe(writing.set)
        goes_on.wait(15)
        return now

    await put_bytes(store, "k", SMALL)
    bucket = await store.index.find_bucket("bucket")
    assert bucket is not None
    held = asyncio.ensure_future(store.index.change_object(bucket, b"k", None, hold))
    await writing.wait()
    store.now_ms = now_ms
    upload = asyncio.ensure_future(put_bytes(store, "k", LARGE))
    await committing.wait()
    for _ in range(3):
        upload.cancel()
        await asyncio.sleep(0)
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await upload
    await held
    # Behind its step.
    await put_bytes(store, "other", SMALL)
    assert await get_bytes(store, "k") == LARGE


@pytest.mark.parametrize("bug", [MemoryError(), OSError("x"), sqlite3.IntegrityError("x")])
async def test_what_a_step_raises_is_its_own(store: Store, bug: Exception) -> None:
    await put_bytes(store, "k", SMALL)
    bucket = await store.index.find_bucket("bucket")
    assert bucket is not None

    def change(_: Object) -> Object:
        raise bug

    steps = [store.index.change_object(bucket, b"k", None, change), put_bytes(store, "l", SMALL)]
    refusal, stored = await asyncio.gather(*steps, return_exceptions=True)
    assert refusal is bug
    assert not isinstance(stored, BaseException)
    assert await get_bytes(store, "l") == SMALL


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_nobody_waits_for_a_writer_that_is_gone(store: Store) -> None:
    await put_bytes(store, "k", SMALL)
    bucket = await store.index.find_bucket("bucket")
    assert bucket is not None

    def change(_: Object) -> Object:
        raise SystemExit

    await refused("ServiceUnavailable", store.index.change_object(bucket, b"k", None, change))
    await refused("ServiceUnavailable", put_bytes(store, "l", SMALL))
    assert await get_bytes(store, "k") == SMALL


async def test_a_stalled_upload_is_given_up(tmp_path: Path) -> None:
    async def stalled() -> AsyncIterator[object_pb2.PutObjectStream]:
        yield object_pb2.PutObjectStream(header=object_pb2.PutObjectRequest(bucket="bucket", key="k"))
        await asyncio.Event().wait()

    async with opened_store(tmp_path / "walrus", Limits(reserve_bytes=0, idle_s=0.05)) as store:
        await make_bucket(store)
        await refused("RequestTimeout", put.put_object(store, stalled(), ALICE))


async def test_digests_in_headers_and_trailers_are_compared(store: Store) -> None:
    right = base64.b64encode(zlib.crc32(LARGE).to_bytes(4, "big")).decode()
    wrong = base64.b64encode(zlib.crc32(SMALL).to_bytes(4, "big")).decode()
    md5 = base64.b64encode(hashlib.md5(LARGE).digest()).decode()
    assert (await put_bytes(store, "k", LARGE, checksum_crc32=right, content_md5=md5)).checksum_crc32 == right
    await refused("BadDigest", put_bytes(store, "k", LARGE, checksum_crc32=wrong))
    await refused("BadDigest", put_bytes(store, "k", SMALL, content_md5=md5))
    await refused("InvalidDigest", put_bytes(store, "k", SMALL, content_md5="abc"))
    await refused("InvalidRequest", put_bytes(store, "k", SMALL, checksum_crc32="abc"))
    header = object_pb2.PutObjectRequest(bucket="bucket", key="k", checksum_algorithm="CRC32")
    for value, code in ((right, ""), (wrong, "BadDigest")):
        trailers = {"x-amz-checksum-crc32": value}
        call = put.put_object(store, stream(object_pb2.PutObjectStream, header, LARGE, trailers=trailers), ALICE)
        if code:
            await refused(code, call)
        else:
            assert (await call).checksum_crc32 == right
    header.checksum_algorithm = "SHA1"
    call = put.put_object(store, stream(object_pb2.PutObjectStream, header, LARGE, trailers=trailers), ALICE)
    await refused("InvalidRequest", call)
    found, _ = await get_object(store, "k", checksum_mode="ENABLED")
    assert (found.checksum_crc32, found.checksum_crc64_nvme) == (right, "")


@pytest.mark.parametrize("algorithm", ["crc32", "crc32_c", "crc64_nvme", "sha1", "sha256"])
async def test_a_checksum_survives_and_comes_back_when_asked(store: Store, algorithm: str) -> None:
    name = algorithm.replace("_", "").upper()
    first = await put_bytes(store, "k", LARGE, checksum_algorithm=name)
    value = getattr(first, f"checksum_{algorithm}")
    assert value
    await put_bytes(store, "k", LARGE, **{f"checksum_{algorithm}": value})
    header, _ = await get_object(store, "k")
    assert getattr(header, f"checksum_{algorithm}") == ""


@pytest.mark.parametrize("body", [bytes(range(60)), LARGE])
@pytest.mark.parametrize(
    ("header", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=10-", 10, None), ("bytes=-7", -7, None), ("bytes=5-999999", 5, None)],
)
async def test_a_range_is_served(store: Store, body: bytes, header: str, start: int, end: int | None) -> None:
    await put_bytes(store, "k", body)
    answer, found = await get_object(store, "k", range=header, checksum_mode="ENABLED")
    assert found == body[start:end]
    first = start % len(body)
    assert answer.content_range == f"bytes {first}-{first + len(found) - 1}/{len(body)}"
    assert answer.content_length == len(found)
    assert not answer.checksum_crc64_nvme


async def test_a_range_behind_the_end_is_refused_and_a_strange_one_ignored(store: Store) -> None:
    await put_bytes(store, "k", SMALL)
    error = await refused("InvalidRange", get_bytes(store, "k", range="bytes=5-"))
    assert error.details["ActualObjectSize"] == "5"
    for header in ("bytes=0-1,3-4", "lines=1-2", "bytes=3-1", "bytes=-"):
        assert await get_bytes(store, "k", range=header) == SMALL


async def test_conditional_reads(store: Store) -> None:
    etag = (await put_bytes(store, "k", SMALL)).e_tag
    assert await get_bytes(store, "k", if_match=etag) == SMALL
    await refused("PreconditionFailed", get_bytes(store, "k", if_match='"other"'))
    error = await refused("NotModified", get_bytes(store, "k", if_none_match=etag))
    assert error.details["ETag"] == etag
    head = await get.head_object(store, object_pb2.HeadObjectRequest(bucket="bucket", key="k"), ALICE)
    await refused("NotModified", get_bytes(store, "k", if_modified_since=head.last_modified))
    assert await get_bytes(store, "k", if_unmodified_since=head.last_modified) == SMALL


async def test_conditional_writes(store: Store) -> None:
    await refused("NoSuchKey", put_bytes(store, "k", SMALL, if_match='"x"'))
    etag = (await put_bytes(store, "k", SMALL, if_none_match="*")).e_tag
    await refused("PreconditionFailed", put_bytes(store, "k", LARGE, if_none_match="*"))
    await refused("PreconditionFailed", put_bytes(store, "k", LARGE, if_match='"x"'))
    await put_bytes(store, "k", LARGE, if_match=etag)
    await refused("NotImplemented", put_bytes(store, "k", LARGE, if_none_match=etag))
    request = object_pb2.DeleteObjectRequest(bucket="bucket", key="k", if_match=etag)
    await refused("PreconditionFailed", delete.delete_object(store, request, ALICE))


async def test_of_many_writers_with_if_none_match_one_wins(store: Store) -> None:
    tries = (put_bytes(store, "k", LARGE + bytes([n]), if_none_match="*") for n in range(8))
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1


async def test_another_account_is_refused_and_nobody_is_nobody(store: Store) -> None:
    await put_bytes(store, "k", SMALL)
    await refused("AccessDenied", get_bytes(store, "k", caller=BOB))
    await refused("AccessDenied", put_bytes(store, "k", SMALL, caller=BOB))
    request = object_pb2.HeadObjectRequest(bucket="bucket", key="k")
    await refused("AccessDenied", get.head_object(store, request, None))
    await refused("AccessDenied", get_bytes(store, "k", expected_bucket_owner="333333333333"))
    await refused("NoSuchBucket", get_bytes(store, "k", bucket="other"))


async def test_many_keys_are_deleted_at_once_each_with_its_outcome(store: Store) -> None:
    for key in ("a", "b", "c"):
        await put_bytes(store, key, LARGE)
    request = object_pb2.DeleteObjectsRequest(bucket="bucket")
    for key, etag in (("a", ""), ("x" * 1025, ""), ("b", '"wrong"'), ("gone", "")):
        request.delete.objects.add(key=key, e_tag=etag)
    answer = await delete.delete_objects(store, request, ALICE)
    assert [one.key for one in answer.deleted] == ["a", "gone"]
    assert [one.code for one in answer.errors] == ["KeyTooLongError", "PreconditionFailed"]
    request.delete.quiet = True
    assert not (await delete.delete_objects(store, request, ALICE)).deleted
    del request.delete.objects[:]
    await refused("MalformedXML", delete.delete_objects(store, request, ALICE))


async def test_names_that_s3_allows_are_kept_and_others_refused(store: Store) -> None:
    for key in ("//", "..", "a%2Fb", "ключ", "\x01", "x" * 1024):
        await put_bytes(store, key, key.encode())
        assert await get_bytes(store, key) == key.encode()
    await refused("KeyTooLongError", put_bytes(store, "ю" * 513, b""))
    for name in ("ab", "Upper", "a..b", "192.168.1.1", "xn--a", "a_b", "-ab"):
        await refused("InvalidBucketName", make_bucket(store, name))


async def test_metadata_beyond_2_kib_is_refused(store: Store) -> None:
    await refused("MetadataTooLarge", put_bytes(store, "k", b"", metadata={"a": "b" * 2048}))


async def test_writes_stop_before_the_disk_is_full(tmp_path: Path) -> None:
    async with opened_store(tmp_path / "walrus", Limits(reserve_bytes=1 << 60)) as store:
        await make_bucket(store)
        error = await refused("InsufficientCapacity", put_bytes(store, "k", SMALL))
        assert "full" in error.message


async def test_buckets_belong_to_who_made_them(store: Store) -> None:
    await make_bucket(store)
    await refused("BucketAlreadyExists", make_bucket(store, caller=BOB))
    await make_bucket(store, "second")
    listed = await buckets.list_buckets(store, bucket_pb2.ListBucketsRequest(max_buckets=1), ALICE)
    assert [one.name for one in listed.buckets] == ["bucket"]
    rest = bucket_pb2.ListBucketsRequest(continuation_token=listed.continuation_token)
    assert [one.name for one in (await buckets.list_buckets(store, rest, ALICE)).buckets] == ["second"]
    location = await buckets.get_bucket_location(store, bucket_pb2.GetBucketLocationRequest(bucket="bucket"), ALICE)
    assert not location.HasField("location_constraint")


async def test_a_bucket_goes_only_when_it_is_empty(store: Store) -> None:
    request = bucket_pb2.DeleteBucketRequest(bucket="bucket")
    await put_bytes(store, "k", SMALL)
    await refused("BucketNotEmpty", buckets.delete_bucket(store, request, ALICE))
    await delete.delete_object(store, object_pb2.DeleteObjectRequest(bucket="bucket", key="k"), ALICE)
    await buckets.delete_bucket(store, request, ALICE)
    await refused("NoSuchBucket", buckets.delete_bucket(store, request, ALICE))
    await make_bucket(store, caller=BOB)

"""Versions, delete markers and locks as requests see them, on both engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from common.errors import CloudError
from mallee.s3.v1 import body_pb2, bucket_pb2, listing_pb2, object_lock_pb2, object_pb2, object_tagging_pb2
from services.walrus import buckets, delete, get, listing, object_lock, object_tagging
from services.walrus.account import delete_account_data
from services.walrus.drivers.fake import FakeIndex
from services.walrus.drivers.fake_blobs import FakeBlobs
from services.walrus.put import put_object
from services.walrus.store import Store
from tests.walrus_store import (
    ALICE,
    LIMITS,
    begin_upload,
    complete,
    get_bytes,
    get_object,
    lock_bucket,
    make_bucket,
    opened_store,
    put_bytes,
    refused,
    upload_part,
    version_bucket,
)

DAY_S = 24 * 3600


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_700_000_000

    def ms(self) -> int:
        return self.now_s * 1000

    def later(self, seconds: int) -> Timestamp:
        return Timestamp(seconds=self.now_s + seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["embedded", "fake"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    if request.param == "fake":
        store = Store(index=FakeIndex(), blobs=FakeBlobs(), limits=LIMITS, now_ms=clock.ms)
        await make_bucket(store)
        yield store
        await store.close()
        return
    async with opened_store(tmp_path / "walrus") as store:
        store.now_ms = clock.ms
        await make_bucket(store)
        yield store


async def put(store: Store, key: str, body: bytes, **members: Any) -> str:
    """Its version id."""
    return (await put_bytes(store, key, body, **members)).version_id


async def remove(store: Store, key: str, version_id: str = "", **members: Any) -> object_pb2.DeleteObjectOutput:
    request = object_pb2.DeleteObjectRequest(bucket="bucket", key=key, version_id=version_id or None, **members)
    return await delete.delete_object(store, request, ALICE)


async def versions(store: Store, **members: Any) -> listing_pb2.ListObjectVersionsOutput:
    request = listing_pb2.ListObjectVersionsRequest(bucket="bucket", **members)
    return await listing.list_object_versions(store, request, ALICE)


def named(page: listing_pb2.ListObjectVersionsOutput) -> list[tuple[str, str]]:
    markers = [(one.key, one.version_id) for one in page.delete_markers]
    return [(one.key, one.version_id) for one in page.versions] + markers


async def test_a_bucket_without_versions_tells_of_none(store: Store) -> None:
    assert not (await put_bytes(store, "k", b"one")).HasField("version_id")
    header, _ = await get_object(store, "k")
    assert not header.HasField("version_id")
    assert await get_bytes(store, "k", version_id="null") == b"one"
    (only,) = (await versions(store)).versions
    assert (only.version_id, only.is_latest) == ("null", True)
    assert not (await remove(store, "k")).HasField("version_id")
    assert not (await versions(store)).versions


async def test_versions_stay_beside_the_null_version(store: Store) -> None:
    await put(store, "k", b"null")
    await version_bucket(store)
    first, second = await put(store, "k", b"first"), await put(store, "k", b"second")
    assert first != second
    header, body = await get_object(store, "k")
    assert (header.version_id, body) == (second, b"second")
    for version_id, body in ((first, b"first"), ("null", b"null"), (second, b"second")):
        header, found = await get_object(store, "k", version_id=version_id)
        assert (header.version_id, found) == (version_id, body)
    listed = (await versions(store)).versions
    assert [(one.version_id, one.is_latest) for one in listed] == [(second, True), (first, False), ("null", False)]
    await version_bucket(store, "Suspended")
    assert await put(store, "k", b"again") == "null"
    listed = (await versions(store)).versions
    assert [one.version_id for one in listed] == ["null", second, first]
    assert (await store.index.usage()).objects == 3


async def test_a_marker_is_no_object(store: Store) -> None:
    await version_bucket(store)
    first = await put(store, "k", b"first")
    marked = await remove(store, "k")
    assert marked.delete_marker
    error = await refused("NoSuchKey", get_bytes(store, "k"))
    assert error.details["x-amz-delete-marker"] == "true"
    assert error.details["x-amz-version-id"] == marked.version_id
    error = await refused("MethodNotAllowed", get_bytes(store, "k", version_id=marked.version_id))
    assert error.details["Allow"] == "DELETE"
    tags = object_tagging_pb2.GetObjectTaggingRequest(bucket="bucket", key="k")
    untag = object_tagging_pb2.DeleteObjectTaggingRequest(bucket="bucket", key="k")
    for asked in (object_tagging.get_tagging(store, tags, ALICE), object_tagging.delete_tagging(store, untag, ALICE)):
        error = await refused("MethodNotAllowed", asked)
        assert error.details["x-amz-version-id"] == marked.version_id
    assert await get_bytes(store, "k", version_id=first) == b"first"
    await refused("NoSuchVersion", get_bytes(store, "k", version_id="0" * 32))
    for wrong in ("nonsense", ""):
        await refused("InvalidArgument", get_bytes(store, "k", version_id=wrong))
    page = await versions(store)
    assert [(one.version_id, one.is_latest) for one in page.delete_markers] == [(marked.version_id, True)]
    await refused(
        "BucketNotEmpty", buckets.delete_bucket(store, bucket_pb2.DeleteBucketRequest(bucket="bucket"), ALICE)
    )
    gone = await remove(store, "k", marked.version_id)
    assert (gone.delete_marker, gone.version_id) == (True, marked.version_id)
    assert await get_bytes(store, "k") == b"first"
    gone = await remove(store, "k", first)
    assert (gone.delete_marker, gone.version_id) == (False, first)
    await buckets.delete_bucket(store, bucket_pb2.DeleteBucketRequest(bucket="bucket"), ALICE)


async def test_many_are_deleted_each_in_its_way(store: Store) -> None:
    await version_bucket(store)
    one, two = await put(store, "a", b"1"), await put(store, "a", b"2")
    await put(store, "b", b"3")
    request = object_pb2.DeleteObjectsRequest(bucket="bucket")
    request.delete.objects.add(key="a", version_id=one)
    request.delete.objects.add(key="b")
    request.delete.objects.add(key="a", e_tag='"wrong"')
    request.delete.objects.add(key="a", size=7)
    request.delete.objects.add(key="a", version_id="nonsense")
    request.delete.objects.add(key="a", version_id="")
    answer = await delete.delete_objects(store, request, ALICE)
    assert [(done.key, done.version_id, done.delete_marker) for done in answer.deleted] == [
        ("a", one, False),
        ("b", "", True),
    ]
    assert len(answer.deleted[1].delete_marker_version_id) == 32
    assert [(error.key, error.code) for error in answer.errors] == [
        ("a", "PreconditionFailed"),
        ("a", "PreconditionFailed"),
        ("a", "NoSuchVersion"),
        ("a", "NoSuchVersion"),
    ]
    assert await get_bytes(store, "a", version_id=two) == b"2"


async def test_listed_versions_go_on_where_the_last_page_ended(store: Store) -> None:
    await version_bucket(store)
    for number in range(7):
        await put(store, "a/k" if number % 2 else "b", b"x")
    await remove(store, "b")
    whole = await versions(store)
    shown = named(whole)
    paged: list[tuple[str, str]] = []
    page = await versions(store, max_keys=2)
    while True:
        paged += named(page)
        if not page.is_truncated:
            break
        page = await versions(
            store, max_keys=2, key_marker=page.next_key_marker, version_id_marker=page.next_version_id_marker
        )
    assert sorted(paged) == sorted(shown)
    assert len(set(paged)) == 8
    page = await versions(store, delimiter="/")
    assert [one.prefix for one in page.common_prefixes] == ["a/"]
    assert {one.key for one in page.versions} == {"b"}
    await refused("InvalidArgument", versions(store, version_id_marker="null"))


async def test_a_completed_upload_is_a_version_and_repeating_tells_the_same(store: Store) -> None:
    await version_bucket(store)
    first = await put(store, "k", b"first")
    upload = await begin_upload(store, "k", tagging="a=b")
    etag = await upload_part(store, "k", upload, 1, b"x" * 200)
    done = await complete(store, "k", upload, {1: etag})
    again = await complete(store, "k", upload, {1: etag})
    assert done.version_id == again.version_id
    assert done.version_id not in ("", first)
    header, body = await get_object(store, "k")
    assert (header.version_id, header.tag_count, body) == (done.version_id, 1, b"x" * 200)
    await remove(store, "k", done.version_id)
    assert await get_bytes(store, "k") == b"first"


async def test_tags_are_of_one_version(store: Store) -> None:
    await version_bucket(store)
    first = await put(store, "k", b"1", tagging="a=1&b=%C3%BC+x")
    await put(store, "k", b"2")

    async def tags(version_id: str = "") -> dict[str, str]:
        request = object_tagging_pb2.GetObjectTaggingRequest(bucket="bucket", key="k", version_id=version_id or None)
        return {tag.key: tag.value for tag in (await object_tagging.get_tagging(store, request, ALICE)).tag_set}

    assert await tags(first) == {"a": "1", "b": "ü x"}
    assert await tags() == {}
    change = object_tagging_pb2.PutObjectTaggingRequest(bucket="bucket", key="k")
    change.tagging.tag_set.add(key="c", value="3")
    await object_tagging.put_tagging(store, change, ALICE)
    assert (await tags(), await tags(first)) == ({"c": "3"}, {"a": "1", "b": "ü x"})
    gone = object_tagging_pb2.DeleteObjectTaggingRequest(bucket="bucket", key="k", version_id=first)
    assert (await object_tagging.delete_tagging(store, gone, ALICE)).version_id == first
    assert await tags(first) == {}
    await put(store, "k", b"3", tagging="b=2&c&a=1")
    assert list((await tags()).items()) == [("a", "1"), ("b", "2"), ("c", "")]
    for wrong in ("a=1&a=2", "=1", "a=1,b=2", "a=%ff"):
        await refused("InvalidArgument", put(store, "k", b"", tagging=wrong))
    await refused("BadRequest", put(store, "k", b"", tagging="&".join(f"k{n}=v" for n in range(11))))
    await refused("InvalidTag", put(store, "k", b"", tagging="aws:k=v"))


async def test_a_default_retention_holds_until_the_clock_says_so(store: Store, clock: Clock) -> None:
    await lock_bucket(store, mode="COMPLIANCE", days=2)
    version_id = await put(store, "k", b"x")
    upload = await begin_upload(store, "u")
    etag = await upload_part(store, "u", upload, 1, b"x")
    uploaded = (await complete(store, "u", upload, {1: etag})).version_id
    header, _ = await get_object(store, "k")
    assert header.object_lock_mode == "COMPLIANCE"
    assert header.object_lock_retain_until_date == clock.later(2 * DAY_S)
    for key, locked in (("k", version_id), ("u", uploaded)):
        await refused("AccessDenied", remove(store, key, locked, bypass_governance_retention=True))
        assert (await remove(store, key)).delete_marker
    clock.now_s += 2 * DAY_S
    await remove(store, "k", version_id)
    await remove(store, "u", uploaded)
    assert not (await versions(store)).versions


async def test_a_version_is_kept_and_locked_as_the_bucket_says_when_its_bytes_have_come(
    store: Store, clock: Clock
) -> None:
    began, goes_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[object_pb2.PutObjectStream]:
        yield object_pb2.PutObjectStream(header=object_pb2.PutObjectRequest(bucket="bucket", key="k"))
        began.set()
        await goes_on.wait()
        yield object_pb2.PutObjectStream(chunk=b"new")
        yield object_pb2.PutObjectStream(end=body_pb2.BodyEnd(length=3))

    await put(store, "k", b"old")
    upload_id = await begin_upload(store, "k")
    uploading = asyncio.create_task(put_object(store, slow(), ALICE))
    await began.wait()
    await lock_bucket(store, mode="COMPLIANCE", days=1)
    await retain(store, "COMPLIANCE", clock.later(DAY_S))
    goes_on.set()
    version_id = (await uploading).version_id
    etag = await upload_part(store, "k", upload_id, 1, b"parts")
    assert (await complete(store, "k", upload_id, {1: etag})).version_id not in ("", version_id)
    assert await get_bytes(store, "k", version_id="null") == b"old"
    header, body = await get_object(store, "k", version_id=version_id)
    assert (body, header.object_lock_mode) == (b"new", "COMPLIANCE")


async def retain(store: Store, mode: str, until: Timestamp | None, **members: Any) -> None:
    request = object_lock_pb2.PutObjectRetentionRequest(bucket="bucket", key="k", **members)
    request.retention.SetInParent()
    if mode:
        request.retention.mode = mode
    if until is not None:
        request.retention.retain_until_date.CopyFrom(until)
    await object_lock.put_retention(store, request, ALICE)


async def test_a_retention_grows_and_shrinks_only_where_it_may_be_broken(store: Store, clock: Clock) -> None:
    await lock_bucket(store)
    version_id = await put(store, "k", b"x")
    await retain(store, "GOVERNANCE", clock.later(100))
    await retain(store, "GOVERNANCE", clock.later(200))
    await refused("AccessDenied", retain(store, "GOVERNANCE", clock.later(100)))
    await refused("AccessDenied", retain(store, "COMPLIANCE", clock.later(300)))
    await refused("AccessDenied", retain(store, "", None))
    await refused("AccessDenied", remove(store, "k", version_id))
    await retain(store, "GOVERNANCE", clock.later(100), bypass_governance_retention=True)
    await retain(store, "", None, bypass_governance_retention=True)
    await retain(store, "COMPLIANCE", clock.later(100))
    for mode, seconds in (("COMPLIANCE", 50), ("GOVERNANCE", 200)):
        again = retain(store, mode, clock.later(seconds), bypass_governance_retention=True)
        await refused("AccessDenied", again)
    await refused("InvalidArgument", retain(store, "COMPLIANCE", clock.later(0)))
    await refused("MalformedXML", retain(store, "nonsense", clock.later(100)))
    await refused("MalformedXML", retain(store, "COMPLIANCE", None))
    clock.now_s += 100
    await retain(store, "GOVERNANCE", clock.later(1))
    await remove(store, "k", version_id, bypass_governance_retention=True)


async def test_a_legal_hold_is_broken_by_nobody_but_who_set_it(store: Store, clock: Clock) -> None:
    await lock_bucket(store)
    version_id = await put(store, "k", b"x", object_lock_legal_hold_status="ON", checksum_algorithm="CRC32")
    await refused("AccessDenied", remove(store, "k", version_id, bypass_governance_retention=True))
    request = object_lock_pb2.PutObjectLegalHoldRequest(bucket="bucket", key="k", version_id=version_id)
    request.legal_hold.status = "OFF"
    await object_lock.put_legal_hold(store, request, ALICE)
    asked = object_lock_pb2.GetObjectLegalHoldRequest(bucket="bucket", key="k")
    assert (await object_lock.get_legal_hold(store, asked, ALICE)).legal_hold.status == "OFF"
    await remove(store, "k", version_id)


async def test_locks_are_for_buckets_that_lock(store: Store, clock: Clock) -> None:
    until = {"object_lock_mode": "GOVERNANCE", "object_lock_retain_until_date": clock.later(9)}
    await refused("InvalidRequest", put(store, "k", b"", **until))
    await put(store, "k", b"")
    await refused("InvalidRequest", retain(store, "GOVERNANCE", clock.later(9)))
    asked = object_lock_pb2.GetObjectLockConfigurationRequest(bucket="bucket")
    await refused("ObjectLockConfigurationNotFoundError", object_lock.get_configuration(store, asked, ALICE))
    wanted = object_lock_pb2.PutObjectLockConfigurationRequest(bucket="bucket")
    wanted.object_lock_configuration.object_lock_enabled = "Enabled"
    await refused("InvalidBucketState", object_lock.put_configuration(store, wanted, ALICE))
    await lock_bucket(store)
    await refused("InvalidBucketState", version_bucket(store, "Suspended"))
    assert await put(store, "k", b"", **until)
    await refused("InvalidArgument", put(store, "k", b"", object_lock_mode="GOVERNANCE"))
    for days, years, mode in ((1, 1, "GOVERNANCE"), (None, None, "GOVERNANCE"), (1, None, "nonsense")):
        await refused("MalformedXML", lock_bucket(store, mode=mode, days=days, years=years))
    await refused("InvalidArgument", lock_bucket(store, mode="GOVERNANCE", days=0))
    # The end of an account is the operator's: no lock outlives it.
    await delete_account_data(store, ALICE.account_id)
    assert (await store.index.usage()).objects == 0


async def test_a_page_of_a_website_leads_elsewhere(store: Store) -> None:
    await put(store, "k", b"", website_redirect_location="/other")
    head = await get.head_object(store, object_pb2.HeadObjectRequest(bucket="bucket", key="k"), ALICE)
    assert head.website_redirect_location == "/other"
    with pytest.raises(CloudError, match="prefix"):
        await put(store, "k", b"", website_redirect_location="ftp://x")

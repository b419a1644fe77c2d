"""The worker of lifecycle rules on a real store, with a clock that tests turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from mallee.s3.v1 import multipart_pb2, object_pb2
from mallee.s3.v1.lifecycle_pb2 import BucketLifecycleConfiguration
from mallee.s3.v1.versioning_pb2 import VersioningConfiguration
from services.walrus import configs, delete, get, multipart
from services.walrus.drivers.base import Attributes, Bucket, Inline, Object, Scan, Summary
from services.walrus.drivers.versions import Deletion, Marker, Removal, Retention
from services.walrus.expire import Expirer
from services.walrus.lifecycle import DAY_MS, Calendar
from services.walrus.put import put_object
from services.walrus.store import Store
from tests.eventually import becomes
from tests.walrus_store import ALICE, begin_upload, complete, make_bucket, opened_store, stream, upload_part

START = 1000 * DAY_MS + 5


class Clock:
    now_ms = START

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    async with opened_store(tmp_path / "walrus") as store:
        store.now_ms = clock
        await make_bucket(store)
        yield store


async def configure(store: Store, *rules: dict[str, Any], versioning: str = "") -> Bucket:
    shaped = [{"id": f"r{at}", "status": "Enabled", "filter": {}, **rule} for at, rule in enumerate(rules)]
    await configs.put(store, await find(store), ParseDict({"rules": shaped}, BucketLifecycleConfiguration()))
    if versioning:
        await configs.put(store, await find(store), VersioningConfiguration(status=versioning))
    return await find(store)


async def find(store: Store) -> Bucket:
    bucket = await store.index.find_bucket("bucket")
    assert bucket is not None
    return bucket


async def put(store: Store, key: str, *, version_id: str = "", size: int = 3, **extras: Any) -> None:
    new = Object(
        key=key.encode(),
        size=size,
        etag=f"etag-{version_id}",
        modified_ms=store.now_ms(),
        checksum=None,
        attributes=Attributes(),
        content=Inline(body=b"x" * size),
        version_id=version_id,
    )
    await store.index.put_object(await find(store), replace(new, **extras))


async def there(store: Store) -> list[tuple[str, str]]:
    page = await store.index.list_versions(await find(store), Scan())
    return [(one.key.decode(), _name(one)) for one in page.entries if not isinstance(one, bytes)]


def _name(one: Summary | Marker) -> str:
    return "marker" if isinstance(one, Marker) else one.version_id or "null"


async def emptied(store: Store) -> None:
    async def nothing() -> bool:
        return not await there(store)

    await becomes(nothing)


async def sweep(store: Store, *, page: int = 1000) -> None:
    await Expirer(store, page=page).sweep(await find(store))


async def test_objects_go_when_their_days_are_over(store: Store, clock: Clock) -> None:
    await configure(store, {"expiration": {"days": 2}, "filter": {"prefix": "logs/"}})
    await put(store, "logs/a")
    await put(store, "other")
    clock.now_ms += DAY_MS
    await put(store, "logs/b")
    await sweep(store)
    assert [key for key, _ in await there(store)] == ["logs/a", "logs/b", "other"]
    clock.now_ms += 2 * DAY_MS
    await sweep(store)
    assert [key for key, _ in await there(store)] == ["logs/b", "other"]
    clock.now_ms += DAY_MS
    await sweep(store)
    await sweep(store)
    assert [key for key, _ in await there(store)] == ["other"]


async def test_with_versions_a_marker_hides_the_object_and_goes_last(store: Store, clock: Clock) -> None:
    await configure(
        store,
        {"expiration": {"days": 1}},
        {"noncurrent_version_expiration": {"noncurrent_days": 3}},
        versioning="Enabled",
    )
    await put(store, "k", version_id="v1")
    clock.now_ms += 2 * DAY_MS
    await sweep(store)
    assert await there(store) == [("k", "marker"), ("k", "v1")]
    clock.now_ms += 2 * DAY_MS
    await sweep(store)
    assert await there(store) == [("k", "marker"), ("k", "v1")]
    clock.now_ms += 2 * DAY_MS
    await sweep(store)
    assert await there(store) == [("k", "marker")]
    await sweep(store)
    assert await there(store) == []


async def test_suspended_versioning_expires_by_a_null_marker(store: Store, clock: Clock) -> None:
    await configure(store, {"expiration": {"days": 1}}, versioning="Suspended")
    await put(store, "k", version_id="v1")
    await put(store, "k")
    clock.now_ms += 2 * DAY_MS
    await sweep(store)
    bucket = await find(store)
    found = await store.index.find_object(bucket, b"k")
    assert isinstance(found, Marker)
    assert found.version_id == ""
    assert await there(store) == [("k", "marker"), ("k", "v1")]


async def test_the_newest_noncurrent_versions_are_kept(store: Store, clock: Clock) -> None:
    rule = {"noncurrent_version_expiration": {"noncurrent_days": 1, "newer_noncurrent_versions": 2}}
    await configure(store, rule, versioning="Enabled")
    for number in range(6):
        await put(store, "k", version_id=f"v{number}")
        await put(store, f"k{number}", version_id="only")
    clock.now_ms += 9 * DAY_MS
    await sweep(store)
    assert [name for key, name in await there(store) if key == "k"] == ["v5", "v4", "v3"]
    assert len(await there(store)) == 9


async def test_tags_and_sizes_choose(store: Store, clock: Clock) -> None:
    await configure(
        store,
        {"expiration": {"days": 1}, "filter": {"tag": {"key": "keep", "value": "no"}}},
        {"expiration": {"days": 1}, "filter": {"object_size_greater_than": 9}},
    )
    await put(store, "tagged", tags={"keep": "no"})
    await put(store, "other", tags={"keep": "yes"})
    await put(store, "large", size=10)
    clock.now_ms += 2 * DAY_MS
    await sweep(store)
    assert await there(store) == [("other", "null")]


async def test_what_is_locked_stays(store: Store, clock: Clock) -> None:
    rule = {"noncurrent_version_expiration": {"noncurrent_days": 1}}
    await configure(store, rule, versioning="Enabled")
    locked = Retention(mode="GOVERNANCE", until_ms=clock.now_ms + 9 * DAY_MS)
    await put(store, "k", version_id="v1", retention=locked)
    await put(store, "k", version_id="v2")
    await put(store, "k", version_id="v3")
    clock.now_ms += 5 * DAY_MS
    await sweep(store)
    assert await there(store) == [("k", "v3"), ("k", "v1")]
    clock.now_ms += 9 * DAY_MS
    await sweep(store)
    assert await there(store) == [("k", "v3")]


async def test_uploads_that_nobody_completes_are_aborted(store: Store, clock: Clock) -> None:
    await configure(store, {"abort_incomplete_multipart_upload": {"days_after_initiation": 1}})
    await begin_upload(store, "k")
    clock.now_ms += DAY_MS // 2
    await sweep(store)
    assert len((await store.index.list_uploads(await find(store), Scan())).entries) == 1
    clock.now_ms += 2 * DAY_MS
    await sweep(store)
    assert (await store.index.list_uploads(await find(store), Scan())).entries == []


async def test_an_upload_says_when_it_is_aborted(store: Store, clock: Clock) -> None:
    rule = {"abort_incomplete_multipart_upload": {"days_after_initiation": 2}, "filter": {"prefix": "in/"}}
    never = {**rule, "abort_incomplete_multipart_upload": {"days_after_initiation": 2**31 - 1}}
    await configure(store, rule, {**never, "filter": {"prefix": "late/"}, "expiration": {"days": 2**31 - 1}})
    last_s = 253_402_214_400
    assert formatdate(last_s, usegmt=True).startswith("Fri, 31 Dec 9999")
    put_late = object_pb2.PutObjectRequest(bucket="bucket", key="late/k")
    stored = await put_object(store, stream(object_pb2.PutObjectStream, put_late, b"x"), ALICE)
    assert "31 Dec 9999" in stored.expiration
    in_time = 1003 * DAY_MS // 1000
    for key, told in (("in/k", [(in_time, "r0")] * 2), ("late/k", [(last_s, "r1")] * 2), ("k", [(0, "")] * 2)):
        begin = multipart_pb2.CreateMultipartUploadRequest(bucket="bucket", key=key)
        begun = await multipart.create_upload(store, begin, ALICE)
        asked = multipart_pb2.ListPartsRequest(bucket="bucket", key=key, upload_id=begun.upload_id)
        listed = await multipart.list_parts(store, asked, ALICE)
        assert [(one.abort_date.seconds, one.abort_rule_id) for one in (begun, listed)] == told


async def test_many_keys_over_many_pages(store: Store, clock: Clock) -> None:
    rule = {"noncurrent_version_expiration": {"noncurrent_days": 1, "newer_noncurrent_versions": 1}}
    await configure(store, rule, {"expiration": {"days": 30}}, versioning="Enabled")
    for key in range(11):
        for number in range(key % 5 + 1):
            await put(store, f"k{key:02d}", version_id=f"v{number}")
    clock.now_ms += 5 * DAY_MS
    await sweep(store, page=7)
    left = await there(store)
    expected = [(f"k{key:02d}", f"v{n}") for key in range(11) for n in range(key % 5, max(key % 5 - 2, -1), -1)]
    assert left == expected
    clock.now_ms += 60 * DAY_MS
    await sweep(store, page=7)
    assert [name for _, name in await there(store)].count("marker") == 11


async def test_what_was_stored_meanwhile_stays(store: Store, clock: Clock) -> None:
    bucket = await configure(store, {"expiration": {"days": 1}})
    await put(store, "k")
    clock.now_ms += 2 * DAY_MS

    whole = store.index.delete

    async def overtaken(bucket: Bucket, deletions: list[Deletion], *, now_ms: int) -> Any:
        assert [type(one.what) for one in deletions] == [Removal]
        await put(store, "k")
        return await whole(bucket, deletions, now_ms=now_ms)

    store.index.delete = overtaken  # type: ignore[assignment,method-assign]
    await Expirer(store).sweep(bucket)
    assert await there(store) == [("k", "null")]


@pytest.mark.parametrize("rule", ["noncurrent", "marker"])
async def test_what_is_current_again_meanwhile_stays(store: Store, clock: Clock, rule: str) -> None:
    days = {"noncurrent_version_expiration": {"noncurrent_days": 1}}
    lone = {"expiration": {"expired_object_delete_marker": True}}
    bucket = await configure(store, days if rule == "noncurrent" else lone, versioning="Suspended")
    await put(store, "k")
    hidden = [Deletion(what=Marker(key=b"k", version_id="m" if rule == "noncurrent" else "", modified_ms=clock.now_ms))]
    await store.index.delete(bucket, hidden, now_ms=clock.now_ms)
    clock.now_ms += 9 * DAY_MS
    whole = store.index.delete

    async def overtaken(bucket: Bucket, deletions: list[Deletion], *, now_ms: int) -> Any:
        if rule == "noncurrent":
            await whole(bucket, [Deletion(what=Removal(key=b"k", version_id="m"))], now_ms=now_ms)
        else:
            await put(store, "k")
        return await whole(bucket, deletions, now_ms=now_ms)

    store.index.delete = overtaken  # type: ignore[assignment,method-assign]
    await Expirer(store).sweep(bucket)
    assert await there(store) == [("k", "null")]


async def test_rules_that_are_gone_take_nothing_and_a_bucket_that_keeps_versions_now_loses_none(
    store: Store, clock: Clock
) -> None:
    old = await configure(store, {"expiration": {"days": 1}})
    for key in ("a", "b"):
        await put(store, key)
    clock.now_ms += 9 * DAY_MS
    await configs.put(store, old, VersioningConfiguration(status="Enabled"))
    await Expirer(store).sweep(old)
    assert await there(store) == [(key, name) for key in ("a", "b") for name in ("marker", "null")]
    await configs.delete(store, old, BucketLifecycleConfiguration)
    await put(store, "c")
    clock.now_ms += 9 * DAY_MS
    await Expirer(store).sweep(old)
    assert ("c", "null") in await there(store)
    # What a rule has put is like any other: its owner may take it away.
    marker = (await store.index.list_versions(await find(store), Scan())).entries[0]
    assert isinstance(marker, Marker)
    request = object_pb2.DeleteObjectRequest(bucket="bucket", key="a", version_id=marker.version_id)
    await delete.delete_object(store, request, ALICE)
    assert (await there(store))[0] == ("a", "null")


async def test_it_works_at_every_midnight_and_when_rules_change(store: Store, clock: Clock) -> None:
    store.calendar = Calendar(day_ms=1000)
    expirer = Expirer(store)
    store.expire = expirer.nudge
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(20):
        running = tasks.create_task(expirer.run())
        await put(store, "k")
        await configure(store, {"expiration": {"days": 1}})
        clock.now_ms += 5000
        store.expire()
        await emptied(store)
        # The next midnight is a second away at most, and nobody nudges.
        await put(store, "l")
        clock.now_ms += 5000
        await emptied(store)
        running.cancel()


async def test_objects_say_when_they_expire(store: Store, clock: Clock) -> None:
    rules = ({"expiration": {"days": 2}, "filter": {"tag": {"key": "a", "value": "b"}}}, {"expiration": {"days": 9}})
    await configure(store, *rules)
    midnight = formatdate((START // DAY_MS + 10) * DAY_MS // 1000, usegmt=True)
    told = f'expiry-date="{midnight}", rule-id="r1"'
    header = object_pb2.PutObjectRequest(bucket="bucket", key="k", content_length=3)
    answer = await put_object(store, stream(object_pb2.PutObjectStream, header, b"abc"), ALICE)
    assert answer.expiration == told
    head = object_pb2.HeadObjectRequest(bucket="bucket", key="k")
    assert (await get.head_object(store, head, ALICE)).expiration == told
    upload_id = await begin_upload(store, "large")
    etag = await upload_part(store, "large", upload_id, 1, b"abc")
    assert (await complete(store, "large", upload_id, {1: etag})).expiration == told
    await put(store, "tagged", tags={"a": "b"})
    head = object_pb2.HeadObjectRequest(bucket="bucket", key="tagged")
    assert 'rule-id="r0"' in (await get.head_object(store, head, ALICE)).expiration
    await configure(store, {"expiration": {"days": 2}, "filter": {"prefix": "other"}})
    assert not (await get.head_object(store, head, ALICE)).HasField("expiration")

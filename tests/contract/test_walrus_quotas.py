"""What every index engine of Walrus promises of quotas (services/walrus/drivers/quotas.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import CloudError
from services.walrus.drivers.base import Assembled, BlobId, Bucket, Index, Single
from services.walrus.drivers.embedded.index import SqliteIndex
from services.walrus.drivers.fake import FakeIndex
from services.walrus.drivers.quotas import UNLIMITED, Elsewhere, Quota
from services.walrus.drivers.versions import ANYTHING, Deletion, Marker, Removal
from tests.contract.test_walrus_index import a_part, an_object, an_upload, refused

ACCOUNT = "1" * 12


@pytest.fixture(params=["embedded", "fake"])
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Index]:
    engine: Index = SqliteIndex(tmp_path / "index.sqlite") if request.param == "embedded" else FakeIndex()
    await engine.open()
    yield engine
    await engine.close()


@pytest.fixture
async def bucket(index: Index) -> Bucket:
    return await index.create_bucket("bucket", account_id=ACCOUNT, owner_id="a" * 64, created_ms=1000)


async def put(index: Index, bucket: Bucket, key: bytes, size: int, version: str = "") -> None:
    one = an_object(key, Single(blob=BlobId.new()), size=size)
    await index.put_object(bucket, replace(one, version_id=version))


async def held(index: Index) -> tuple[int, int, int]:
    (one,) = await index.quotas.accounts()
    return one.objects, one.size, one.part_bytes


@pytest.mark.parametrize("scope", ["bucket", "account"])
async def test_what_would_be_too_much_is_refused_and_what_makes_less_is_not(
    index: Index, bucket: Bucket, scope: str
) -> None:
    quota = Quota(size=100, objects=3)
    if scope == "bucket":
        await index.quotas.put_bucket("bucket", quota)
    else:
        await index.quotas.put_account(ACCOUNT, quota)
    await put(index, bucket, b"a", 60)
    await put(index, bucket, b"b", 40)
    await refused("QuotaExceeded", put(index, bucket, b"c", 1))
    await put(index, bucket, b"c", 0)
    await refused("QuotaExceeded", put(index, bucket, b"d", 0))
    await put(index, bucket, b"a", 60)
    await put(index, bucket, b"a", 10)
    await put(index, bucket, b"b", 90)
    await refused("QuotaExceeded", put(index, bucket, b"c", 1))
    assert await held(index) == (3, 100, 0)
    await index.delete(bucket, [Deletion(what=Removal(key=b"b"))], now_ms=0)
    await put(index, bucket, b"d", 90)


async def test_what_other_stores_hold_counts_for_accounts_alone(index: Index, bucket: Bucket) -> None:
    await index.quotas.put_account(ACCOUNT, Quota(size=100, objects=3))
    await index.quotas.put_bucket("bucket", Quota(size=100))
    assert await index.quotas.limited() == [ACCOUNT]
    there = {ACCOUNT: Elsewhere(objects=1, size=60), "2" * 12: Elsewhere(objects=9, size=900)}
    await index.quotas.put_elsewhere(there)
    assert await index.quotas.elsewhere() == there
    await refused("QuotaExceeded", put(index, bucket, b"a", 41))
    await refused("QuotaExceeded", index.quotas.check(bucket, size=41, objects=1))
    await put(index, bucket, b"a", 40)
    assert await held(index) == (1, 40, 0)
    await put(index, bucket, b"b", 0)
    await refused("QuotaExceeded", put(index, bucket, b"c", 0))
    await index.quotas.put_elsewhere({ACCOUNT: Elsewhere(objects=0, size=0)})
    assert (await index.quotas.elsewhere())["2" * 12].size == 900
    await put(index, bucket, b"c", 60)


async def test_a_step_is_foreseen_without_being_taken(index: Index, bucket: Bucket) -> None:
    await index.quotas.check(bucket, size=1 << 50, objects=1)
    await index.quotas.put_bucket("bucket", Quota(size=100))
    await index.quotas.put_account(ACCOUNT, Quota(objects=1))
    await put(index, bucket, b"a", 60)
    for size, objects in ((40, 0), (-1, 0), (0, -1)):
        await index.quotas.check(bucket, size=size, objects=objects)
    for size, objects in ((41, 0), (0, 1)):
        await refused("QuotaExceeded", index.quotas.check(bucket, size=size, objects=objects))
    assert await held(index) == (1, 60, 0)


async def test_one_that_is_below_what_stands_keeps_it_and_refuses_more(index: Index, bucket: Bucket) -> None:
    await put(index, bucket, b"a", 60)
    await index.quotas.put_account(ACCOUNT, Quota(size=10))
    await refused("QuotaExceeded", put(index, bucket, b"b", 1))
    await refused("QuotaExceeded", put(index, bucket, b"a", 61))
    await put(index, bucket, b"a", 50)
    await index.quotas.put_account(ACCOUNT, UNLIMITED)
    await put(index, bucket, b"b", 1000)


async def test_the_quota_of_an_account_is_of_all_its_buckets_and_no_others(index: Index, bucket: Bucket) -> None:
    second = await index.create_bucket("second", account_id=ACCOUNT, owner_id="a" * 64, created_ms=1)
    other = await index.create_bucket("other", account_id="2" * 12, owner_id="b" * 64, created_ms=1)
    await index.quotas.put_account(ACCOUNT, Quota(size=100))
    await put(index, bucket, b"a", 60)
    await refused("QuotaExceeded", put(index, second, b"a", 41))
    await put(index, second, b"a", 40)
    await put(index, other, b"a", 1000)
    assert [(one.account_id, one.size, one.quota.size) for one in await index.quotas.accounts()] == [
        (ACCOUNT, 100, 100),
        ("2" * 12, 1000, None),
    ]
    assert [(one.bucket, one.size) for one in await index.quotas.buckets(ACCOUNT)] == [("bucket", 60), ("second", 40)]


async def test_older_versions_count_and_a_marker_is_never_refused(index: Index, bucket: Bucket) -> None:
    await index.quotas.put_bucket("bucket", Quota(size=100, objects=2))
    await put(index, bucket, b"k", 60, "v1")
    await refused("QuotaExceeded", put(index, bucket, b"k", 60, "v2"))
    await put(index, bucket, b"k", 40, "v2")
    marker = Deletion(what=Marker(key=b"k", version_id="m", modified_ms=1, owner_id=""))
    assert not isinstance((await index.delete(bucket, [marker], now_ms=0))[0], CloudError)
    assert await held(index) == (3, 100, 0)
    await index.delete(bucket, [Deletion(what=Removal(key=b"k", version_id=one)) for one in ("m", "v1")], now_ms=0)
    assert await held(index) == (1, 40, 0)


async def test_parts_of_open_uploads_count_until_they_are_the_object_or_gone(index: Index, bucket: Bucket) -> None:
    await index.quotas.put_bucket("bucket", Quota(size=100))
    upload, other = an_upload(bucket, b"k", "u1"), an_upload(bucket, b"k", "u2")
    for one in (upload, other):
        await index.create_upload(one)
    first, second = a_part(1, 50), a_part(2, 30)
    for part in (first, second, replace(second, blob=BlobId.new())):
        await index.put_part(upload, part)
    await index.put_part(other, a_part(1, 20))
    assert await held(index) == (0, 0, 100)
    await refused("QuotaExceeded", index.put_part(upload, a_part(3, 1)))
    await refused("QuotaExceeded", put(index, bucket, b"z", 1))
    whole = an_object(b"k", Assembled(upload_id="u1", part_count=1), size=50)
    await index.complete_upload(bucket, upload, [first], whole, ANYTHING)
    assert await held(index) == (1, 50, 20)
    await index.abort_upload(other)
    assert await held(index) == (1, 50, 0)
    await index.delete(bucket, [Deletion(what=Removal(key=b"k"))], now_ms=0)
    assert await held(index) == (0, 0, 0)


async def test_many_at_once_are_let_in_exactly_up_to_the_quota(index: Index, bucket: Bucket) -> None:
    await index.quotas.put_account(ACCOUNT, Quota(size=70))
    puts = [put(index, bucket, b"%d" % n, 10) for n in range(20)]
    outcomes = await asyncio.gather(*puts, return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 7
    assert (await held(index))[1] == 70


async def test_a_bucket_that_goes_takes_its_quota_along(index: Index, bucket: Bucket) -> None:
    await index.quotas.put_bucket("bucket", Quota(size=1))
    await index.create_upload(an_upload(bucket))
    await index.delete_bucket(bucket)
    again = await index.create_bucket("bucket", account_id=ACCOUNT, owner_id="a" * 64, created_ms=1)
    await put(index, again, b"k", 100)
    await refused("NoSuchBucket", index.quotas.put_bucket("none", Quota(size=1)))


async def test_a_share_of_what_is_left_is_granted_to_other_stores_and_counts(index: Index, bucket: Bucket) -> None:
    await index.quotas.put_account(ACCOUNT, Quota(size=100), Elsewhere(size=20))
    await put(index, bucket, b"a", 40)
    # 30, and an eighth of the 10 that are left then.
    assert await index.quotas.grant(ACCOUNT, Elsewhere(size=30)) == Elsewhere(size=31)
    assert (await index.quotas.counted(ACCOUNT)).size == 91
    assert await index.quotas.grant(ACCOUNT, Elsewhere(size=10)) is None
    assert (await index.quotas.elsewhere())[ACCOUNT] == Elsewhere(size=51)
    await refused("QuotaExceeded", put(index, bucket, b"b", 10))
    await put(index, bucket, b"b", 9)


async def test_a_store_holds_what_it_is_allowed_and_asks_for_more(index: Index, bucket: Bucket) -> None:
    await put(index, bucket, b"a", 40)
    # It was told of no quota before.
    assert await index.quotas.give_back(ACCOUNT, Quota(size=100, objects=10)) == Elsewhere(objects=1, size=40)
    await refused("QuotaExceeded", put(index, bucket, b"b", 0))
    await index.quotas.allow(ACCOUNT, Elsewhere(objects=2, size=50))
    await put(index, bucket, b"b", 10)
    asked: list[Elsewhere] = []

    async def more(account_id: str, need: Elsewhere) -> bool:
        asked.append(need)
        await index.quotas.allow(account_id, Elsewhere(objects=2 + len(asked), size=60))
        return len(asked) < 3

    index.quotas.more = more
    upload = an_upload(bucket, b"k", "u1")
    await index.create_upload(upload)
    await index.put_part(upload, a_part(1, 10))
    await put(index, bucket, b"c", 0)
    await refused("QuotaExceeded", put(index, bucket, b"d", 1))
    assert asked == [Elsewhere(size=10), Elsewhere(objects=1, size=1), Elsewhere(objects=1, size=1)]
    assert await index.quotas.give_back(ACCOUNT, Quota(size=7)) == Elsewhere(objects=3, size=60)
    assert (await index.quotas.counted(ACCOUNT)).quota == Quota(size=100, objects=10)

"""Access logs: lines survive the process, and become objects of the target bucket."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mallee.s3.v1 import bucket_pb2, logging_pb2
from mallee.walrus.v1.access_log_pb2 import AccessRecord
from services.walrus import buckets, logging_calls
from services.walrus.access_log import AccessLog, line_of
from services.walrus.drivers.base import Scan
from services.walrus.store import Limits, Store
from tests.walrus_store import ALICE, BOB, make_bucket, opened_store, refused

LIMITS = Limits(inline_bytes=64 << 10, reserve_bytes=0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path / "walrus", LIMITS) as store:
        await make_bucket(store)
        await make_bucket(store, "logs")
        yield store


def settings(prefix: str | None = "b/", target: str = "logs", **members: Any) -> logging_pb2.PutBucketLoggingRequest:
    request = logging_pb2.PutBucketLoggingRequest(bucket="bucket")
    enabled = request.bucket_logging_status.logging_enabled
    enabled.target_bucket = target
    if prefix is not None:
        enabled.target_prefix = prefix
    enabled.MergeFrom(logging_pb2.LoggingEnabled(**members))
    return request


def record(**members: Any) -> AccessRecord:
    standard: dict[str, Any] = {"bucket": "bucket", "operation": "REST.GET.OBJECT", "status": 200}
    return AccessRecord(**(standard | members))


async def delivered(store: Store) -> dict[str, str]:
    target = await store.index.find_bucket("logs")
    assert target is not None
    page = await store.index.list_objects(target, Scan())
    found = {}
    for entry in page.entries:
        assert not isinstance(entry, bytes)
        stored = await store.index.find_object(target, entry.key)
        found[entry.key.decode()] = stored.content.body.decode()  # type: ignore[union-attr]
    return found


def a_log(store: Store, tmp_path: Path) -> AccessLog:
    log = AccessLog(store, tmp_path / "access-logs", delivery_s=1)
    store.logging_changed = log.settings_changed
    return log


async def test_lines_outlive_the_process_and_become_objects(store: Store, tmp_path: Path) -> None:
    await logging_calls.put_bucket_logging(store, settings(), ALICE)
    log = a_log(store, tmp_path)
    await log.take([record(key="a"), record(bucket="logs", key="no"), record(bucket="never", key="no")])
    await log.take([record(key="b")])
    assert await delivered(store) == {}
    await a_log(store, tmp_path).deliver()
    ((key, text),) = (await delivered(store)).items()
    assert re.fullmatch(r"b/\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d-[0-9A-F]{16}", key)
    assert [line.split()[8] for line in text.splitlines()] == ["a", "b"]
    await log.deliver()
    assert len(await delivered(store)) == 1
    await log.take([record(key="c")])
    await log.deliver()
    assert len(await delivered(store)) == 2
    assert list((tmp_path / "access-logs").iterdir()) == []


async def test_a_delivery_that_is_cut_off_is_repeated_under_its_key(store: Store, tmp_path: Path) -> None:
    await logging_calls.put_bucket_logging(store, settings(), ALICE)
    log = a_log(store, tmp_path)
    await log.take([record(key="a")])
    store.limits = replace(LIMITS, reserve_bytes=1 << 60)
    await log.deliver()
    assert await delivered(store) == {}
    (waiting,) = (tmp_path / "access-logs").iterdir()
    store.limits = LIMITS
    await log.deliver()
    (key,) = await delivered(store)
    assert key.endswith(waiting.stem.rpartition("-")[2])


async def test_keys_may_be_partitioned_by_date(store: Store, tmp_path: Path) -> None:
    request = settings("p/")
    chosen = request.bucket_logging_status.logging_enabled.target_object_key_format
    chosen.partitioned_prefix.partition_date_source = "DeliveryTime"
    await logging_calls.put_bucket_logging(store, request, ALICE)
    log = a_log(store, tmp_path)
    await log.take([record()])
    await log.deliver()
    (key,) = await delivered(store)
    assert re.fullmatch(rf"p/{ALICE.account_id}/us-east-1/bucket/\d{{4}}/\d\d/\d\d/[-\dA-F]+", key)


async def test_followers_hear_which_buckets_are_logged(store: Store, tmp_path: Path) -> None:
    log = a_log(store, tmp_path)
    told = log.logged()
    assert await anext(told) == []
    await logging_calls.put_bucket_logging(store, settings(), ALICE)
    assert await anext(told) == ["bucket"]
    off = logging_pb2.PutBucketLoggingRequest(bucket="bucket")
    off.bucket_logging_status.SetInParent()
    await logging_calls.put_bucket_logging(store, off, ALICE)
    assert await anext(told) == []
    await log.take([record()])
    await log.deliver()
    assert await delivered(store) == {}
    # As it is left by whoever was gone once it was done.
    store.logging_changed = lambda: None
    await logging_calls.put_bucket_logging(store, settings(), ALICE)
    assert await anext(told) == ["bucket"]


async def test_targets_are_buckets_of_the_same_owner(store: Store) -> None:
    await buckets.create_bucket(store, bucket_pb2.CreateBucketRequest(bucket="bobs"), BOB)
    for target in ("bobs", "nowhere"):
        request = settings(target=target)
        await refused("InvalidTargetBucketForLogging", logging_calls.put_bucket_logging(store, request, ALICE))
    await refused("MalformedXML", logging_calls.put_bucket_logging(store, settings(None), ALICE))
    both = settings()
    chosen = both.bucket_logging_status.logging_enabled.target_object_key_format
    chosen.simple_prefix.SetInParent()
    chosen.partitioned_prefix.partition_date_source = "EventTime"
    await refused("MalformedXML", logging_calls.put_bucket_logging(store, both, ALICE))
    chosen.ClearField("simple_prefix")
    chosen.partitioned_prefix.partition_date_source = "Never"
    await refused("MalformedXML", logging_calls.put_bucket_logging(store, both, ALICE))


def test_no_client_forges_a_line() -> None:
    line = line_of(record(user_agent='x" 200\nforged', key="a b\n", referer=""), "owner")
    assert line.count("\n") == 1
    assert '"x%22 200?forged"' in line
    assert line.split()[8] == "a?b?"


async def test_a_target_that_is_gone_drops_what_waits(store: Store, tmp_path: Path) -> None:
    await logging_calls.put_bucket_logging(store, settings(), ALICE)
    log = a_log(store, tmp_path)
    await log.take([record()])
    await buckets.delete_bucket(store, bucket_pb2.DeleteBucketRequest(bucket="logs"), ALICE)
    await log.deliver()
    assert list((tmp_path / "access-logs").iterdir()) == []

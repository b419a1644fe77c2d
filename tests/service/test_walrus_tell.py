"""Notifications reach their targets: at least once, in order, whatever the target and the process do meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from google.protobuf.json_format import ParseDict

from mallee.s3.v1 import copy_pb2, notification_pb2, object_pb2, object_tagging_pb2
from mallee.s3.v1.notification_pb2 import NotificationConfiguration
from services.walrus import copy, delete, notification_calls, object_tagging
from services.walrus.store import Store
from services.walrus.tell import Teller
from tests.eventually import becomes
from tests.walrus_store import ALICE, begin_upload, complete, make_bucket, opened_store, put_bytes, upload_part


class Target:
    """An HTTP server that keeps what it was sent."""

    address = ""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.status = 200
        self.tries = 0
        self._news = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        self.tries += 1
        if self.status == 200:
            self.records += (await request.json())["Records"]
        self._news.set()
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def seen(self) -> list[tuple[str, str]]:
        return [(one["eventName"], one["s3"]["object"]["key"]) for one in self.records]


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    target = Target()
    app = web.Application()
    app.router.add_post("/events", target.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    target.address = f"http://{host}:{port}/events"
    yield target
    await runner.cleanup()


@asynccontextmanager
async def telling(path: Path, targets: dict[str, str], *, working: bool = True) -> AsyncIterator[Store]:
    """The store as a process has it; without `working` nothing is sent."""
    async with opened_store(path) as store, asyncio.TaskGroup() as tasks:
        store.event_targets = targets
        teller = Teller(store, pause_s=0.01)
        store.tell = teller.nudge
        running = tasks.create_task(teller.run()) if working else None
        yield store
        if running:
            running.cancel()


async def configure(store: Store, *events: str, prefix: str = "") -> None:
    rule = {
        "id": "rule",
        "queue_arn": "arn:aws:sqs:us-east-1:111111111111:hook",
        "events": events,
        "filter": {"key": {"filter_rules": [{"name": "Prefix", "value": prefix}]}},
    }
    request = notification_pb2.PutBucketNotificationConfigurationRequest(
        bucket="bucket",
        notification_configuration=ParseDict({"queue_configurations": [rule]}, NotificationConfiguration()),
    )
    await notification_calls.put_notification(store, request, ALICE)


async def test_what_whoever_is_gone_did_is_told_although_nobody_says_that_there_is_something(
    tmp_path: Path, target: Target
) -> None:
    async with opened_store(tmp_path) as store, asyncio.TaskGroup() as tasks:
        store.event_targets = {"hook": target.address}
        await make_bucket(store)
        await configure(store, "s3:ObjectCreated:*")
        running = tasks.create_task(Teller(store, look_s=0.05).run())
        await put_bytes(store, "k", b"abc")
        await target.until(lambda: target.seen() == [("ObjectCreated:Put", "k")])
        running.cancel()


async def test_what_happens_is_told_with_what_s3_tells(tmp_path: Path, target: Target) -> None:
    async with telling(tmp_path, {"hook": target.address}) as store:
        await make_bucket(store)
        await configure(store, "s3:ObjectCreated:*", "s3:ObjectRemoved:Delete", prefix="in/")
        await put_bytes(store, "out/x", b"abc")
        await put_bytes(store, "in/a b+é", b"abc")
        upload_id = await begin_upload(store, "in/large")
        etag = await upload_part(store, "in/large", upload_id, 1, b"x" * 100)
        await complete(store, "in/large", upload_id, {1: etag})
        await delete.delete_object(store, object_pb2.DeleteObjectRequest(bucket="bucket", key="in/large"), ALICE)
        await delete.delete_object(store, object_pb2.DeleteObjectRequest(bucket="bucket", key="in/never"), ALICE)
        await target.until(lambda: len(target.records) >= 3)
        assert target.seen() == [
            ("ObjectCreated:Put", "in/a+b%2B%C3%A9"),
            ("ObjectCreated:CompleteMultipartUpload", "in/large"),
            ("ObjectRemoved:Delete", "in/large"),
        ]
        first = target.records[0]
        assert first["s3"]["bucket"]["arn"] == "arn:aws:s3:::bucket"
        assert first["s3"]["bucket"]["ownerIdentity"] == {"principalId": ALICE.canonical_user_id}
        assert first["s3"]["configurationId"] == "rule"
        assert first["s3"]["object"]["size"] == 3
        assert first["s3"]["object"]["eTag"] == "900150983cd24fb0d6963f7d28e17f72"
        assert first["eventTime"].endswith("Z")
        order = [one["s3"]["object"]["sequencer"] for one in target.records]
        assert order == sorted(order)
        assert len(set(order)) == 3


async def test_changes_beside_the_bytes_are_told_in_their_order(tmp_path: Path, target: Target) -> None:
    async with telling(tmp_path, {"hook": target.address}) as store:
        await make_bucket(store)
        await configure(store, "s3:ObjectTagging:*", "s3:ObjectCreated:Copy")
        await put_bytes(store, "k", b"abc")
        put = object_tagging_pb2.PutObjectTaggingRequest(bucket="bucket", key="k")
        put.tagging.tag_set.add(key="a", value="b")
        await object_tagging.put_tagging(store, put, ALICE)
        await copy.copy_object(
            store, copy_pb2.CopyObjectRequest(bucket="bucket", key="c", copy_source="bucket/k"), ALICE
        )
        gone = object_tagging_pb2.DeleteObjectTaggingRequest(bucket="bucket", key="c")
        await object_tagging.delete_tagging(store, gone, ALICE)
        await target.until(lambda: len(target.records) >= 3)
        assert target.seen() == [("ObjectTagging:Put", "k"), ("ObjectCreated:Copy", "c"), ("ObjectTagging:Delete", "c")]
        assert target.records[0]["s3"]["object"]["eTag"] == "900150983cd24fb0d6963f7d28e17f72"


async def test_a_target_that_fails_holds_up_nobody_else_and_loses_nothing(tmp_path: Path, target: Target) -> None:
    for status in (500, 302):
        target.status = status
        async with telling(tmp_path / str(status), {"hook": target.address}) as store:
            await make_bucket(store)
            await configure(store, "s3:ObjectCreated:*")
            tried = target.tries
            for number in range(5):
                await put_bytes(store, f"k{number}", b"abc")
            await target.until(lambda tried=tried: target.tries >= tried + 3)
            assert target.records == []
            target.status = 200
            await target.until(lambda: len(target.records) == 5)
            assert [key for _, key in target.seen()] == [f"k{number}" for number in range(5)]
            target.records.clear()


async def test_what_a_dead_process_left_is_told_by_the_next_one(tmp_path: Path, target: Target) -> None:
    targets = {"hook": target.address}
    async with telling(tmp_path, targets, working=False) as store:
        await make_bucket(store)
        await configure(store, "s3:ObjectCreated:Put")
        for number in range(250):
            await put_bytes(store, f"k{number:03d}", b"")
    assert target.records == []
    async with telling(tmp_path, targets) as store:
        await target.until(lambda: len(target.records) == 250)
        assert [key for _, key in target.seen()] == [f"k{number:03d}" for number in range(250)]

        # Forgotten once they were taken: nothing is told again without need.
        async def forgotten() -> bool:
            return not await store.index.events.lengths()

        await becomes(forgotten)


async def test_an_event_is_kept_as_it_was_said(tmp_path: Path) -> None:
    async with telling(tmp_path, {"hook": "http://127.0.0.1:9/"}, working=False) as store:
        await make_bucket(store)
        await configure(store, "s3:ObjectCreated:Put")
        await put_bytes(store, "k", b"abc")
        (waiting,) = await store.index.events.next("hook", 10)
        assert json.loads(waiting.event.body)["userIdentity"] == {"principalId": f"AWS:{ALICE.account_id}"}

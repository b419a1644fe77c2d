"""The embedded index: one SQLite file (WAL, synchronous=FULL), one writer thread, readers beside it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from common.errors import CloudError
from common.threads import to_the_end
from services.walrus.drivers.base import (
    NOTHING,
    Assembled,
    BlobId,
    Bucket,
    Completion,
    Object,
    Page,
    Part,
    Pin,
    Scan,
    Summary,
    Upload,
    Usage,
)
from services.walrus.drivers.embedded import events as event_rows
from services.walrus.drivers.embedded import objects, scans, sums, upkeep, uploads, versions
from services.walrus.drivers.embedded.block_index import SqliteBlocks
from services.walrus.drivers.embedded.events import SqliteEvents
from services.walrus.drivers.embedded.inspect import SqliteInspection
from services.walrus.drivers.embedded.quotas import SqliteQuotas
from services.walrus.drivers.embedded.writer import Writer
from services.walrus.drivers.events import NO_EVENTS, Event
from services.walrus.drivers.quotas import within
from services.walrus.drivers.versions import ANYTHING, Deletion, Expectation, Gone, Marker

Result = TypeVar("Result")


class SqliteIndex:
    """drivers/base.py Index in the file `path`, which one process at a time may open."""

    def __init__(
        self,
        path: Path,
        *,
        readers: int = 4,
        on_commit: Callable[[int], None] = lambda steps: None,
        log_bytes: int = 0,
    ) -> None:
        self._path = path
        self._writer = Writer(path, on_commit=on_commit, log_bytes=log_bytes)
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="walrus-index-reader")
        self._local = threading.local()
        self.blocks = SqliteBlocks(self._writer.submit, self._read)
        self.quotas = SqliteQuotas(self._writer.submit, self._read, self._query)
        self.inspection = SqliteInspection(self._writer.submit, self._read, path)
        self.events = SqliteEvents(self._writer.submit, self._read)
        # Few and asked for by every request, so they stand in memory. The lock keeps changes in the order of commits.
        # The error stands for a bucket that is damaged.
        self._buckets: dict[str, Bucket | CloudError | None] = {}
        self._buckets_change = asyncio.Lock()

    async def open(self) -> None:
        await self._writer.open()
        self._buckets = await self._read(objects.all_buckets)

    async def close(self) -> None:
        await self._writer.close()
        await asyncio.to_thread(self._readers.shutdown)

    async def usage(self, account_id: str = "") -> Usage:
        return await self._read(lambda db: objects.usage(db, account_id))

    async def create_bucket(
        self, name: str, *, account_id: str, owner_id: str, created_ms: int, configs: Mapping[str, bytes] = NOTHING
    ) -> Bucket:
        def step(db: sqlite3.Connection) -> Bucket:
            return objects.create_bucket(db, name, account_id, owner_id, created_ms, configs)

        return await self._change_bucket(name, step)

    async def put_config(self, bucket: Bucket, kind: str, body: bytes | None) -> None:
        await self._change_bucket(bucket.name, lambda db: objects.put_config(db, bucket, kind, body))

    async def find_bucket(self, name: str) -> Bucket | None:
        found = self._buckets.get(name)
        if isinstance(found, CloudError):
            raise sums.unsound(f"bucket {name}")
        return found

    async def buckets_with(self, kind: str) -> list[Bucket]:
        return [found for found in self._buckets.values() if isinstance(found, Bucket) and kind in found.configs]

    async def list_buckets(self, account_id: str, *, prefix: str, after: str, limit: int) -> list[Bucket]:
        return await self._read(lambda db: objects.list_buckets(db, account_id, prefix, after, limit))

    async def delete_bucket(self, bucket: Bucket) -> None:
        await self._change_bucket(bucket.name, lambda db: objects.delete_bucket(db, bucket))

    async def find_object(self, bucket: Bucket, key: bytes, version_id: str | None = None) -> Object | Marker | None:
        # A thread would cost several times what a few pages do, which are in memory but for the coldest.
        return self._query(lambda db: objects.find_object(db, bucket, key, version_id))

    async def put_object(
        self, bucket: Bucket, new: Object, expect: Expectation = ANYTHING, events: Sequence[Event] = NO_EVENTS
    ) -> None:
        def step(db: sqlite3.Connection) -> None:
            objects.put_object(db, bucket, new, expect)
            event_rows.add(db, events)

        await within(self.quotas, lambda: self._writer.submit(step))

    async def change_object(
        self,
        bucket: Bucket,
        key: bytes,
        version_id: str | None,
        change: Callable[[Object], Object],
        events: Sequence[Event] = NO_EVENTS,
    ) -> Object:
        def step(db: sqlite3.Connection) -> Object:
            event_rows.add(db, events)
            return objects.change_object(db, bucket, key, version_id, change)

        return await self._writer.submit(step)

    async def delete(self, bucket: Bucket, deletions: Sequence[Deletion], *, now_ms: int) -> list[Gone | CloudError]:
        def step(db: sqlite3.Connection) -> list[Gone | CloudError]:
            outcomes = versions.delete(db, bucket, deletions, now_ms)
            event_rows.add_of(db, deletions, outcomes)
            return outcomes

        return await self._writer.submit(step)

    async def list_objects(self, bucket: Bucket, scan: Scan) -> Page[Summary]:
        return await self._read(lambda db: scans.list_objects(db, bucket, scan))

    async def list_versions(self, bucket: Bucket, scan: Scan) -> Page[Summary | Marker]:
        return await self._read(lambda db: scans.list_versions(db, bucket, scan))

    async def create_upload(self, upload: Upload) -> None:
        await self._writer.submit(lambda db: uploads.create_upload(db, upload))

    async def find_upload(self, bucket: Bucket, key: bytes, upload_id: str) -> Upload | None:
        return await self._read(lambda db: uploads.find_upload(db, bucket, key, upload_id))

    async def list_uploads(self, bucket: Bucket, scan: Scan) -> Page[Upload]:
        return await self._read(lambda db: scans.list_uploads(db, bucket, scan))

    async def put_part(self, upload: Upload, part: Part) -> None:
        def step(db: sqlite3.Connection) -> None:
            uploads.put_part(db, upload, part)

        await within(self.quotas, lambda: self._writer.submit(step))

    async def list_parts(self, upload_id: str, *, after: int = 0, limit: int) -> list[Part]:
        return await self._read(lambda db: uploads.list_parts(db, upload_id, after, limit))

    async def parts_of(self, content: Assembled, *, start: int, end: int) -> list[Part]:
        return await self._read(lambda db: uploads.parts_of(db, content, start, end))

    async def part_at(self, content: Assembled, number: int) -> Part | None:
        return await self._read(lambda db: uploads.part_at(db, content, number))

    async def complete_upload(
        self,
        bucket: Bucket,
        upload: Upload,
        parts: Sequence[Part],
        new: Object,
        expect: Expectation,
        events: Sequence[Event] = NO_EVENTS,
    ) -> None:
        def step(db: sqlite3.Connection) -> None:
            uploads.complete_upload(db, bucket, upload, parts, new, expect)
            event_rows.add(db, events)

        await within(self.quotas, lambda: self._writer.submit(step))

    async def find_completion(self, bucket: Bucket, key: bytes, upload_id: str) -> Completion | None:
        return await self._read(lambda db: uploads.find_completion(db, bucket, key, upload_id))

    async def forget_completions(self, before_ms: int) -> None:
        await self._writer.submit(lambda db: uploads.forget_completions(db, before_ms))

    async def abort_upload(self, upload: Upload) -> None:
        await self._writer.submit(lambda db: uploads.abort_upload(db, upload))

    async def garbage(self, limit: int) -> list[BlobId]:
        return await self._read(lambda db: upkeep.garbage(db, limit))

    async def forget_garbage(self, blobs: Sequence[BlobId]) -> None:
        await self._writer.submit(lambda db: upkeep.forget_garbage(db, blobs))

    async def named(self, blobs: Sequence[BlobId]) -> set[BlobId]:
        return await self._read(lambda db: upkeep.named(db, blobs))

    async def put_pin(self, pin: Pin) -> None:
        await self._writer.submit(lambda db: upkeep.put_pin(db, pin))

    async def find_pin(self, image_id: str) -> Pin | None:
        return await self._read(lambda db: upkeep.find_pin(db, image_id))

    async def delete_pin(self, image_id: str) -> None:
        await self._writer.submit(lambda db: upkeep.delete_pin(db, image_id))

    async def pinned_contents(self) -> set[str]:
        return await self._read(upkeep.pinned_contents)

    async def _change_bucket(self, name: str, step: Callable[[sqlite3.Connection], Result]) -> Result:
        async with self._buckets_change:
            try:
                return await self._writer.submit(step)
            finally:
                # A caller who left now would leave in memory what holds no more.
                await to_the_end(lambda: self._query(lambda db: self._remember(db, name)), executor=self._readers)

    def _remember(self, db: sqlite3.Connection, name: str) -> None:
        now = objects.standing(db, name)
        if now is None:
            self._buckets.pop(name, None)
        else:
            self._buckets[name] = now

    async def _read(self, query: Callable[[sqlite3.Connection], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._query, query)

    def _query(self, query: Callable[[sqlite3.Connection], Result]) -> Result:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = sqlite3.connect(self._path, isolation_level=None, cached_statements=256)
            db.execute("PRAGMA query_only = ON")
            db.execute("PRAGMA busy_timeout = 10000")
            db.execute("PRAGMA cache_size = -16384")
            self._local.db = db
        return sums.told(db, query)

"""The worker of lifecycle rules: at each midnight of its calendar, at start and when rules change, it walks the buckets
that have some and takes what is due.

What goes, goes in a step that looks at it again: an object stored meanwhile stays. A pass that is cut off is begun
again; repeating one is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final

from common.errors import CloudError, NotFound
from common.log import get_logger
from common.metrics import counter
from mallee.s3.v1.lifecycle_pb2 import BucketLifecycleConfiguration
from services.walrus import configs, lifecycle, versioning
from services.walrus.drivers.base import Bucket, Object, Scan, Summary
from services.walrus.drivers.versions import (
    ANYTHING,
    Deletion,
    Expectation,
    Gone,
    Marker,
    Removal,
    Still,
)
from services.walrus.lifecycle import Rules, Version
from services.walrus.store import Store
from services.walrus.tell import removed

_log = get_logger(__name__)
_KIND: Final = configs.kind_of(BucketLifecycleConfiguration)
_EXPIRED: Final = counter(
    "mallee_walrus_expired", "What lifecycle rules took, by kind: version, marker, upload", ("kind",)
)


class Expirer:
    """`run` works, without end; `nudge` tells it that rules changed."""

    def __init__(self, store: Store, *, page: int = 1000) -> None:
        self._store = store
        self._page = page
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        self._nudged.set()

    async def run(self) -> None:
        while True:
            self._nudged.clear()
            for bucket in await self._store.index.buckets_with(_KIND):
                # One that is deleted meanwhile has nothing left to expire.
                with contextlib.suppress(NotFound):
                    await self.sweep(bucket)
            day_ms = self._store.calendar.day_ms
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout((day_ms - self._store.now_ms() % day_ms) / 1000):
                    await self._nudged.wait()

    async def sweep(self, bucket: Bucket) -> None:
        rules, now_ms = lifecycle.rules_of(bucket, self._store.calendar), self._store.now_ms()
        if rules is None:
            return
        due: list[tuple[Summary | Marker, Version]] = []
        seen = 0
        async with aclosing(self._versions(bucket, rules)) as versions:
            async for entry, version in versions:
                if rules.is_due(version, now_ms):
                    due.append((entry, version))
                seen += 1
                if seen % self._page == 0:
                    if not await self._take(bucket, due, now_ms):
                        return
                    due = []
        if await self._take(bucket, due, now_ms):
            await self._give_up_uploads(bucket, rules, now_ms)

    async def _versions(self, bucket: Bucket, rules: Rules) -> AsyncGenerator[tuple[Summary | Marker, Version], None]:
        """Every version as rules see it, in the order of the listing."""
        waiting: Summary | Marker | None = None
        newer: Summary | Marker | None = None
        noncurrent = 0
        async for entry in self._entries(bucket):
            if waiting is not None:
                only = newer is None and waiting.key != entry.key
                yield waiting, await self._seen(bucket, rules, waiting, newer, noncurrent, is_only=only)
                # A key whose page ended at a version that somebody deleted is listed from its newest one again.
                goes_on = waiting.key == entry.key and not entry.latest
                noncurrent = noncurrent + (newer is not None) if goes_on else 0
                newer = waiting if goes_on else None
            waiting = entry
        if waiting is not None:
            yield waiting, await self._seen(bucket, rules, waiting, newer, noncurrent, is_only=newer is None)

    async def _entries(self, bucket: Bucket) -> AsyncIterator[Summary | Marker]:
        scan = Scan(limit=self._page)
        while True:
            page = await self._store.index.list_versions(bucket, scan)
            entries = [entry for entry in page.entries if not isinstance(entry, bytes)]
            for entry in entries:
                yield entry
            if not page.truncated:
                return
            last = entries[-1]
            scan = Scan(after=last.key, after_id=last.version_id or "null", limit=self._page)

    async def _seen(
        self,
        bucket: Bucket,
        rules: Rules,
        entry: Summary | Marker,
        newer: Summary | Marker | None,
        noncurrent: int,
        *,
        is_only: bool,
    ) -> Version:
        marker = isinstance(entry, Marker)
        tags = {}
        if not marker and rules.asks_for_tags():
            found = await self._store.index.find_object(bucket, entry.key, entry.version_id)
            tags = dict(found.tags) if isinstance(found, Object) else {}
        return Version(
            key=entry.key,
            size=0 if isinstance(entry, Marker) else entry.size,
            modified_ms=entry.modified_ms,
            tags=tags,
            is_marker=marker,
            noncurrent_ms=newer.modified_ms if newer is not None else None,
            newer_noncurrent=noncurrent,
            is_only=is_only,
        )

    def _deletion(self, bucket: Bucket, entry: Summary | Marker, version: Version, now_ms: int) -> Deletion:
        noncurrent = version.noncurrent_ms is not None
        if isinstance(entry, Marker):
            still = Still.NONCURRENT if noncurrent else Still.MARKER
            return self._told(bucket, Removal(key=entry.key, version_id=entry.version_id, still=still))
        unchanged = Expectation(if_match=entry.etag, size=entry.size, modified_s=entry.modified_ms // 1000)
        if noncurrent or not versioning.state_of(bucket):
            still = Still.NONCURRENT if noncurrent else Still.ANYTHING
            return self._told(bucket, Removal(key=entry.key, version_id=entry.version_id, still=still), unchanged)
        marker = Marker(key=entry.key, version_id=versioning.new_id(bucket), modified_ms=now_ms)
        return self._told(bucket, marker, unchanged)

    def _told(self, bucket: Bucket, what: Removal | Marker, expect: Expectation = ANYTHING) -> Deletion:
        events = removed(self._store, bucket, what, None, by="LifecycleExpiration")
        return Deletion(what=what, expect=expect, events=events)

    async def _take(self, seen: Bucket, chosen: Sequence[tuple[Summary | Marker, Version]], now_ms: int) -> bool:
        """False: the bucket has other rules now, or is another one. Whether it keeps versions, it says now."""
        bucket = await self._store.index.find_bucket(seen.name)
        if bucket is None or bucket.id != seen.id or bucket.configs.get(_KIND) != seen.configs.get(_KIND):
            return False
        if not chosen:
            return True
        due = [self._deletion(bucket, entry, version, now_ms) for entry, version in chosen]
        outcomes = await self._store.index.delete(bucket, due, now_ms=now_ms)
        # Refused: locked, or not what was seen any more; another pass looks again.
        for outcome in outcomes:
            if outcome is Gone.OBJECT or outcome is Gone.MARKER:
                _EXPIRED.labels("marker" if outcome is Gone.MARKER else "version").inc()
        self._store.changed([event for deletion in due for event in deletion.events])
        refused = sum(isinstance(outcome, CloudError) for outcome in outcomes)
        _log.info("lifecycle rules took what was due", bucket=bucket.name, due=len(due), refused=refused)
        return True

    async def _give_up_uploads(self, bucket: Bucket, rules: Rules, now_ms: int) -> None:
        scan = Scan(limit=self._page)
        while True:
            page = await self._store.index.list_uploads(bucket, scan)
            uploads = [upload for upload in page.entries if not isinstance(upload, bytes)]
            for upload in uploads:
                if rules.upload_is_due(upload.key, upload.started_ms, now_ms):
                    # It was completed or aborted just now.
                    with contextlib.suppress(NotFound):
                        await self._store.index.abort_upload(upload)
                        _EXPIRED.labels("upload").inc()
            self._store.reclaim()
            if not page.truncated:
                return
            scan = Scan(after=uploads[-1].key, after_id=uploads[-1].id, limit=self._page)

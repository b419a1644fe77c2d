"""The worker that frees what nobody needs any more: blobs the index let go, and blobs it never knew; and, before that,
blocks of snapshots that were forgotten, and of uploads that nobody goes on with.

The latter are of uploads that a crash cut off between sealing and commit; they are looked for at start and now and
then. Repeating a pass is safe; what a request still reads is left for a later one.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from common.log import get_logger
from common.metrics import counter
from services.walrus.repack import Repacker
from services.walrus.store import Store

_BATCH: Final = 1000
# Between passes, so that a busy store frees in batches and does not commit once more for each request.
_PAUSE_S: Final = 0.5
# What a pass frees that makes the next one follow sooner: large objects that take each other's place then take each
# other's memory, too. A host gives its virtual machine pages that it has not used for a while one by one, and slowly.
# Not at once: to free much is work, too, beside what a client asks next.
_MUCH_BYTES: Final = 16 << 20
_SHORT_PAUSE_S: Final = 0.1
_ORPHANS_EVERY_S: Final = 600.0
# How long a repeated CompleteMultipartUpload is answered as the first one was.
_COMPLETIONS_MS: Final = 7 * 24 * 3600 * 1000
# An upload of a snapshot that was not heard of for so long is given up.
_UPLOADS_MS: Final = 24 * 3600 * 1000
# Needs of blocks that one step of the index takes away.
_NEEDS: Final = 4096

_log = get_logger(__name__)
_RECLAIMED = counter("mallee_walrus_reclaimed_bytes", "Bytes freed, by cause: garbage or orphan", ("cause",))


class Reclaimer:
    def __init__(self, store: Store, *, pause_s: float = _PAUSE_S) -> None:
        self._store = store
        self._pause_s = pause_s
        self._freed_much = False
        self._nudged = asyncio.Event()
        self.repack = Repacker(store).repack

    def nudge(self) -> None:
        self._nudged.set()

    async def run(self) -> None:
        while True:
            await self.sweep_orphans()
            await self._store.index.forget_completions(self._store.now_ms() - _COMPLETIONS_MS)
            await self.give_up_uploads()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ORPHANS_EVERY_S):
                    await self._collect_for_ever()

    async def _collect_for_ever(self) -> None:
        while True:
            self._nudged.clear()
            drained = await self._store.index.blocks.drain(_NEEDS)
            if not await self.collect() and not drained and not await self.repack():
                await self._nudged.wait()
            await asyncio.sleep(min(self._pause_s, _SHORT_PAUSE_S) if self._freed_much else self._pause_s)

    async def give_up_uploads(self) -> int:
        """Those of snapshots that stand still; how many."""
        given_up = await self._store.index.blocks.forget_idle(self._store.now_ms() - _UPLOADS_MS)
        if given_up:
            _log.warning("gave up uploads of snapshots", uploads=given_up)
        return given_up

    async def collect(self) -> int:
        """Deletes garbage that nobody reads; how many blobs."""
        held = self._store.readers.held
        garbage = await self._store.index.garbage(_BATCH + len(held))
        if not garbage:
            return 0
        await self._store.readers.settled()
        if self._store.keeps_garbage:
            return 0
        held = self._store.readers.held
        free = [blob for blob in garbage if blob not in held]
        if free:
            freed_bytes = await self._store.blobs.delete(free)
            self._freed_much = freed_bytes >= _MUCH_BYTES
            _RECLAIMED.labels("garbage").inc(freed_bytes)
            await self._store.index.forget_garbage(free)
        return len(free)

    async def sweep_orphans(self) -> int:
        """Deletes blobs that the index does not know; how many."""
        found = 0
        async for blobs in self._store.blobs.scan():
            if not blobs:
                continue
            named = await self._store.index.named(blobs)
            orphans = [blob for blob in blobs if blob not in named]
            if orphans and not self._store.keeps_garbage:
                _RECLAIMED.labels("orphan").inc(await self._store.blobs.delete(orphans))
                found += len(orphans)
        if found:
            _log.info("deleted blobs that no object names", blobs=found)
        return found

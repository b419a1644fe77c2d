"""Snapshots: SealSnapshot, ReadSnapshot, CopySnapshot, ForgetSnapshot."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from typing import Final
from weakref import WeakValueDictionary

from common.blocks import BLOCK_BYTES, DIGEST_BYTES
from common.errors import InvalidArgument, NotFound
from common.log import get_logger
from mallee.walrus.v1 import service_pb2
from services.walrus.blocks import idle_limited
from services.walrus.drivers.blocks import Sealed
from services.walrus.store import Store

PAGE_BLOCKS: Final = 256
# Taken in one step of the index, which bounds how long it keeps others waiting.
_STEP_ENTRIES: Final = 16 * PAGE_BLOCKS
# Entries of one answer: some 40 bytes each.
_READ_PAGES: Final = 64
_ZERO: Final = bytes(DIGEST_BYTES)
# No volume is larger: 64 TiB.
_MOST_BLOCKS: Final = (64 << 40) // BLOCK_BYTES

_log = get_logger(__name__)

Pages = dict[int, dict[int, bytes]]


class Snapshots:
    def __init__(self, store: Store) -> None:
        self._store = store
        # Two tries to seal one snapshot would mix their drafts.
        self._sealing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def seal(self, messages: AsyncIterator[service_pb2.SealSnapshotRequest]) -> Sealed:
        limited = idle_limited(self._store, messages)
        header = await anext(limited, None)
        if header is None or not header.snapshot_id or not header.size_bytes:
            raise InvalidArgument("The first message names the snapshot and its size.")
        async with self._alone(header.snapshot_id):
            if (standing := await self._store.index.blocks.sealed(header.snapshot_id)) is not None:
                return standing
            await self._check_base(header.base_snapshot_id, header.size_bytes)
            await self._draft(header, limited)
            manifest = Sealed(
                snapshot_id=header.snapshot_id, account_id=header.account_id, size=header.size_bytes, full_bytes=0
            )
            sealed = await self._store.index.blocks.seal(manifest, header.base_snapshot_id, now_ms=self._store.now_ms())
        self._store.reclaim()
        _log.info("sealed a snapshot", snapshot=sealed.snapshot_id, bytes=sealed.full_bytes)
        return sealed

    async def _draft(
        self, header: service_pb2.SealSnapshotRequest, messages: AsyncIterator[service_pb2.SealSnapshotRequest]
    ) -> None:
        """As they come: there may be more entries than memory has room for."""
        blocks, now_ms = self._store.index.blocks, self._store.now_ms
        await blocks.undraft(header.snapshot_id, now_ms=now_ms())
        message: service_pb2.SealSnapshotRequest | None = header
        while message is not None:
            for start in range(0, len(message.entries), _STEP_ENTRIES):
                pages = _pages(message.entries[start : start + _STEP_ENTRIES], header.size_bytes)
                await blocks.draft(header.snapshot_id, header.base_snapshot_id, pages, now_ms=now_ms())
            if message.complete:
                return
            message = await anext(messages, None)
        raise InvalidArgument("The stream ended without saying that it is complete.")

    async def read(self, snapshot_id: str) -> AsyncGenerator[service_pb2.ReadSnapshotResponse, None]:
        """Raises NotFound if there is none, also when it goes while it is read."""
        sealed = await self._sealed(snapshot_id)
        yield service_pb2.ReadSnapshotResponse(size_bytes=sealed.size, full_bytes=sealed.full_bytes)
        after = -1
        while pages := await self._store.index.blocks.pages(snapshot_id, after=after, limit=_READ_PAGES):
            yield service_pb2.ReadSnapshotResponse(entries=[entry for page in pages for entry in _entries(*page)])
            after = pages[-1][0]
        await self._sealed(snapshot_id)

    async def copy(self, source_id: str, snapshot_id: str, account_id: str) -> Sealed:
        new = Sealed(snapshot_id=snapshot_id, account_id=account_id, size=0, full_bytes=0)
        return await self._store.index.blocks.copy(source_id, new, now_ms=self._store.now_ms())

    async def forget(self, snapshot_id: str) -> None:
        # One that is being sealed goes as a whole: what came after would be all that there is of it.
        async with self._alone(snapshot_id):
            await self._store.index.blocks.forget(snapshot_id)
        self._store.reclaim()

    def _alone(self, snapshot_id: str) -> asyncio.Lock:
        return self._sealing.setdefault(snapshot_id, asyncio.Lock())

    async def _sealed(self, snapshot_id: str) -> Sealed:
        found = await self._store.index.blocks.sealed(snapshot_id)
        if found is None:
            raise NotFound(f"The snapshot '{snapshot_id}' does not exist.", code="InvalidSnapshot.NotFound")
        return found

    async def _check_base(self, base_id: str, size: int) -> None:
        if base_id and (await self._sealed(base_id)).size > size:
            raise InvalidArgument(f"The snapshot is smaller than its base {base_id}.")


def _pages(entries: Iterable[service_pb2.BlockEntry], size: int) -> Pages:
    pages: Pages = defaultdict(dict)
    last = min((size - 1) // BLOCK_BYTES, _MOST_BLOCKS)
    for entry in entries:
        if entry.index > last or len(entry.digest) not in (0, DIGEST_BYTES):
            raise InvalidArgument(f"Block {entry.index} is none of this snapshot, or its name is none.")
        number, place = divmod(entry.index, PAGE_BLOCKS)
        pages[number][place] = entry.digest
    return pages


def _entries(number: int, digests: bytes) -> Iterator[service_pb2.BlockEntry]:
    for place in range(PAGE_BLOCKS):
        digest = digests[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES]
        if digest != _ZERO:
            yield service_pb2.BlockEntry(index=number * PAGE_BLOCKS + place, digest=digest)

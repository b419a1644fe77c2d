"""Snapshots: SealSnapshot, ReadSnapshot, CopySnapshot, ForgetSnapshot."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import Final

from common.blocks import BLOCK_BYTES, DIGEST_BYTES
from common.errors import InvalidArgument, NotFound
from common.log import get_logger
from mallee.walrus.v1 import service_pb2
from services.walrus.blocks import idle_limited
from services.walrus.drivers.blocks import Sealed
from services.walrus.store import Store

PAGE_BLOCKS: Final = 256
# Pages that are made in one step of the index, which bounds how long it keeps others waiting.
_STEP_PAGES: Final = 16
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
        # Two tries to seal the same snapshot would mix their drafts.
        self._sealing = asyncio.Lock()

    async def seal(self, messages: AsyncIterator[service_pb2.SealSnapshotRequest]) -> Sealed:
        manifest, base_id, pages = await self._received(messages)
        blocks = self._store.index.blocks
        async with self._sealing:
            if (standing := await blocks.sealed(manifest.snapshot_id)) is not None:
                return standing
            await self._check_base(base_id, manifest.size)
            await blocks.undraft(manifest.snapshot_id, now_ms=self._store.now_ms())
            for some in _batches(pages.items(), _STEP_PAGES):
                await blocks.draft(manifest.snapshot_id, base_id, dict(some), now_ms=self._store.now_ms())
            sealed = await blocks.seal(manifest, base_id, now_ms=self._store.now_ms())
        self._store.reclaim()
        _log.info("sealed a snapshot", snapshot=sealed.snapshot_id, bytes=sealed.full_bytes)
        return sealed

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
        await self._store.index.blocks.forget(snapshot_id)
        self._store.reclaim()

    async def _sealed(self, snapshot_id: str) -> Sealed:
        found = await self._store.index.blocks.sealed(snapshot_id)
        if found is None:
            raise NotFound(f"The snapshot '{snapshot_id}' does not exist.", code="InvalidSnapshot.NotFound")
        return found

    async def _check_base(self, base_id: str, size: int) -> None:
        if base_id and (await self._sealed(base_id)).size > size:
            raise InvalidArgument(f"The snapshot is smaller than its base {base_id}.")

    async def _received(self, messages: AsyncIterator[service_pb2.SealSnapshotRequest]) -> tuple[Sealed, str, Pages]:
        header: service_pb2.SealSnapshotRequest | None = None
        pages: Pages = defaultdict(dict)
        async for message in idle_limited(self._store, messages):
            if header is None:
                header = message
                if not header.snapshot_id or not header.size_bytes:
                    raise InvalidArgument("The first message names the snapshot and its size.")
            _take(message.entries, pages, header.size_bytes)
            if message.complete:
                manifest = Sealed(
                    snapshot_id=header.snapshot_id, account_id=header.account_id, size=header.size_bytes, full_bytes=0
                )
                return manifest, header.base_snapshot_id, pages
        raise InvalidArgument("The stream ended without saying that it is complete.")


def _take(entries: Iterable[service_pb2.BlockEntry], pages: Pages, size: int) -> None:
    last = min((size - 1) // BLOCK_BYTES, _MOST_BLOCKS)
    for entry in entries:
        if entry.index > last or len(entry.digest) not in (0, DIGEST_BYTES):
            raise InvalidArgument(f"Block {entry.index} is none of this snapshot, or its name is none.")
        number, place = divmod(entry.index, PAGE_BLOCKS)
        pages[number][place] = entry.digest


def _entries(number: int, digests: bytes) -> Iterator[service_pb2.BlockEntry]:
    for place in range(PAGE_BLOCKS):
        digest = digests[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES]
        if digest != _ZERO:
            yield service_pb2.BlockEntry(index=number * PAGE_BLOCKS + place, digest=digest)


def _batches(pages: Iterable[tuple[int, dict[int, bytes]]], size: int) -> Iterator[list[tuple[int, dict[int, bytes]]]]:
    rest = iter(pages)
    while some := list(islice(rest, size)):
        yield some

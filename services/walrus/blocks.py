"""Blocks of snapshots on their way in and out: FindBlocks, StoreBlocks, FetchBlocks.

What comes in one stream is written one block after the other into packs, blobs of some 16 MiB, so that many blocks
share an fsync.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Final, TypeVar

from common.blocks import DIGEST_BYTES, decoded
from common.errors import DataLoss, InvalidArgument, NotFound
from common.log import get_logger
from common.metrics import counter
from mallee.walrus.v1 import service_pb2
from services.walrus.drivers.blobs import BlobDamaged, BlobMissing, Staged
from services.walrus.drivers.blocks import StoredBlock
from services.walrus.settle import settled
from services.walrus.store import Store

_PACK_BYTES: Final = 16 << 20
# Blocks that are read and checked beside each other.
_AHEAD: Final = 4
# Looked up and held at once.
_LOOKUP: Final = 256

_log = get_logger(__name__)
_STORED = counter("mallee_walrus_stored_block_bytes", "Bytes that blocks of snapshots brought, as they are stored")
_FETCHED = counter("mallee_walrus_fetched_block_bytes", "Bytes of blocks that were read, as they are stored")
_DAMAGED = counter("mallee_walrus_damaged_blocks", "Blocks that were read and are not what their name says any more")

Message = TypeVar("Message")


async def idle_limited(store: Store, messages: AsyncIterator[Message]) -> AsyncIterator[Message]:
    """Raises InvalidArgument for a stream that brings nothing for too long."""
    while True:
        try:
            async with asyncio.timeout(store.limits.idle_s):
                message = await anext(messages)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise InvalidArgument("The stream brought nothing for too long.", code="RequestTimeout") from None
        yield message


async def find_blocks(store: Store, snapshot_id: str, digests: Sequence[bytes]) -> list[bytes]:
    """Those that are not here, in their order."""
    _check_digests(digests)
    missing = await store.index.blocks.claim(_checked(snapshot_id), digests, now_ms=store.now_ms())
    return [digest for digest in dict.fromkeys(digests) if digest in missing]


async def store_blocks(store: Store, messages: AsyncIterator[service_pb2.StoreBlocksRequest]) -> int:
    """The bytes they take here."""
    stored, pack = 0, None
    async with AsyncExitStack() as stack:
        async for message in idle_limited(store, messages):
            sizes = await asyncio.gather(*(store.in_thread(_checked_size, block) for block in message.blocks))
            if pack is None:
                pack = await _Pack.opened(store, stack, _checked(message.snapshot_id))
            await pack.write(message, sizes)
            if pack.length >= _PACK_BYTES:
                stored += await pack.commit()
                await stack.aclose()
                pack = None
        if pack is not None:
            stored += await pack.commit()
    return stored


class _Pack:
    def __init__(self, store: Store, staged: Staged, snapshot_id: str) -> None:
        self.length = 0
        self._store = store
        self._staged = staged
        self._snapshot_id = snapshot_id
        self._blocks: dict[bytes, StoredBlock] = {}

    @classmethod
    async def opened(cls, store: Store, stack: AsyncExitStack, snapshot_id: str) -> _Pack:
        stack.enter_context(store.space(_PACK_BYTES, await store.blobs.free_bytes()))
        return cls(store, await stack.enter_async_context(store.blobs.stage()), snapshot_id)

    async def write(self, message: service_pb2.StoreBlocksRequest, sizes: Sequence[int]) -> None:
        if message.snapshot_id != self._snapshot_id:
            raise InvalidArgument("The blocks of one stream are of one snapshot.")
        contents = []
        for block, size in zip(message.blocks, sizes, strict=True):
            if block.digest in self._blocks:
                continue
            self._blocks[block.digest] = StoredBlock(
                digest=block.digest,
                pack=self._staged.blob,
                start=self.length,
                length=len(block.content),
                size=size,
                compressed=block.compressed,
            )
            self.length += len(block.content)
            contents.append(block.content)
        await self._staged.write(b"".join(contents))

    async def commit(self) -> int:
        if not self._blocks:
            return 0
        await self._staged.seal()
        step = self._store.index.blocks.add(self._snapshot_id, list(self._blocks.values()), now_ms=self._store.now_ms())
        await settled(self._store, self._staged, step)
        _STORED.inc(self.length)
        return self.length


async def fetch_blocks(store: Store, digests: Sequence[bytes]) -> AsyncGenerator[service_pb2.Block, None]:
    _check_digests(digests)
    for start in range(0, len(digests), _LOOKUP):
        async for block in _fetch(store, digests[start : start + _LOOKUP]):
            yield block


async def _fetch(store: Store, digests: Sequence[bytes]) -> AsyncGenerator[service_pb2.Block, None]:
    async with AsyncExitStack() as stack:
        with store.readers.lookup():
            found = {block.digest: block for block in await store.index.blocks.find(digests)}
            stack.enter_context(store.readers.hold(block.pack for block in found.values()))
        if missing := next((digest for digest in digests if digest not in found), None):
            raise NotFound(f"Block {missing.hex()} is not here.", code="BlockMissing")
        for start in range(0, len(digests), _AHEAD):
            batch = digests[start : start + _AHEAD]
            # All have ended before the packs are let go.
            ended = await asyncio.gather(*(verified(store, found[one]) for one in batch), return_exceptions=True)
            for outcome in ended:
                if isinstance(outcome, BaseException):
                    raise outcome
                yield outcome


async def verified(store: Store, block: StoredBlock) -> service_pb2.Block:
    """For who holds its pack. Raises DataLoss, and doubts the block, if it is not what its name says."""
    try:
        content = await stored_bytes(store, block)
        await store.in_thread(_check, block, content)
    except DataLoss as error:
        _DAMAGED.inc()
        _log.error("a block is damaged", digest=block.digest.hex(), pack=block.pack, why=error.message)
        # The next upload that has it puts it right.
        await store.index.blocks.doubt(block.digest)
        raise
    _FETCHED.inc(len(content))
    return service_pb2.Block(digest=block.digest, content=content, compressed=block.compressed)


async def stored_bytes(store: Store, block: StoredBlock) -> bytes:
    """Raises DataLoss if they are not there: the caller holds the pack, so the store is damaged."""
    chunks = store.blobs.read(block.pack, start=block.start, end=block.start + block.length)
    try:
        return b"".join([chunk async for chunk in chunks])
    except (BlobMissing, BlobDamaged) as error:
        raise DataLoss(f"Block {block.digest.hex()} is damaged: {error}") from error


def _check(block: StoredBlock, content: bytes) -> None:
    decoded(block.digest, content, compressed=block.compressed)


def _checked_size(block: service_pb2.Block) -> int:
    _check_digests([block.digest])
    try:
        return len(decoded(block.digest, block.content, compressed=block.compressed))
    except DataLoss as error:
        raise InvalidArgument(error.message) from error


def _checked(snapshot_id: str) -> str:
    if not snapshot_id:
        raise InvalidArgument("The snapshot has no id.")
    return snapshot_id


def _check_digests(digests: Sequence[bytes]) -> None:
    if any(len(digest) != DIGEST_BYTES for digest in digests):
        raise InvalidArgument(f"A block's name has {DIGEST_BYTES} bytes.")

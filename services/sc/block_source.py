"""Blocks of snapshots as they are needed: from memory, from this host's disk, else from Walrus, each fetched once.

Walrus being away makes a reader wait, never fail.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from common.background import Background
from common.blocks import BLOCK_BYTES, decoded
from common.errors import CloudError, Unavailable
from common.log import get_logger
from services.sc.block_cache import BlockCache
from services.sc.manifest_file import Manifest

if TYPE_CHECKING:
    from mallee.walrus.v1.service_pb2 import Block

_MEMORY_BLOCKS: Final = 64
# Who reads on from where it stopped finds so many blocks fetched before it asks.
_AHEAD: Final = 16
_PAUSE_S: Final = 0.5

_log = get_logger(__name__)

# Blocks in the order of their names. Raises Unavailable; anything else is for good.
Fetch = Callable[[Sequence[bytes]], "AsyncGenerator[Block, None]"]


class BlockSource:
    """`async with BlockSource(cache, fetch)`."""

    def __init__(self, cache: BlockCache, fetch: Fetch) -> None:
        self._cache = cache
        self._fetch = fetch
        self._memory: OrderedDict[bytes, bytes] = OrderedDict()
        self._coming: dict[bytes, asyncio.Future[bytes]] = {}
        # One thread: the cache is used by one at a time.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="block-cache")
        self._tasks = Background()

    async def __aenter__(self) -> BlockSource:
        await self._tasks.__aenter__()
        await self._on_disk(self._cache.open)
        return self

    async def __aexit__(self, *reason: Any) -> None:
        await self._tasks.__aexit__(*reason)
        await asyncio.to_thread(self._disk.shutdown)

    async def block(self, digest: bytes) -> bytes:
        """Raises DataLoss or NotFound if Walrus has it no more."""
        if (found := self._memory.get(digest)) is not None:
            self._memory.move_to_end(digest)
            return found
        self.want([digest])
        return await asyncio.shield(self._coming[digest])

    def want(self, digests: Iterable[bytes]) -> None:
        """They are on their way from now on."""
        new = [one for one in dict.fromkeys(digests) if one not in self._memory and one not in self._coming]
        if new:
            for digest in new:
                self._coming[digest] = asyncio.get_running_loop().create_future()
            self._tasks.start(self._bring(new))

    async def _bring(self, digests: Sequence[bytes]) -> None:
        missing = []
        for digest in digests:
            found = await self._on_disk(self._cache.read, digest)
            if found is None:
                missing.append(digest)
            else:
                self._arrived(digest, found)
        while missing:
            try:
                async with aclosing(self._fetch(missing)) as blocks:
                    async for block in blocks:
                        await self._take(block)
            except Unavailable as error:
                _log.warning("blocks of a snapshot are waited for", blocks=len(missing), why=error.message)
                await asyncio.sleep(_PAUSE_S)
            except CloudError as error:
                missing = [digest for digest in missing if digest in self._coming]
                # One of them is at fault: the first, as they come in order.
                self._failed(missing[0], error)
            missing = [digest for digest in missing if digest in self._coming]

    async def _take(self, block: Block) -> None:
        content = await self._on_disk(_checked, block)
        self._arrived(block.digest, content)
        await self._on_disk(self._keep, block)

    def _keep(self, block: Block) -> None:
        self._cache.write(block.digest, block.content, compressed=block.compressed)

    def _arrived(self, digest: bytes, content: bytes) -> None:
        self._memory[digest] = content
        while len(self._memory) > _MEMORY_BLOCKS:
            self._memory.popitem(last=False)
        if (waiting := self._coming.pop(digest, None)) is not None and not waiting.done():
            waiting.set_result(content)

    def _failed(self, digest: bytes, error: CloudError) -> None:
        _log.error("a block of a snapshot cannot be had", digest=digest.hex(), why=error.message)
        waiting = self._coming.pop(digest)
        waiting.set_exception(error)
        # Nobody may have asked for it.
        waiting.exception()

    async def _on_disk(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._disk, function, *arguments)


def _checked(block: Block) -> bytes:
    return decoded(block.digest, block.content, compressed=block.compressed)


class SnapshotExport:
    """nbd/server.py Export of one snapshot, for one client: what is read ahead depends on what it read before."""

    def __init__(self, manifest: Manifest, source: BlockSource) -> None:
        self.size_bytes = manifest.size_bytes
        self._manifest = manifest
        self._source = source
        self._next = -1
        self._wanted_up_to = 0

    def zeros(self, start: int, length: int) -> Iterable[tuple[int, bool]]:
        return self._manifest.zeros(start, length)

    async def read(self, start: int, length: int) -> bytes:
        first, last = start // BLOCK_BYTES, (start + length - 1) // BLOCK_BYTES
        self._read_ahead(first, last)
        parts = []
        for index in range(first, last + 1):
            begin = max(start, index * BLOCK_BYTES)
            end = min(start + length, (index + 1) * BLOCK_BYTES)
            parts.append(await self._part(index, begin - index * BLOCK_BYTES, end - index * BLOCK_BYTES))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _part(self, index: int, begin: int, end: int) -> bytes:
        digest = self._manifest.digest(index)
        if not digest:
            return bytes(end - begin)
        block = await self._source.block(digest)
        # A volume may have grown since its last block was short.
        return block[begin:end].ljust(end - begin, b"\0")

    def _read_ahead(self, first: int, last: int) -> None:
        sequential = first in (self._next, self._next - 1)
        self._next = last + 1
        up_to = last + 1 + (_AHEAD if sequential else 0)
        begin = first
        if sequential:
            if up_to - self._wanted_up_to < _AHEAD // 2:
                return
            begin = max(first, self._wanted_up_to)
        up_to = min(up_to, self._manifest.count)
        self._wanted_up_to = up_to
        wanted = (self._manifest.digest(index) for index in range(begin, up_to))
        self._source.want(digest for digest in wanted if digest)

"""Packs of which much is not needed any more are written anew without it: blocks move, and the old pack is garbage."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from common.errors import CloudError, DataLoss
from common.log import get_logger
from common.metrics import counter
from services.walrus.blocks import stored_bytes
from services.walrus.drivers.base import BlobId
from services.walrus.drivers.blocks import StoredBlock
from services.walrus.settle import settled
from services.walrus.store import Store

_AT_ONCE: Final = 16

_log = get_logger(__name__)
_REPACKED = counter("mallee_walrus_repacked_bytes", "Bytes of blocks that moved to another pack")


class Repacker:
    def __init__(self, store: Store) -> None:
        self._store = store
        # Part of them cannot be read: they are left as they are, for the operator.
        self._damaged: set[BlobId] = set()

    async def repack(self) -> int:
        """Some of them; how many. None while the store is full."""
        packs = await self._store.index.blocks.sparse(_AT_ONCE + len(self._damaged))
        done = 0
        for pack in packs:
            if pack in self._damaged:
                continue
            try:
                await self._repack(pack)
            except DataLoss as error:
                self._damaged.add(pack)
                _log.error("a pack of blocks is damaged", pack=pack, why=error.message)
            except CloudError as error:
                _log.warning("packs are not written anew", why=error.message)
                return done
            done += 1
        return done

    async def _repack(self, old: BlobId) -> None:
        with ExitStack() as stack:
            with self._store.readers.lookup():
                blocks = await self._store.index.blocks.blocks_of(old)
                stack.enter_context(self._store.readers.hold([old]))
            await self._move(blocks, old)

    async def _move(self, blocks: Sequence[StoredBlock], old: BlobId) -> None:
        size = sum(block.length for block in blocks)
        with self._store.space(size, await self._store.blobs.free_bytes()):
            async with self._store.blobs.stage() as staged:
                moved, position = [], 0
                for block in blocks:
                    # As it is: who reads it checks it.
                    await staged.write(await stored_bytes(self._store, block))
                    moved.append(replace(block, pack=staged.blob, start=position))
                    position += block.length
                await staged.seal()
                await settled(self._store, staged, self._store.index.blocks.move(moved, old))
        _REPACKED.inc(size)

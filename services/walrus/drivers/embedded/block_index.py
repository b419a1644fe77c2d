"""The part of the embedded index for snapshots: drivers/blocks.py BlockIndex."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

from services.walrus.drivers.base import BlobId
from services.walrus.drivers.blocks import BlockUsage, Changes, Sealed, StoredBlock
from services.walrus.drivers.embedded import blocks, manifests

Result = TypeVar("Result")

# Of an earlier try, forgotten in one step.
_UNDRAFTED: Final = 16


class Run(Protocol):
    def __call__(self, step: Callable[[sqlite3.Connection], Result], /) -> Awaitable[Result]: ...


class SqliteBlocks:
    """`change` runs a step in the writer, `read` a query in a reader."""

    def __init__(self, change: Run, read: Run) -> None:
        self._change = change
        self._read = read

    async def claim(self, snapshot_id: str, digests: Sequence[bytes], *, now_ms: int) -> set[bytes]:
        return await self._change(lambda db: blocks.claim(db, snapshot_id, digests, now_ms))

    async def add(self, snapshot_id: str, stored: Sequence[StoredBlock], *, now_ms: int) -> bool:
        return await self._change(lambda db: blocks.add(db, snapshot_id, stored, now_ms))

    async def find(self, digests: Sequence[bytes]) -> list[StoredBlock]:
        return await self._read(lambda db: blocks.find(db, digests))

    async def doubt(self, digest: bytes) -> None:
        await self._change(lambda db: blocks.doubt(db, digest))

    async def undraft(self, snapshot_id: str, *, now_ms: int) -> None:
        while await self._change(lambda db: manifests.undraft(db, snapshot_id, now_ms, _UNDRAFTED)):
            pass

    async def draft(self, snapshot_id: str, base_id: str, changes: Changes, *, now_ms: int) -> None:
        await self._change(lambda db: manifests.draft(db, snapshot_id, base_id, changes, now_ms))

    async def seal(self, manifest: Sealed, base_id: str, *, now_ms: int) -> Sealed:
        return await self._change(lambda db: manifests.seal(db, manifest, base_id, now_ms))

    async def sealed(self, snapshot_id: str) -> Sealed | None:
        return await self._read(lambda db: manifests.sealed(db, snapshot_id))

    async def pages(self, snapshot_id: str, *, after: int, limit: int) -> list[tuple[int, bytes]]:
        return await self._read(lambda db: manifests.pages(db, snapshot_id, after, limit))

    async def copy(self, source_id: str, new: Sealed, *, now_ms: int) -> Sealed:
        return await self._change(lambda db: manifests.copy(db, source_id, new, now_ms))

    async def forget(self, snapshot_id: str) -> None:
        await self._change(lambda db: manifests.forget(db, snapshot_id))

    async def forget_idle(self, before_ms: int) -> int:
        return await self._change(lambda db: manifests.forget_idle(db, before_ms))

    async def drain(self, limit: int) -> bool:
        # A step costs a commit, also one that finds nothing to do.
        if not await self._read(manifests.draining):
            return False
        return await self._change(lambda db: manifests.drain(db, limit))

    async def sparse(self, limit: int) -> list[BlobId]:
        return await self._read(lambda db: blocks.sparse(db, limit))

    async def blocks_of(self, pack: BlobId) -> list[StoredBlock]:
        return await self._read(lambda db: blocks.blocks_of(db, pack))

    async def move(self, moved: Sequence[StoredBlock], old: BlobId) -> bool:
        return await self._change(lambda db: blocks.move(db, moved, old))

    async def block_usage(self) -> BlockUsage:
        return await self._read(blocks.usage)

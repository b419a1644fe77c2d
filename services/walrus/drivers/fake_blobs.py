"""Blobs in memory, with knobs for faults. They pass the same contract suite as files, but go with the object."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.walrus import errors
from services.walrus.drivers.base import BlobId
from services.walrus.drivers.blobs import BlobDamaged, BlobMissing, Copied, OpenBlob, Staged
from services.walrus.drivers.fake import Faults

_CHUNK_BYTES: Final = 1 << 20


class FakeBlobs:
    def __init__(self, sealed: dict[BlobId, bytes] | None = None, faults: Faults | None = None) -> None:
        self.sealed = sealed if sealed is not None else {}
        self.faults = faults or Faults()
        self._staging: set[BlobId] = set()

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    @asynccontextmanager
    async def stage(self) -> AsyncIterator[Staged]:
        file = _FakeStaged(self)
        self._staging.add(file.blob)
        try:
            yield file
        finally:
            if not file.kept:
                self.sealed.pop(file.blob, None)
            self._staging.discard(file.blob)

    async def read(self, blob: BlobId, *, start: int, end: int) -> AsyncGenerator[bytes, None]:
        body = self._body(blob, start, end)
        for position in range(start, end, _CHUNK_BYTES):
            yield body[position : min(position + _CHUNK_BYTES, end)]

    @asynccontextmanager
    async def opened(self, blob: BlobId) -> AsyncIterator[OpenBlob]:
        body = self._body(blob, 0, 0)
        with os.fdopen(os.memfd_create("blob"), "w+b", buffering=0) as file:
            file.write(body)
            yield _FakeOpen(self.faults, blob, file.fileno(), len(body))

    async def export(self, blobs: Sequence[BlobId], path: Path, *, exact: bool = False) -> int:
        body = b"".join(self._body(blob, 0, None) for blob in blobs)
        return await asyncio.to_thread(path.write_bytes, body)

    async def copy_to(self, blob: BlobId, folder: Path) -> Copied:
        body, target = self._body(blob, 0, None), folder / blob[:2] / blob
        if target.exists():
            return Copied(size=0, new=False)
        target.parent.mkdir(parents=True, exist_ok=True)
        return Copied(size=await asyncio.to_thread(target.write_bytes, body), new=True)

    async def delete(self, blobs: Sequence[BlobId]) -> int:
        return sum(len(self.sealed.pop(blob, b"")) for blob in blobs)

    async def scan(self) -> AsyncIterator[list[BlobId]]:
        yield [blob for blob in self.sealed if blob not in self._staging]

    async def free_bytes(self) -> int:
        return 1 << 40 if self.faults.room_bytes is None else self.faults.room_bytes

    def _body(self, blob: BlobId, start: int, end: int | None) -> bytes:
        """All of it; what is to be read of it is whole."""
        if blob not in self.sealed:
            raise BlobMissing(f"blob {blob} is not there")
        body = self.sealed[blob]
        _check(self.faults, blob, len(body), start, len(body) if end is None else end)
        return body


@dataclass(frozen=True, slots=True)
class _FakeOpen:
    faults: Faults
    blob: BlobId
    descriptor: int
    size: int

    async def verify(self, start: int, end: int, *, fresh: bool = False) -> None:
        _check(self.faults, self.blob, self.size, start, end)


def _check(faults: Faults, blob: BlobId, size: int, start: int, end: int) -> None:
    if end > size:
        raise BlobMissing(f"blob {blob} ends at byte {size}")
    if any(start <= at < end for one, at in faults.damaged if one == blob):
        raise BlobDamaged(f"blob {blob} is not what was written")


class _FakeStaged:
    def __init__(self, blobs: FakeBlobs) -> None:
        self.blob = BlobId.new()
        self.kept = False
        self._blobs = blobs
        self._body = bytearray()

    async def write(self, chunk: bytes) -> None:
        await asyncio.sleep(0)
        room = self._blobs.faults.room_bytes
        if room is not None and len(self._body) + len(chunk) > room:
            raise errors.out_of_space(room, 0)
        self._body += chunk

    async def share(self, blob: BlobId) -> bool:
        if blob not in self._blobs.sealed:
            return False
        self._body = bytearray(self._blobs.sealed[blob])
        return True

    async def lend(self) -> int | None:
        return None

    async def written(self, length: int, use: Callable[[bytes], None]) -> None:
        raise AssertionError("nothing was lent")

    async def seal(self) -> None:
        if self._blobs.faults.failing_seals:
            self._blobs.faults.failing_seals -= 1
            raise errors.store_failed("the fake was told to fail")
        self._blobs.sealed[self.blob] = bytes(self._body)

    def keep(self) -> None:
        self.kept = True

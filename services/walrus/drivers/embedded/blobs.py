"""Blobs as files: `blobs/<two hex digits>/<id>` on one file system with `staging/`, where they are written first.

A blob is sealed by fsync of the file, a rename, and fsync of its folder. Files are 0644 in a folder of mode 0700: the
image prober, which may run as another user, gets them by descriptor only.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, TypeVar

from services.walrus import errors
from services.walrus.drivers.base import BlobId, BlobMissing, Staged

Result = TypeVar("Result")

CHUNK_BYTES: Final = 1 << 20
# The disk is set to work this often, so that the fsync of a long upload has little left to wait for.
_FLUSH_BYTES: Final = 8 << 20


class FileBlobs:
    """drivers/base.py Blobs under the folder `root`, which one process at a time may open."""

    def __init__(self, root: Path, *, threads: int = 8) -> None:
        self._root = root
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="walrus-blobs")
        self._staging: set[BlobId] = set()

    async def open(self) -> None:
        await self._in_thread(self._prepare)

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)

    @asynccontextmanager
    async def stage(self) -> AsyncIterator[Staged]:
        blob = BlobId.new()
        self._staging.add(blob)
        file = _StagedFile(self, blob)
        try:
            yield file
        finally:
            await self._in_thread(file.discard)
            self._staging.discard(blob)

    async def read(self, blob: BlobId, *, start: int, end: int) -> AsyncGenerator[bytes, None]:
        if start >= end:
            return
        descriptor = await self._in_thread(lambda: self._open_to_read(blob))
        try:
            position = start
            while position < end:
                size = min(CHUNK_BYTES, end - position)
                chunk = await self._in_thread(lambda s=size, p=position: os.pread(descriptor, s, p))  # type: ignore[misc]
                if not chunk:
                    raise BlobMissing(f"blob {blob} ends at byte {position}")
                position += len(chunk)
                yield chunk
        finally:
            os.close(descriptor)

    async def export(self, blobs: Sequence[BlobId], path: Path) -> None:
        await self._in_thread(lambda: self._export(blobs, path))

    async def delete(self, blobs: Sequence[BlobId]) -> int:
        return await self._in_thread(lambda: sum(_unlink(self.path(blob)) for blob in blobs))

    async def scan(self) -> AsyncIterator[list[BlobId]]:
        for shard in range(256):
            found = await self._in_thread(lambda s=shard: _names(self._root / "blobs" / f"{s:02x}"))  # type: ignore[misc]
            # Asked after the folder was read: one that left staging since then is in the index by now, or deleted.
            yield [blob for blob in found if blob not in self._staging]

    async def free_bytes(self) -> int:
        status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize

    def path(self, blob: BlobId) -> Path:
        return self._root / "blobs" / blob[:2] / blob

    def staging_path(self, blob: BlobId) -> Path:
        return self._root / "staging" / blob

    def _prepare(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        staging = self._root / "staging"
        if staging.exists():
            shutil.rmtree(staging)
        for folder in (staging, *(self._root / "blobs" / f"{shard:02x}" for shard in range(256))):
            folder.mkdir(parents=True, exist_ok=True)
        fsync_folder(self._root / "blobs")
        fsync_folder(self._root)

    def _open_to_read(self, blob: BlobId) -> int:
        try:
            return os.open(self.path(blob), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise BlobMissing(f"blob {blob} is not there") from error

    def _export(self, blobs: Sequence[BlobId], path: Path) -> None:
        with _disk_errors():
            try:
                if len(blobs) == 1:
                    os.link(self.path(blobs[0]), path)
                else:
                    self._concatenate(blobs, path)
            except FileNotFoundError as error:
                path.unlink(missing_ok=True)
                raise BlobMissing(f"blob {error.filename} is not there") from error
            fsync_folder(path.parent)

    def _concatenate(self, blobs: Sequence[BlobId], path: Path) -> None:
        with path.open("xb") as target:
            for blob in blobs:
                with self.path(blob).open("rb") as source:
                    shutil.copyfileobj(source, target, CHUNK_BYTES)
            target.flush()
            os.fchmod(target.fileno(), 0o644)
            os.fsync(target.fileno())

    async def _in_thread(self, function: Callable[[], Result]) -> Result:
        """Returns only when the thread has ended, also when cancelled: what it works on is then free to go."""
        running = asyncio.get_running_loop().run_in_executor(self._threads, function)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    async def run(self, function: Callable[[], Result]) -> Result:
        return await self._in_thread(function)


class _StagedFile:
    def __init__(self, blobs: FileBlobs, blob: BlobId) -> None:
        self.blob = blob
        self._blobs = blobs
        self._descriptor = -1
        self._size = 0
        self._unflushed = 0
        self._kept = False

    async def write(self, chunk: bytes) -> None:
        await self._blobs.run(lambda: self._write(chunk))

    async def seal(self) -> None:
        await self._blobs.run(self._seal)

    def keep(self) -> None:
        self._kept = True

    def discard(self) -> None:
        """Closes it, and deletes it unless it is kept."""
        self._close()
        if not self._kept:
            _unlink(self._blobs.staging_path(self.blob))
            _unlink(self._blobs.path(self.blob))

    def _write(self, chunk: bytes) -> None:
        with _disk_errors():
            self._ensure_open()
            view = memoryview(chunk)
            while view:
                view = view[os.write(self._descriptor, view) :]
            self._unflushed += len(chunk)
            self._size += len(chunk)
            if self._unflushed >= _FLUSH_BYTES:
                # Linux starts writing dirty pages at this advice, and does not wait; it drops clean ones alone.
                start = self._size - self._unflushed
                os.posix_fadvise(self._descriptor, start, self._unflushed, os.POSIX_FADV_DONTNEED)
                self._unflushed = 0

    def _seal(self) -> None:
        with _disk_errors():
            self._ensure_open()
            os.fsync(self._descriptor)
            self._close()
            path = self._blobs.path(self.blob)
            os.rename(self._blobs.staging_path(self.blob), path)
            fsync_folder(path.parent)

    def _ensure_open(self) -> None:
        if self._descriptor < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._blobs.staging_path(self.blob), flags, 0o644)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlink(path: Path) -> int:
    """The bytes that this freed."""
    try:
        status = path.stat()
        path.unlink()
    except FileNotFoundError:
        return 0
    return status.st_size if status.st_nlink == 1 else 0


def _names(folder: Path) -> list[BlobId]:
    return [BlobId(name) for name in os.listdir(folder)]


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.out_of_space(0, 0) from error
        raise errors.store_failed(error.strerror or str(error)) from error

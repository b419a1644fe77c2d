"""Blobs as files: `blobs/<two hex digits>/<id>.1` on one file system with `staging/`, where they are written first.

A blob is sealed by a footer with its checksums (pieces.py), fsync of the file, a rename, and fsync of its folder. Files
are 0644 in a folder of mode 0700: the image prober, which may run as another user, gets them by descriptor only.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Final, TypeVar

from common.threads import to_the_end
from services.walrus import errors
from services.walrus.drivers.base import BlobId
from services.walrus.drivers.blobs import BlobDamaged, BlobMissing, Copied, OpenBlob, Staged
from services.walrus.drivers.embedded import copies, pieces
from services.walrus.drivers.embedded.sealed import SealedFile

Result = TypeVar("Result")

# Beside the blobs' folders.
INDEX: Final = "index.sqlite"

# The disk is set to work this often, so that the fsync of a long upload has little left to wait for.
_FLUSH_BYTES: Final = 8 << 20
# Read back at once.
_READ_BYTES: Final = 1 << 20


class FileBlobs:
    """drivers/blobs.py Blobs under the folder `root`, which one process at a time may open."""

    def __init__(self, root: Path, *, threads: int = 8) -> None:
        self._root = root
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="walrus-blobs")
        self._staging: set[BlobId] = set()
        self._lock = -1

    async def open(self) -> None:
        await self.run(self._prepare)

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @asynccontextmanager
    async def stage(self) -> AsyncIterator[Staged]:
        blob = BlobId.new()
        self._staging.add(blob)
        file = _StagedFile(self, blob)
        try:
            yield file
        finally:
            try:
                await self.run(file.discard)
            finally:
                self._staging.discard(blob)

    async def read(self, blob: BlobId, *, start: int, end: int) -> AsyncGenerator[bytes, None]:
        file = self._sealed(blob)
        try:
            position = start
            while position < end:
                chunk = await self.run(lambda p=position: file.read(p, end))  # type: ignore[misc]
                position += len(chunk)
                yield chunk
        finally:
            file.close()

    @asynccontextmanager
    async def opened(self, blob: BlobId) -> AsyncIterator[OpenBlob]:
        file = self._sealed(blob)
        try:
            await self.run(file.open)
            yield _OpenFile(self, file)
        finally:
            file.close()

    async def export(self, blobs: Sequence[BlobId], path: Path, *, exact: bool = False) -> int:
        return await self.run(lambda: self._export(blobs, path, exact=exact))

    async def copy_to(self, blob: BlobId, folder: Path) -> Copied:
        def copy() -> Copied:
            with _disk_errors():
                return copies.copy_blob(self.folder(blob), blob, folder / blob[:2])

        return await self.run(copy)

    async def delete(self, blobs: Sequence[BlobId]) -> int:
        return await self.run(lambda: sum(_unlink(self.path(blob)) for blob in blobs))

    async def scan(self) -> AsyncIterator[list[BlobId]]:
        for shard in range(256):
            found = await self.run(lambda s=shard: _names(self._root / "blobs" / f"{s:02x}"))  # type: ignore[misc]
            # Asked after the folder was read: one that left staging since then is in the index by now, or deleted.
            yield [blob for blob in found if blob not in self._staging]

    async def free_bytes(self) -> int:
        status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize

    def path(self, blob: BlobId) -> Path:
        """Where it is sealed to."""
        return self.folder(blob) / f"{blob}{pieces.SUFFIX}"

    def folder(self, blob: BlobId) -> Path:
        return self._root / "blobs" / blob[:2]

    def staging_path(self, blob: BlobId) -> Path:
        return self._root / "staging" / blob

    def _prepare(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = lock(self._root)
        staging = self._root / "staging"
        if staging.exists():
            shutil.rmtree(staging)
        for folder in (staging, *(self._root / "blobs" / f"{shard:02x}" for shard in range(256))):
            folder.mkdir(parents=True, exist_ok=True)
        fsync_folder(self._root / "blobs")
        fsync_folder(self._root)

    def _sealed(self, blob: BlobId) -> SealedFile:
        return SealedFile(self.folder(blob), blob)

    def _export(self, blobs: Sequence[BlobId], path: Path, *, exact: bool) -> int:
        with _disk_errors():
            try:
                linked = len(blobs) == 1 and not exact
                size = self._link(blobs[0], path) if linked else self._concatenate(blobs, path)
            except (BlobMissing, BlobDamaged):
                path.unlink(missing_ok=True)
                raise
            fsync_folder(path.parent)
        return size

    def _link(self, blob: BlobId, path: Path) -> int:
        with closing(self._sealed(blob)) as file:
            file.open()
            file.verify(0, file.size)
            try:
                os.link(self.path(blob), path)
            except FileNotFoundError as error:
                raise BlobMissing(f"blob {blob} is not there") from error
            return file.size

    def _concatenate(self, blobs: Sequence[BlobId], path: Path) -> int:
        with path.open("xb") as target:
            for blob in blobs:
                with closing(self._sealed(blob)) as file:
                    file.open()
                    position = 0
                    while position < file.size:
                        position += target.write(file.read(position, file.size))
            target.flush()
            os.fchmod(target.fileno(), 0o644)
            os.fsync(target.fileno())
            return target.tell()

    async def run(self, function: Callable[[], Result]) -> Result:
        """Returns only when the thread has ended, also when cancelled: what it works on is then free to go."""
        return await to_the_end(function, executor=self._threads)


class _StagedFile:
    def __init__(self, blobs: FileBlobs, blob: BlobId) -> None:
        self.blob = blob
        self._blobs = blobs
        self._descriptor = -1
        self._size = 0
        self._unflushed = 0
        self._kept = False
        self._shared = False
        self._sums = pieces.Sums()
        self._lent = False

    async def write(self, chunk: bytes) -> None:
        await self._blobs.run(lambda: self._write(chunk))

    async def share(self, blob: BlobId) -> bool:
        return await self._blobs.run(lambda: self._share(blob))

    async def lend(self) -> int | None:
        await self._blobs.run(self._ensure_open)
        self._lent = True
        return self._descriptor

    async def written(self, length: int, use: Callable[[bytes], None]) -> None:
        await self._blobs.run(lambda: self._read_back(length, use))

    async def seal(self) -> None:
        await self._blobs.run(self._seal)

    def keep(self) -> None:
        self._kept = True

    @property
    def settled(self) -> bool:
        """It is kept, and closed."""
        return self._kept and self._descriptor < 0

    def discard(self) -> None:
        """Closes it, and deletes it unless it is kept."""
        self._close()
        if not self._kept:
            _unlink(self._blobs.staging_path(self.blob))
            _unlink(self._blobs.path(self.blob))

    def _write(self, chunk: bytes) -> None:
        assert not self._lent
        with _disk_errors():
            self._ensure_open()
            _write_all(self._descriptor, chunk)
            self._note(chunk)

    def _read_back(self, length: int, use: Callable[[bytes], None]) -> None:
        with _disk_errors():
            end = self._size + length
            while self._size < end:
                chunk = os.pread(self._descriptor, min(_READ_BYTES, end - self._size), self._size)
                if not chunk:
                    raise errors.store_failed("a body is shorter than what was told of it")
                use(chunk)
                self._note(chunk)

    def _note(self, chunk: bytes) -> None:
        """It stands in the file."""
        self._sums.update(chunk)
        self._unflushed += len(chunk)
        self._size += len(chunk)
        if self._unflushed >= _FLUSH_BYTES:
            # Linux starts writing dirty pages at this advice, and does not wait; it drops clean ones alone.
            start = self._size - self._unflushed
            os.posix_fadvise(self._descriptor, start, self._unflushed, os.POSIX_FADV_DONTNEED)
            self._unflushed = 0

    def _share(self, blob: BlobId) -> bool:
        """Another name of the same file."""
        try:
            os.link(self._blobs.path(blob), self._blobs.staging_path(self.blob))
        except FileNotFoundError:
            return False
        except OSError as error:
            # File systems bound the names of one file, and some know no second one.
            if error.errno not in (errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP):
                raise
            return False
        self._shared = True
        return True

    def _seal(self) -> None:
        with _disk_errors():
            if not self._shared:
                self._ensure_open()
                if self._lent:
                    # Whatever else was written behind what was told of.
                    os.ftruncate(self._descriptor, self._size)
                    os.lseek(self._descriptor, self._size, os.SEEK_SET)
                _write_all(self._descriptor, self._sums.footer())
                os.fsync(self._descriptor)
                self._close()
            path = self._blobs.path(self.blob)
            os.rename(self._blobs.staging_path(self.blob), path)
            fsync_folder(path.parent)

    def _ensure_open(self) -> None:
        if self._descriptor < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._blobs.staging_path(self.blob), flags, 0o644)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _OpenFile:
    """drivers/blobs.py OpenBlob."""

    def __init__(self, blobs: FileBlobs, file: SealedFile) -> None:
        self._blobs = blobs
        self._file = file
        self.descriptor = file.descriptor
        self.size = file.size

    async def verify(self, start: int, end: int, *, fresh: bool = False) -> None:
        await self._blobs.run(lambda: self._file.verify(start, end, fresh=fresh))


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def lock(root: Path) -> int:
    """A descriptor that holds the folder for this process. Raises BlockingIOError while another one has it."""
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


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
    names = (Path(name) for name in os.listdir(folder))
    return [BlobId(name.stem) for name in names if name.suffix == pieces.SUFFIX and BlobId.fits(name.stem)]


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

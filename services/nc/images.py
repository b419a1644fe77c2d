"""The node's image cache: whole images by the name of their content, each fetched once, within a hard limit.

A marker beside a file tells how it looked when its whole content was last verified. What an instance stands on is never
dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from common.errors import CloudError, InvalidArgument, NoCapacity, Unavailable
from common.log import get_logger
from common.metrics import counter, gauge
from mallee.nc.v1 import instance_pb2

_log = get_logger(__name__)

_BLOCK_BYTES: Final = 1 << 20
_LOOKUPS: Final = counter("mallee_nc_image_lookups", "Images asked of the node's cache: hit, miss", ("outcome",))
_FETCHED: Final = counter("mallee_nc_image_fetched_bytes", "Bytes of images fetched from Walrus")
_CACHED: Final = gauge("mallee_nc_image_cache_bytes", "Bytes the node's image cache holds")


class ImageSource(Protocol):
    def fetch(self, image: instance_pb2.Image, offset: int) -> AsyncGenerator[bytes, None]:
        """The image's bytes from `offset` on. Raises Denied (ticket), NotFound (no such pin) or Unavailable."""


@dataclass(frozen=True, slots=True)
class _Marker:
    """What the file looked like when its content was last verified: any write changes one of these."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> _Marker:
        seen = path.stat()
        return cls(seen.st_size, seen.st_mtime_ns, seen.st_ino)


class ImageCache:
    """`in_use` names the contents (sha256) that instances of this node stand on.

    `group_id` is the group QEMU reads images by; None leaves the files as they are made.
    """

    def __init__(
        self,
        folder: Path,
        source: ImageSource,
        *,
        limit_bytes: int,
        reserve_bytes: int,
        in_use: Callable[[], Collection[str]],
        group_id: int | None = None,
    ) -> None:
        self._folder = folder
        self._source = source
        self._limit_bytes = limit_bytes
        self._reserve_bytes = reserve_bytes
        self._in_use = in_use
        self._group_id = group_id
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        # Bytes of what is being fetched.
        self._coming: dict[str, int] = {}
        _CACHED.set_function(self._total_bytes)
        # Contents somebody is waiting for or has just been given: not to be dropped either.
        self._held: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def hold(self, image: instance_pb2.Image) -> AsyncIterator[Path]:
        """The verified file of an image; it stays while the context lasts, and after that while it is in use.

        Many callers of one image wait for one fetch. Raises NoCapacity, Denied, NotFound, Unavailable, and
        InvalidArgument if the bytes are not those that were promised.
        """
        content = image.sha256
        if len(content) != 64 or set(content) - set("0123456789abcdef"):
            raise InvalidArgument(f"not a SHA-256: {content!r}")
        self._held[content] += 1
        try:
            async with self._locks[content]:
                path = await self._ensure(image)
            yield path
        finally:
            self._held[content] -= 1
            if not self._held[content]:
                del self._held[content]

    def has(self, sha256: str) -> bool:
        return (self._folder / f"{sha256}.ok").exists()

    async def _ensure(self, image: instance_pb2.Image) -> Path:
        path = self._folder / image.sha256
        if await asyncio.to_thread(self._verify, path):
            _LOOKUPS.labels("hit").inc()
            return path
        _LOOKUPS.labels("miss").inc()
        # On the loop: a handful of names, and two that look for room must not see the same.
        self._make_room(image)
        try:
            await self._fetch(image, path)
        finally:
            del self._coming[image.sha256]
        return path

    def _verify(self, path: Path) -> bool:
        marker = path.with_suffix(".ok")
        try:
            now = _Marker.of(path)
        except FileNotFoundError:
            marker.unlink(missing_ok=True)
            return False
        if now != _known(marker):
            if _sha256_of(path).hexdigest() != path.name:
                _log.warning("a cached image has changed and is fetched again", sha256=path.name)
                marker.unlink(missing_ok=True)
                return False
            _mark(path, marker)
        # The marker's time is that of the last use.
        os.utime(marker)
        return True

    async def _fetch(self, image: instance_pb2.Image, path: Path) -> None:
        """Raises CloudError that names the image: it becomes the instance's StateReason."""
        try:
            await self._fetch_whole(image, path)
        except CloudError as error:
            message = f"the image {image.image_id} could not be fetched: {error.message}"
            raise type(error)(message, code=error.code) from error

    async def _fetch_whole(self, image: instance_pb2.Image, path: Path) -> None:
        part = path.with_suffix(".part")
        for resumed in (True, False):
            if not resumed:
                part.unlink(missing_ok=True)
            if await self._download(image, part) == image.sha256:
                await asyncio.to_thread(self._publish, part, path)
                return
            _log.warning("an image did not arrive as promised", image_id=image.image_id, sha256=image.sha256)
        part.unlink(missing_ok=True)
        raise InvalidArgument("its content is not what it was registered with")

    async def _download(self, image: instance_pb2.Image, part: Path) -> str:
        """Goes on where an earlier try ended; returns the SHA-256 of the whole."""
        with part.open("ab") as file:
            digest = await asyncio.to_thread(_sha256_of, part)
            done = file.tell()
            async with contextlib.aclosing(self._source.fetch(image, done)) as chunks:
                async for chunk in chunks:
                    done += len(chunk)
                    if done > image.size_bytes:
                        return ""
                    await asyncio.to_thread(_append, file.fileno(), digest, chunk)
                    _FETCHED.inc(len(chunk))
        if done < image.size_bytes:
            raise Unavailable(f"it broke off after {done} of {image.size_bytes} bytes")
        return digest.hexdigest()

    def _publish(self, part: Path, path: Path) -> None:
        with part.open("rb") as file:
            os.fsync(file.fileno())
        if self._group_id is not None:
            os.chown(part, -1, self._group_id)
        part.chmod(0o440)
        part.replace(path)
        _mark(path, path.with_suffix(".ok"))

    def _make_room(self, image: instance_pb2.Image) -> None:
        keep = {*self._in_use(), *self._held}
        for content in sorted(self._contents() - keep, key=self._last_use_s):
            if self._fits(image):
                break
            self._drop(content)
        if not self._fits(image):
            raise NoCapacity(f"no room for {image.image_id} ({image.size_bytes} bytes) in the node's image cache")
        self._coming[image.sha256] = image.size_bytes

    def _fits(self, image: instance_pb2.Image) -> bool:
        taken = self._total_bytes(but=image.sha256)
        free = shutil.disk_usage(self._folder).free - self._reserve_bytes
        return taken + image.size_bytes <= self._limit_bytes and image.size_bytes <= free

    def _total_bytes(self, *, but: str = "") -> int:
        """With all of what is on its way, and without the parts of it that are here."""
        coming = sum(size for content, size in self._coming.items() if content != but)
        here = (path for path in self._folder.iterdir() if path.stem not in {*self._coming, but})
        return coming + sum(path.stat().st_size for path in here)

    def _contents(self) -> set[str]:
        return {path.stem for path in self._folder.iterdir()}

    def _last_use_s(self, content: str) -> float:
        try:
            return (self._folder / f"{content}.ok").stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _drop(self, content: str) -> None:
        for suffix in ("", ".ok", ".part"):
            (self._folder / f"{content}{suffix}").unlink(missing_ok=True)


def _sha256_of(path: Path) -> hashlib._Hash:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest


def _append(descriptor: int, digest: hashlib._Hash, chunk: bytes) -> None:
    digest.update(chunk)
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def _known(marker: Path) -> _Marker | None:
    try:
        return _Marker(**json.loads(marker.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _mark(path: Path, marker: Path) -> None:
    seen = _Marker.of(path)
    new = marker.with_suffix(".new")
    new.write_text(json.dumps({"size": seen.size, "mtime_ns": seen.mtime_ns, "inode": seen.inode}))
    new.replace(marker)

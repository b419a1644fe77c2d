"""The node's image cache: whole images by the name of their content, each fetched once, within a hard limit.

Room is taken before the first byte is fetched; the least recently used make it. What an instance stands on is never
dropped. A fetch that was cut short goes on where it ended, for as long as a recorded instance wants it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from common.errors import IMAGE_CACHE_FULL, CloudError, InvalidArgument, NoCapacity, Unavailable
from common.log import get_logger
from common.metrics import counter, gauge
from common.threads import to_the_end
from mallee.nc.v1 import instance_pb2
from services.nc.image_file import append, digest_of, last_use_s, marker_of, publish, verify

_log = get_logger(__name__)

_HEX: Final = frozenset("0123456789abcdef")
_LOOKUPS: Final = counter("mallee_nc_image_lookups", "Images asked of the node's cache: hit, miss", ("outcome",))
_FETCHED: Final = counter("mallee_nc_image_fetched_bytes", "Bytes of images fetched from Walrus")
_DROPPED: Final = counter("mallee_nc_image_dropped", "Images that the node's cache dropped to make room")
_CACHED: Final = gauge("mallee_nc_image_cache_bytes", "Bytes the node's image cache holds, with what is on its way")
_LIMIT: Final = gauge("mallee_nc_image_cache_limit_bytes", "Bytes the node's image cache may hold")


class ImageSource(Protocol):
    def fetch(self, image: instance_pb2.Image, offset: int) -> AsyncGenerator[bytes, None]:
        """The image's bytes from `offset` on. Raises Denied (ticket), NotFound (no such pin) or Unavailable."""


class ImageCache:
    """`in_use` tells the contents (sha256) that instances of this node stand on or wait for, and their sizes.

    The limit holds for images, whole and in part; a marker beside each takes some bytes more. `group_id` is the group
    QEMU reads images by; None leaves the files as they are made.
    """

    def __init__(
        self,
        folder: Path,
        source: ImageSource,
        *,
        limit_bytes: int,
        reserve_bytes: int,
        in_use: Callable[[], Mapping[str, int]],
        group_id: int | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._source = source
        self._limit_bytes = limit_bytes
        self._reserve_bytes = reserve_bytes
        self._in_use = in_use
        self._group_id = group_id
        self._now_s = now_s
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        # Bytes of what is being fetched.
        self._coming: dict[str, int] = {}
        # Contents somebody is waiting for or has just been given: not to be dropped either.
        self._held: Counter[str] = Counter()
        _CACHED.set_function(self._total_bytes)
        _LIMIT.set(limit_bytes)

    def open(self) -> None:
        """Puts in order what an earlier process left, also one with a higher limit."""
        for path in self._folder.iterdir():
            if not _is_content(path.stem) or path.suffix not in ("", ".ok", ".part"):
                path.unlink()
        self.tidy()
        self._drop_until(lambda: self._total_bytes() <= self._limit_bytes)

    def tidy(self) -> None:
        """Takes parts away that nobody is going to complete."""
        wanted = {*self._in_use(), *self._held}
        for part in self._folder.glob("*.part"):
            if part.stem not in wanted:
                part.unlink()

    def check_room(self, images: Iterable[instance_pb2.Image]) -> None:
        """Raises NoCapacity (IMAGE_CACHE_FULL) if they cannot be kept together with all that is in use."""
        wanted = {image.sha256: image.size_bytes for image in images}
        pinned = {**self._in_use(), **wanted}
        missing = sum(size for content, size in wanted.items() if not self.has(content))
        spare = sum(path.stat().st_size for path in self._files() if path.stem not in {*pinned, *self._held})
        if sum(pinned.values()) > self._limit_bytes or missing > self._free_bytes() + spare:
            raise NoCapacity(
                f"this host's image cache has no room for images of {missing} bytes beside those in use",
                code=IMAGE_CACHE_FULL,
            )

    @contextlib.asynccontextmanager
    async def hold(self, image: instance_pb2.Image) -> AsyncIterator[Path]:
        """The verified file of an image; it stays while the context lasts, and after that while it is in use.

        Many callers of one image wait for one fetch. Raises NoCapacity, Denied, NotFound, Unavailable, and
        InvalidArgument if the bytes are not those that were promised.
        """
        content = image.sha256
        if not _is_content(content):
            raise InvalidArgument(f"not a SHA-256: {content!r}")
        self._held[content] += 1
        try:
            async with self._locks[content]:
                path = await self._ensure(image)
            yield path
        finally:
            self._held[content] -= 1
            if not self._held[content]:
                del self._held[content], self._locks[content]

    def has(self, sha256: str) -> bool:
        return marker_of(self._folder / sha256).exists()

    async def _ensure(self, image: instance_pb2.Image) -> Path:
        path = self._folder / image.sha256
        if await to_the_end(partial(verify, path, now_s=self._now_s())):
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
                await to_the_end(partial(publish, part, path, group_id=self._group_id, now_s=self._now_s()))
                return
            _log.warning("an image did not arrive as promised", image_id=image.image_id, sha256=image.sha256)
        part.unlink(missing_ok=True)
        raise InvalidArgument("its content is not what it was registered with")

    async def _download(self, image: instance_pb2.Image, part: Path) -> str:
        """Goes on where an earlier try ended; returns the SHA-256 of the whole."""
        with part.open("ab") as file:
            digest = await to_the_end(partial(digest_of, part))
            done = file.tell()
            async with contextlib.aclosing(self._source.fetch(image, done)) as chunks:
                async for chunk in chunks:
                    done += len(chunk)
                    if done > image.size_bytes:
                        return ""
                    await to_the_end(partial(append, file.fileno(), digest, chunk))
                    _FETCHED.inc(len(chunk))
        if done < image.size_bytes:
            raise Unavailable(f"it broke off after {done} of {image.size_bytes} bytes")
        return digest.hexdigest()

    def _make_room(self, image: instance_pb2.Image) -> None:
        self._drop_until(lambda: self._fits(image))
        if not self._fits(image):
            raise NoCapacity(f"no room for {image.image_id} ({image.size_bytes} bytes) in the node's image cache")
        self._coming[image.sha256] = image.size_bytes

    def _fits(self, image: instance_pb2.Image) -> bool:
        if self._total_bytes(but=image.sha256) + image.size_bytes > self._limit_bytes:
            return False
        return image.size_bytes - self._part_bytes(image.sha256) <= self._free_bytes()

    def _free_bytes(self) -> int:
        """On the disk, without what the host keeps and what is yet to come."""
        coming = sum(size - self._part_bytes(content) for content, size in self._coming.items())
        return shutil.disk_usage(self._folder).free - self._reserve_bytes - coming

    def _part_bytes(self, content: str) -> int:
        try:
            return (self._folder / f"{content}.part").stat().st_size
        except FileNotFoundError:
            return 0

    def _total_bytes(self, *, but: str = "") -> int:
        """With all of what is on its way, and without the parts of it that are here."""
        coming = sum(size for content, size in self._coming.items() if content != but)
        return coming + sum(path.stat().st_size for path in self._files(but={*self._coming, but}))

    def _files(self, *, but: Collection[str] = ()) -> list[Path]:
        return [path for path in self._folder.iterdir() if path.suffix in ("", ".part") and path.stem not in but]

    def _drop_until(self, is_enough: Callable[[], bool]) -> None:
        """The least recently used first, until it is enough or all that is left is needed."""
        keep = {*self._in_use(), *self._held}
        for path in sorted({path.with_suffix("") for path in self._files(but=keep)}, key=last_use_s):
            if is_enough():
                return
            for gone in (path, marker_of(path), path.with_suffix(".part")):
                gone.unlink(missing_ok=True)
            _DROPPED.inc()
            _log.info("an image is dropped to make room", sha256=path.name)


def images_of(spec: instance_pb2.InstanceSpec) -> list[instance_pb2.Image]:
    """That it boots from."""
    return [image for image in (spec.boot.machine, spec.boot.kernel, spec.boot.ramdisk) if image.image_id]


def _is_content(name: str) -> bool:
    return len(name) == 64 and _HEX.issuperset(name)

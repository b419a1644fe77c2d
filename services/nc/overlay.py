"""A VM's root disk: a qcow2 overlay of its size over a cached image. Also the last look at an image before QEMU's.

An image is a user's and hostile. Its format was told at registration and is never guessed here; a qcow2 header that
points anywhere else is refused. https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.txt
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.errors import CloudError, InvalidArgument, NoCapacity

_MAGIC: Final = 0x514649FB
_HEADER: Final = struct.Struct(">IIQIIQI")
_FEATURES: Final = struct.Struct(">Q")
_FEATURES_AT: Final = 72
# Bit 0 dirty, 1 corrupt, 2 external data file, 3 compression type, 4 extended L2 entries.
_HARMLESS_FEATURES: Final = 0b11001
_PROCESSES: Final = 4
_FULL: Final = os.strerror(errno.ENOSPC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    path: Path
    backing: Path
    # raw or qcow2.
    backing_format: str
    # What the guest sees.
    size_bytes: int
    # uid and gid that QEMU runs as; None leaves the file to whoever makes it.
    owner: tuple[int, int] | None


MakeOverlay = Callable[[Overlay], Awaitable[None]]


class QemuOverlays:
    """Implements MakeOverlay with qemu-img, a few processes at a time."""

    def __init__(self) -> None:
        self._at_once = asyncio.Semaphore(_PROCESSES)

    async def __call__(self, overlay: Overlay) -> None:
        """Makes it unless it is there: a guest's disk is never made twice.

        Raises InvalidArgument if the image does not fit (code InvalidParameterCombination) or is not what it was said
        to be, NoCapacity if the disk is full, CloudError if qemu-img fails otherwise.
        """
        if overlay.path.exists():
            return
        await asyncio.to_thread(check_backing, overlay)
        new = overlay.path.with_name(overlay.path.name + ".new")
        async with self._at_once:
            await _qemu_img(
                *("create", "-q", "-f", "qcow2"),
                *("-b", str(overlay.backing), "-F", overlay.backing_format, "-o", "lazy_refcounts=on"),
                *(str(new), str(overlay.size_bytes)),
            )
        _give(new, overlay.owner)
        new.replace(overlay.path)


async def ensure_empty_overlay(overlay: Overlay) -> None:
    """For a hypervisor without guests: the same checks, and a sparse file that stands for the disk."""
    if overlay.path.exists():
        return
    await asyncio.to_thread(check_backing, overlay)
    overlay.path.touch(0o600)


def make_space(path: Path, size_bytes: int, owner: tuple[int, int] | None) -> None:
    """An empty disk that takes what is written to it. One that is there is left alone. Blocks."""
    if path.exists():
        return
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.truncate(size_bytes)
    _give(new, owner)
    new.replace(path)


def check_backing(overlay: Overlay) -> None:
    with overlay.backing.open("rb") as file:
        header = file.read(_FEATURES_AT + _FEATURES.size)
        size = os.fstat(file.fileno()).st_size
    guest_bytes = size if overlay.backing_format == "raw" else plain_qcow2_bytes(header)
    if guest_bytes > overlay.size_bytes:
        raise InvalidArgument(
            f"the image is a disk of {guest_bytes} bytes and the instance type has one of {overlay.size_bytes}",
            code="InvalidParameterCombination",
        )


def plain_qcow2_bytes(header: bytes) -> int:
    """The virtual size of a qcow2 that stands alone. Raises InvalidArgument for anything else. Pure."""
    if len(header) < _FEATURES_AT + _FEATURES.size:
        raise InvalidArgument("the image is too short for a qcow2")
    magic, version, backing_at, _backing_length, _cluster_bits, size, encryption = _HEADER.unpack_from(header)
    if magic != _MAGIC or version not in (2, 3):
        raise InvalidArgument("the image is not a qcow2 of version 2 or 3")
    if backing_at:
        raise InvalidArgument("the image names a backing file")
    if encryption:
        raise InvalidArgument("the image is encrypted")
    (features,) = _FEATURES.unpack_from(header, _FEATURES_AT) if version == 3 else (0,)
    if features & ~_HARMLESS_FEATURES:
        raise InvalidArgument("the image has an external data file, is corrupt, or of a kind that is not known here")
    return int(size)


def _give(path: Path, owner: tuple[int, int] | None) -> None:
    path.chmod(0o600)
    if owner is not None:
        os.chown(path, *owner)


async def _qemu_img(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "qemu-img", *arguments, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, error = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    if process.returncode != 0:
        words = error.decode(errors="replace").strip()
        raise (NoCapacity if _FULL in words else CloudError)(f"qemu-img: {words}")

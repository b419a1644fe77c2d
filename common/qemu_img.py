"""qemu-img on the images of users: asked what it sees, or told to make a raw disk of one, in a confined process.

It is told the format, and is never asked about an image whose header would make it open another file (disk_image.py).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any, Final

from common.confined import Limits, Refused, TookTooLong, lent, run_confined
from common.disk_image import refused
from common.errors import InvalidArgument, Unavailable
from common.threads import to_the_end

_LOOK: Final = Limits(cpu_s=10, wall_s=20.0)
# Of a disk that is as large as any here; most of that is time in which others run.
_CONVERT_CPU_S, _CONVERT_WALL_S = 3600, 4 * 3600.0
# Of qemu-img check: clusters that nothing uses, and no worse.
_LEAKS: Final = 3


async def confirm(path: Path, image_format: str, virtual_size: int) -> None:
    """Raises InvalidArgument if qemu-img sees anything but a self-contained, sound image of that format and size."""
    said = await _look(path, image_format)
    inner = said.get("format-specific", {}).get("data", {})
    suspicious = [key for key in ("backing-filename", "full-backing-filename", "snapshots") if said.get(key)]
    suspicious += [key for key in ("data-file", "encrypt", "corrupt") if inner.get(key)]
    if said.get("encrypted") or said.get("dirty-flag"):
        suspicious.append("encrypted or dirty")
    if said.get("format") != image_format or said.get("virtual-size") != virtual_size or suspicious:
        raise _not_ours(f"qemu-img describes it otherwise than its header ({', '.join(suspicious) or 'format, size'})")


async def check(path: Path, image_format: str) -> None:
    """Raises InvalidArgument if part of it is not there, which would be read as zeros. It reads all of its tables."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    limits = Limits(cpu_s=_CONVERT_CPU_S, wall_s=_CONVERT_WALL_S)
    try:
        command = ["qemu-img", "check", "-q", "-U", "-f", image_format, f"/dev/fd/{descriptor}"]
        await _run(command, limits, descriptor, fine=(0, _LEAKS))
    finally:
        os.close(descriptor)


async def convert_to_raw(source: Path, image_format: str, target: Path, virtual_size: int) -> None:
    """`target` is made anew, sparse, as large as the disk. Raises InvalidArgument."""
    limits = Limits(cpu_s=_CONVERT_CPU_S, wall_s=_CONVERT_WALL_S, file_bytes=virtual_size + 4096)
    old = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        new = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(new, virtual_size)
            options = ["--target-is-zero", "-n", "-S", "4k", "--image-opts", "--target-image-opts"]
            wanted = [_options(image_format, old), _options("raw", new)]
            await _run(["qemu-img", "convert", *options, *wanted], limits, old, new)
            # As long as it takes: gigabytes may wait for the disk.
            await to_the_end(partial(os.fsync, new))
        finally:
            os.close(new)
    finally:
        os.close(old)


async def convert_from_nbd(socket: Path, name: str, image_format: str, target: Path) -> None:
    """A disk that an NBD server on this host shows, as one image file that is made anew. It is ours to trust."""
    options = ["-o", "subformat=streamOptimized"] if image_format == "vmdk" else []
    source = f"driver=nbd,server.type=unix,server.path={socket},export={name}"
    command = ["qemu-img", "convert", "--image-opts", "-S", "4k", "-O", image_format, *options, source, str(target)]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, error = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise Unavailable(f"the image could not be written: {error.decode('utf-8', 'replace').strip()[-400:]}")


def _options(image_format: str, descriptor: int) -> str:
    """No other file is opened, whatever the image says."""
    backing = "" if image_format == "raw" else ",backing="
    return f"driver={image_format},file.driver=file,file.locking=off,file.filename=/dev/fd/{descriptor}{backing}"


async def _look(path: Path, image_format: str) -> dict[str, Any]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        command = ["qemu-img", "info", "-U", "--output=json", "-f", image_format, f"/dev/fd/{descriptor}"]
        out = await _run(command, _LOOK, descriptor)
    finally:
        os.close(descriptor)
    try:
        said: dict[str, Any] = json.loads(out)
    except ValueError:
        raise _not_ours("qemu-img's answer is no JSON") from None
    return said


async def _run(command: list[str], limits: Limits, *descriptors: int, fine: Collection[int] = (0,)) -> bytes:
    try:
        with lent(*descriptors):
            return await run_confined(command, limits, pass_fds=descriptors, fine=fine)
    except TookTooLong:
        raise _not_ours("qemu-img did not come to an end with it") from None
    except Refused as error:
        said = str(error)
        for descriptor in descriptors:
            said = said.replace(f"/dev/fd/{descriptor}", "the image")
        raise _not_ours(said) from None


def _not_ours(what: str) -> InvalidArgument:
    return refused(what, "make it anew with qemu-img convert -O qcow2 IMAGE NEW.qcow2")

"""A disk image in a bucket becomes a snapshot: fetched, looked at, made raw, and uploaded as any other.

Each step leaves a file that says it is done, so that a controller that was killed goes on where it was.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from common import disk_image, qemu_img
from common.disk_image import HEADER_BYTES, SECTOR_BYTES, refused
from common.ids import AccountId, SnapshotId
from mallee.sc.v1 import snapshot_pb2
from mallee.sc.v1.snapshot_pb2 import ImportSpec
from services.sc.clients import Objects, Progress, Upload, Uploaded, Uploader
from services.sc.image_content import FORMATS, ImageContent
from services.sc.room import Room, settle

# Parts of the whole, of a thousand.
_WHOLE, _FETCHED, _CONVERTED = 1000, 400, 500

Tell = Callable[[Progress], None]


class Imports:
    """Use `run` as the Import of Snapshots. `reserve_bytes` of the file system stay free."""

    def __init__(self, objects: Objects, uploader: Uploader, *, reserve_bytes: int) -> None:
        self._objects = objects
        self._uploader = uploader
        self._disk = Room("read the image", reserve_bytes=reserve_bytes)

    async def run(self, spec: ImportSpec, folder: Path, tell: Tell) -> tuple[Uploaded, int]:
        """What was uploaded, and the size of the disk. Raises NoCapacity, InvalidArgument if it is refused."""
        raw = folder / "disk.raw"
        if not raw.exists():
            fetched = folder / "object"
            await self._fetch(spec, fetched, tell)
            await self._make_raw(spec, fetched, raw)
        _tell_part(tell, _CONVERTED)
        content = ImageContent(raw)
        notes = folder / "upload"
        notes.mkdir(exist_ok=True)
        upload = Upload(
            snapshot_id=SnapshotId(spec.snapshot_id),
            account_id=AccountId(spec.account_id),
            base=None,
            content=content,
            notes=notes,
        )
        return await self._uploader.upload(upload, lambda progress: _tell_upload(tell, progress)), content.size_bytes

    async def _fetch(self, spec: ImportSpec, into: Path, tell: Tell) -> None:
        def heard(here: int, total: int) -> None:
            self._disk.check(into.parent, total - here)
            if total > 2 * spec.most_bytes + HEADER_BYTES:
                raise refused(f"its file has {total} bytes", f"a disk has at most {spec.most_bytes}")
            _tell_part(tell, _FETCHED * here // max(1, total))

        source = spec.source
        account = AccountId(source.account_id)
        await self._objects.fetch(account, source.bucket, source.key, into, heard)

    async def _make_raw(self, spec: ImportSpec, fetched: Path, raw: Path) -> None:
        head, size = await asyncio.to_thread(_head, fetched)
        image_format = format_of(head, spec.format)
        virtual_size = virtual_size_of(head, size, image_format)
        if virtual_size > spec.most_bytes:
            raise refused(f"a disk of {virtual_size} bytes is too large", f"make it {spec.most_bytes} bytes or smaller")
        if image_format != "raw":
            await qemu_img.confirm(fetched, image_format, virtual_size)
            await qemu_img.check(fetched, image_format)
            self._disk.check(raw.parent, virtual_size)
            made = raw.with_suffix(".part")
            await self._disk.within(made, lambda: qemu_img.convert_to_raw(fetched, image_format, made, virtual_size))
            await asyncio.to_thread(_settle, made, raw, fetched)
        else:
            await asyncio.to_thread(_settle, fetched, raw)


def format_of(head: bytes, said: snapshot_pb2.DiskFormat.ValueType) -> str:
    """Told once, by the content; what the user said must be that. Raises InvalidArgument."""
    if head.startswith(disk_image.QCOW2_MAGIC):
        found = "qcow2"
    elif head.startswith(disk_image.VMDK_MAGIC):
        found = "vmdk"
    elif name := disk_image.foreign_format(head) or disk_image.compression(head):
        raise refused(f"its format is {name}", "convert it: qemu-img convert -O qcow2 IMAGE NEW.qcow2")
    else:
        found = "raw"
    wanted = FORMATS.get(said, found)
    if wanted != found:
        raise refused(f"it is {found}, not {wanted}", "name its format rightly")
    return found


def virtual_size_of(head: bytes, size: int, image_format: str) -> int:
    """Of the disk that a guest would see. Raises InvalidArgument."""
    match image_format:
        case "qcow2":
            return disk_image.qcow2_virtual_size(head)
        case "vmdk":
            return disk_image.vmdk_virtual_size(head)
        case _ if not size:
            raise refused("it is empty", "upload it again")
        case _ if size % SECTOR_BYTES:
            raise refused("it ends within a sector", f"pad it: truncate -s %{SECTOR_BYTES} IMAGE")
        case _:
            return size


def _settle(made: Path, raw: Path, *spent: Path) -> None:
    """The disk is whole from here on, after the host's own crash too."""
    settle(made, raw)
    for path in spent:
        path.unlink()


def _head(path: Path) -> tuple[bytes, int]:
    with path.open("rb") as file:
        return file.read(HEADER_BYTES), os.fstat(file.fileno()).st_size


def _tell_part(tell: Tell, part: int) -> None:
    tell(Progress(looked_at_bytes=part, to_look_at_bytes=_WHOLE))


def _tell_upload(tell: Tell, progress: Progress) -> None:
    left = _WHOLE - _CONVERTED
    _tell_part(tell, _CONVERTED + left * progress.looked_at_bytes // max(1, progress.to_look_at_bytes))

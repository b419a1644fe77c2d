"""Rules of images: what their first bytes say. Pure; everything here is read from hostile bytes.

A machine image that begins with qcow2's magic must be a clean qcow2; every other one is raw, and never guessed again.
Formats that some hypervisor would recognise are refused rather than run as a raw disk that cannot boot.
https://docs.kernel.org/arch/x86/boot.html
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from common.disk_image import (
    COMPRESSED,
    QCOW2_MAGIC,
    SECTOR_BYTES,
    compression,
    foreign_format,
    qcow2_virtual_size,
    refused,
)

_CPIO: Final = (b"070701", b"070702", b"\xc7\x71")
_RAMDISKS: Final = (*(magic for magic, _ in COMPRESSED), *_CPIO)


class Kind(enum.Enum):
    MACHINE = "machine"
    KERNEL = "kernel"
    RAMDISK = "ramdisk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """What an image is by its own bytes; a qcow2 has yet to be confirmed by qemu-img."""

    kind: Kind
    # raw or qcow2
    format: str
    virtual_size: int


def looks(head: bytes, size: int, wanted: Kind | None) -> Looks:
    """`head`: its first HEADER_BYTES. `wanted` None: the content decides. Raises InvalidArgument with what to do."""
    if size == 0:
        raise refused("it is empty", "upload it again")
    kind = wanted or kind_of(head)
    match kind:
        case Kind.KERNEL:
            if not _is_kernel(head):
                raise refused("it is not a Linux kernel (bzImage)", "register the vmlinuz file of a distribution")
            return Looks(kind=kind, format="raw", virtual_size=size)
        case Kind.RAMDISK:
            if not head.startswith(_RAMDISKS):
                raise refused("it is not a ramdisk (cpio, gzip, zstd, xz …)", "register the initrd file")
            return Looks(kind=kind, format="raw", virtual_size=size)
        case Kind.MACHINE:
            return _machine(head, size)


def kind_of(head: bytes) -> Kind:
    if _is_kernel(head):
        return Kind.KERNEL
    return Kind.RAMDISK if head.startswith(_RAMDISKS) else Kind.MACHINE


def _is_kernel(head: bytes) -> bool:
    return head[0x1FE:0x200] == b"\x55\xaa" and head[0x202:0x206] == b"HdrS"


def _machine(head: bytes, size: int) -> Looks:
    if head.startswith(QCOW2_MAGIC):
        return Looks(kind=Kind.MACHINE, format="qcow2", virtual_size=qcow2_virtual_size(head))
    if name := foreign_format(head):
        raise refused(f"its format is {name}", "convert it: qemu-img convert -O qcow2 IMAGE NEW.qcow2")
    if name := compression(head):
        raise refused(f"it is compressed ({name})", "decompress it before the upload")
    if size % SECTOR_BYTES:
        raise refused(
            f"a raw disk has whole sectors of {SECTOR_BYTES} bytes, this one ends within a sector",
            f"pad it: truncate -s %{SECTOR_BYTES} IMAGE",
        )
    return Looks(kind=Kind.MACHINE, format="raw", virtual_size=size)

"""Rules of images: what their first bytes say. Pure; everything here is read from hostile bytes.

A machine image that begins with qcow2's magic must be a clean qcow2; every other one is raw, and never guessed again.
Formats that some hypervisor would recognise are refused rather than run as a raw disk that cannot boot.
https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.txt
https://docs.kernel.org/arch/x86/boot.html
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

from common.errors import InvalidArgument

# Enough for every header that is looked at: qcow2 keeps its own within the first cluster.
HEADER_BYTES: Final = 64 << 10
SECTOR_BYTES: Final = 512
# Far above any disk here, far below what overflows a node's arithmetic.
_VIRTUAL_BYTES: Final = 64 << 40

_QCOW2_MAGIC: Final = b"QFI\xfb"
_FOREIGN: Final = (
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (0, b"QED\0", "QED"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (0, b"OOOO CPC ", "Bochs"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0x40, b"\x7f\x10\xda\xbe", "VDI"),
)
_COMPRESSED: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x89LZO\0", "lzo"),
    (b"BZh", "bzip2"),
)
_CPIO: Final = (b"070701", b"070702", b"\xc7\x71")
_RAMDISKS: Final = (*(magic for magic, _ in _COMPRESSED), *_CPIO)


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
        raise _refused("it is empty", "upload it again")
    kind = wanted or kind_of(head)
    match kind:
        case Kind.KERNEL:
            if not _is_kernel(head):
                raise _refused("it is not a Linux kernel (bzImage)", "register the vmlinuz file of a distribution")
            return Looks(kind=kind, format="raw", virtual_size=size)
        case Kind.RAMDISK:
            if not head.startswith(_RAMDISKS):
                raise _refused("it is not a ramdisk (cpio, gzip, zstd, xz …)", "register the initrd file")
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
    if head.startswith(_QCOW2_MAGIC):
        return Looks(kind=Kind.MACHINE, format="qcow2", virtual_size=qcow2_virtual_size(head))
    for offset, magic, name in _FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            raise _refused(f"its format is {name}", "convert it: qemu-img convert -O qcow2 IMAGE NEW.qcow2")
    for magic, name in _COMPRESSED:
        if head.startswith(magic):
            raise _refused(f"it is compressed ({name})", "decompress it before the upload")
    if size % SECTOR_BYTES:
        raise _refused(
            f"a raw disk has whole sectors of {SECTOR_BYTES} bytes, this one ends within a sector",
            f"pad it: truncate -s %{SECTOR_BYTES} IMAGE",
        )
    return Looks(kind=Kind.MACHINE, format="raw", virtual_size=size)


def qcow2_virtual_size(head: bytes) -> int:
    """Of a qcow2 that stands for itself. Refuses one that would make QEMU open anything else, or repair it."""
    try:
        version, backing_offset, _, _, virtual_size, encryption = struct.unpack_from(">IQIIQI", head, 4)
        (snapshots,) = struct.unpack_from(">I", head, 60)
        features, header_length = 0, 72
        if version == 3:
            (features,) = struct.unpack_from(">Q", head, 72)
            (header_length,) = struct.unpack_from(">I", head, 100)
    except struct.error:
        raise _refused("its qcow2 header is cut off", "upload it again") from None
    if version not in (2, 3):
        raise _refused(f"qcow2 version {version} is not known", "convert it: qemu-img convert -O qcow2 IMAGE NEW.qcow2")
    if backing_offset:
        raise _refused("it has a backing file", "make it whole: qemu-img convert -O qcow2 IMAGE NEW.qcow2")
    if encryption:
        raise _refused("it is encrypted", "decrypt it: qemu-img convert")
    if snapshots:
        raise _refused("it has internal snapshots", "make it plain: qemu-img convert -O qcow2 IMAGE NEW.qcow2")
    _check_features(features)
    _check_extensions(head, header_length)
    if not 0 < virtual_size <= _VIRTUAL_BYTES or virtual_size % SECTOR_BYTES:
        raise _refused(f"a disk of {virtual_size} bytes cannot be", "make it anew")
    return int(virtual_size)


def _check_features(features: int) -> None:
    dirty, corrupt, data_file, compression, extended_l2 = (1 << bit for bit in range(5))
    if features & data_file:
        raise _refused("its data are in an external file", "make it whole: qemu-img convert -O qcow2 IMAGE NEW.qcow2")
    if features & (dirty | corrupt):
        raise _refused("it was not closed cleanly or is corrupt", "repair it: qemu-img check -r all IMAGE")
    if features & ~(compression | extended_l2):
        raise _refused("it uses qcow2 features that are not known", "convert it with an older qemu-img")


_BACKING_FORMAT: Final = 0xE2792ACA
_DATA_FILE: Final = 0x44415441
_ENCRYPTION: Final = 0x0537BE77


def _check_extensions(head: bytes, offset: int) -> None:
    while True:
        try:
            kind, length = struct.unpack_from(">II", head, offset)
        except struct.error:
            raise _refused("its qcow2 header is not well-formed", "upload it again") from None
        if kind == 0:
            return
        if kind in (_BACKING_FORMAT, _DATA_FILE, _ENCRYPTION):
            raise _refused(
                "it names a backing file, an external data file or an encryption key",
                "make it whole: qemu-img convert -O qcow2 IMAGE NEW.qcow2",
            )
        offset += 8 + (length + 7) // 8 * 8


def _refused(what: str, remedy: str) -> InvalidArgument:
    return InvalidArgument(f"The image is refused: {what}. What to do: {remedy}.")

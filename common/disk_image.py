"""Rules of disk images: what their first bytes say. Pure; everything here is read from hostile bytes.

What would make QEMU open another file, or repair the image, is refused.
https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.txt
https://github.com/libyal/libvmdk/blob/main/documentation/VMWare%20Virtual%20Disk%20Format%20(VMDK).asciidoc
"""

from __future__ import annotations

import re
import struct
from typing import Final

from common.errors import InvalidArgument

# Enough for every header that is looked at: qcow2 keeps its own within the first cluster, VMDK its descriptor.
HEADER_BYTES: Final = 64 << 10
SECTOR_BYTES: Final = 512
# Far above any disk here, far below what overflows a node's arithmetic.
_VIRTUAL_BYTES: Final = 64 << 40

QCOW2_MAGIC: Final = b"QFI\xfb"
VMDK_MAGIC: Final = b"KDMV"
FOREIGN: Final = (
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
COMPRESSED: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x89LZO\0", "lzo"),
    (b"BZh", "bzip2"),
)


def foreign_format(head: bytes) -> str | None:
    """The name of a format that some hypervisor would recognise."""
    return next((name for offset, magic, name in FOREIGN if head[offset : offset + len(magic)] == magic), None)


def compression(head: bytes) -> str | None:
    return next((name for magic, name in COMPRESSED if head.startswith(magic)), None)


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
        raise refused("its qcow2 header is cut off", "upload it again") from None
    if version not in (2, 3):
        raise refused(f"qcow2 version {version} is not known", "convert it: qemu-img convert -O qcow2 IMAGE NEW.qcow2")
    if backing_offset:
        raise refused("it has a backing file", "make it whole: qemu-img convert -O qcow2 IMAGE NEW.qcow2")
    if encryption:
        raise refused("it is encrypted", "decrypt it: qemu-img convert")
    if snapshots:
        raise refused("it has internal snapshots", "make it plain: qemu-img convert -O qcow2 IMAGE NEW.qcow2")
    _check_features(features)
    _check_extensions(head, header_length)
    if not 0 < virtual_size <= _VIRTUAL_BYTES or virtual_size % SECTOR_BYTES:
        raise refused(f"a disk of {virtual_size} bytes cannot be", "make it anew")
    return int(virtual_size)


def _check_features(features: int) -> None:
    dirty, corrupt, data_file, compression, extended_l2 = (1 << bit for bit in range(5))
    if features & data_file:
        raise refused("its data are in an external file", "make it whole: qemu-img convert -O qcow2 IMAGE NEW.qcow2")
    if features & (dirty | corrupt):
        raise refused("it was not closed cleanly or is corrupt", "repair it: qemu-img check -r all IMAGE")
    if features & ~(compression | extended_l2):
        raise refused("it uses qcow2 features that are not known", "convert it with an older qemu-img")


_BACKING_FORMAT: Final = 0xE2792ACA
_DATA_FILE: Final = 0x44415441
_ENCRYPTION: Final = 0x0537BE77


def _check_extensions(head: bytes, offset: int) -> None:
    while True:
        try:
            kind, length = struct.unpack_from(">II", head, offset)
        except struct.error:
            raise refused("its qcow2 header is not well-formed", "upload it again") from None
        if kind == 0:
            return
        if kind in (_BACKING_FORMAT, _DATA_FILE, _ENCRYPTION):
            raise refused(
                "it names a backing file, an external data file or an encryption key",
                "make it whole: qemu-img convert -O qcow2 IMAGE NEW.qcow2",
            )
        offset += 8 + (length + 7) // 8 * 8


_PARENT: Final = re.compile(rb"^\s*parentFileNameHint\s*=", re.MULTILINE | re.IGNORECASE)
_PARENT_ID: Final = re.compile(rb"^\s*parentCID\s*=\s*([0-9a-f]{1,8})\s*$", re.MULTILINE | re.IGNORECASE)
_KINDS: Final = re.compile(rb'^\s*createType\s*=\s*"(monolithicSparse|streamOptimized)"\s*$', re.MULTILINE)
_NO_PARENT: Final = b"ffffffff"
_VMDK_REMEDY: Final = "export it as one file of its own (streamOptimized)"


def vmdk_virtual_size(head: bytes) -> int:
    """Of a VMDK that is one sparse file and stands for itself.

    QEMU reads the descriptor's list of extents, which may name other files, where the header says no size: refused.
    """
    try:
        version, _, sectors, _, descriptor_at, descriptor_sectors = struct.unpack_from("<IIQQQQ", head, 4)
    except struct.error:
        raise refused("its VMDK header is cut off", "upload it again") from None
    if version not in (1, 2, 3):
        raise refused(f"VMDK version {version} is not known", _VMDK_REMEDY)
    start, length = descriptor_at * SECTOR_BYTES, descriptor_sectors * SECTOR_BYTES
    if not start or not length or start + length > len(head):
        raise refused("its VMDK descriptor is not at its beginning", _VMDK_REMEDY)
    descriptor = head[start : start + length].rstrip(b"\0").replace(b"\r", b"")
    parent = _PARENT_ID.search(descriptor)
    if _PARENT.search(descriptor) or (parent and parent[1].lower().rjust(8, b"0") != _NO_PARENT):
        raise refused("it builds on another disk", _VMDK_REMEDY)
    if not _KINDS.search(descriptor):
        raise refused("it is not one sparse VMDK file", _VMDK_REMEDY)
    if not 0 < sectors * SECTOR_BYTES <= _VIRTUAL_BYTES:
        raise refused(f"a disk of {sectors * SECTOR_BYTES} bytes cannot be", "make it anew")
    return int(sectors * SECTOR_BYTES)


def refused(what: str, remedy: str) -> InvalidArgument:
    return InvalidArgument(f"The image is refused: {what}. What to do: {remedy}.")

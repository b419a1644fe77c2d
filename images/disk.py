"""File systems and disks as plain files: an ext4 root, and a disk that boots by itself. No loop devices, no mounts."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from images.packages import run

ROOT_BYTES: Final = 64 << 20
_BOOT_BYTES: Final = 48 << 20
_SECTOR: Final = 512
# Where the first partition begins: what every partitioning tool of today does.
_ALIGN: Final = 1 << 20

_FAT32_LBA: Final = 0x0C
_LINUX: Final = 0x83
_ACTIVE: Final = 0x80
_SIGNATURE: Final = 0x4D4C4C45


def make_ext4(tree: Path, image: Path, *, size_bytes: int) -> None:
    """With the tree's files, owners and modes."""
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(size_bytes)
    run(
        [
            *("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1", "-L", "mallee-root"),
            *("-E", "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0", "-d", str(tree), str(image)),
        ],
        env={"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFiles:
    kernel: Path
    ramdisk: Path
    configuration: Path


def make_disk(image: Path, *, root: Path, boot: BootFiles, unpacked: Path) -> None:
    """MBR; a FAT partition with syslinux, kernel and ramdisk; the root file system as the second partition.

    `unpacked` holds syslinux and mtools, which write into the file.
    """
    root_start = _ALIGN + _BOOT_BYTES
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.write(_boot_record(unpacked, root_start))
        file.truncate(root_start + ROOT_BYTES)
    _make_boot_partition(image, boot, unpacked)
    _copy_sparsely(root, image, root_start)


def make_qcow2(raw: Path, image: Path, *, compressed: bool = False) -> None:
    form = ["-c", "-o", "compression_type=zstd"] if compressed else []
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *form, str(raw), str(image)])


def _boot_record(unpacked: Path, root_start: int) -> bytes:
    """syslinux's boot code, which starts the active partition, and the partition table."""
    code = (unpacked / "usr/lib/syslinux/mbr/mbr.bin").read_bytes()
    table = _partition(_ACTIVE, _FAT32_LBA, _ALIGN, _BOOT_BYTES) + _partition(0, _LINUX, root_start, ROOT_BYTES)
    return code.ljust(440, b"\0") + struct.pack("<IH", _SIGNATURE, 0) + table.ljust(64, b"\0") + b"\x55\xaa"


def _partition(active: int, kind: int, start: int, size: int) -> bytes:
    # Cylinders, heads and sectors say "see the sector numbers".
    nowhere = b"\xfe\xff\xff"
    return struct.pack("<B3sB3sII", active, nowhere, kind, nowhere, start // _SECTOR, size // _SECTOR)


def _make_boot_partition(image: Path, boot: BootFiles, unpacked: Path) -> None:
    mtools = str(unpacked / "usr/bin/mtools")
    drive = f"{image}@@{_ALIGN}"
    environment = {
        # mtools would refuse a partition whose size is no multiple of a track.
        "MTOOLS_SKIP_CHECK": "1",
        "MTOOLSRC": "/dev/null",
        "PATH": f"{unpacked / 'usr/bin'}:{os.environ['PATH']}",
    }
    tracks = _BOOT_BYTES // _SECTOR // 32 // 64
    geometry = ["-t", str(tracks), "-h", "64", "-n", "32", "-H", str(_ALIGN // _SECTOR)]
    run([mtools, "-c", "mformat", "-i", drive, *geometry, "-N", f"{_SIGNATURE:08x}", "::"], env=environment)
    for source, name in ((boot.kernel, "vmlinuz"), (boot.ramdisk, "ramdisk"), (boot.configuration, "syslinux.cfg")):
        run([mtools, "-c", "mcopy", "-i", drive, str(source), f"::{name}"], env=environment)
    run([str(unpacked / "usr/bin/syslinux"), "--install", "--offset", str(_ALIGN), str(image)], env=environment)


def _copy_sparsely(source: Path, image: Path, offset: int) -> None:
    block_bytes = 1 << 16
    zeros = bytes(block_bytes)
    with source.open("rb") as reader, image.open("r+b") as writer:
        while block := reader.read(block_bytes):
            if block != zeros:
                writer.seek(offset)
                writer.write(block)
            offset += len(block)

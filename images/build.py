"""Builds the small guest image from Debian packages: `python -m images.build --out FOLDER`.

    vmlinuz         Debian's kernel for virtual machines
    ramdisk         loads the drivers and mounts the root named by `root=`
    machine.img     the root file system, raw ext4: with the two above it is a machine
    disk.img        the same as a disk that boots by itself, raw
    disk.qcow2      and as qcow2

A second run with the same inputs finds its result; `packages/` keeps what was fetched.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from images import cpio
from images.disk import ROOT_BYTES, BootFiles, make_disk, make_ext4, make_qcow2
from images.kept import Kept, Report
from images.packages import BOOT_LOADER_PACKAGES, KERNEL, ROOT_PACKAGES, ImageBuildError, fetch, unpack
from images.trees import GUEST, make_ramdisk_tree, make_root_tree


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestImage:
    """Files of one build. `machine` runs with `kernel` and `ramdisk`; each `disk` runs alone."""

    kernel: Path
    ramdisk: Path
    machine: Path
    disk_raw: Path
    disk_qcow2: Path

    @staticmethod
    def at(folder: Path) -> GuestImage:
        return GuestImage(
            kernel=folder / "vmlinuz",
            ramdisk=folder / "ramdisk",
            machine=folder / "machine.img",
            disk_raw=folder / "disk.img",
            disk_qcow2=folder / "disk.qcow2",
        )

    def files(self) -> tuple[Path, ...]:
        return (self.kernel, self.ramdisk, self.machine, self.disk_raw, self.disk_qcow2)


def build(out: Path, report: Report = lambda step, share: None, *, refresh: bool = False) -> GuestImage:
    """The image in `out`, built if it is not there already. `refresh` asks Debian for newer packages.

    Needs root (file owners), amd64, apt, dpkg, mke2fs and qemu-img. Raises ImageBuildError.
    """
    image = GuestImage.at(out)

    def make(work: Path) -> None:
        report("fetching Debian packages", 0.0)
        wanted = (KERNEL, *ROOT_PACKAGES, *BOOT_LOADER_PACKAGES)
        _build_in(work, fetch(out / "packages", wanted, refresh=refresh), report)

    Kept(folder=out, files=image.files(), parts=GUEST).ensure(make, report, refresh=refresh)
    return image


def _build_in(work: Path, packages: list[Path], report: Report) -> None:
    unpacked, made = work / "unpacked", GuestImage.at(work)
    report("unpacking", 0.2)
    unpack(packages, unpacked)
    (kernel,) = unpacked.glob("boot/vmlinuz-*")
    shutil.copyfile(kernel, made.kernel)
    report("making the ramdisk", 0.5)
    make_ramdisk_tree(unpacked, work / "ramdisk-tree")
    made.ramdisk.write_bytes(cpio.pack(work / "ramdisk-tree"))
    report("making the root file system", 0.6)
    make_root_tree(unpacked, work / "root-tree")
    make_ext4(work / "root-tree", made.machine, size_bytes=ROOT_BYTES)
    report("making the disk that boots by itself", 0.8)
    boot = BootFiles(kernel=made.kernel, ramdisk=made.ramdisk, configuration=GUEST / "syslinux.cfg")
    make_disk(made.disk_raw, root=made.machine, boot=boot, unpacked=unpacked)
    make_qcow2(made.disk_raw, made.disk_qcow2)


def main(
    out: Annotated[Path, typer.Option(help="The folder to put the image into.")],
    refresh: Annotated[bool, typer.Option(help="Take newer packages if Debian has them.")] = False,
) -> None:
    """Build the small guest image from Debian packages."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as bars:
            task = bars.add_task("guest image", total=1.0)
            image = build(
                out, lambda step, share: bars.update(task, description=step, completed=share), refresh=refresh
            )
    except ImageBuildError as error:
        print(f"guest image: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    for file in image.files():
        print(file)


if __name__ == "__main__":
    typer.run(main)

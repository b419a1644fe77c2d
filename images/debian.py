"""Builds the image debian-12: what debootstrap makes of Debian's packages, with cloud-init.

    vmlinuz         Debian's kernel for virtual machines
    ramdisk         loads the drivers and mounts the root named by `root=`
    machine.qcow2   the root file system; cloud-init grows it to the disk that it finds itself on

The kernel belongs to the image and not to the root, as the image's kernel id says: apt in the guest never changes what
boots. Its modules are in the root.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from images import cpio
from images.disk import make_ext4, make_qcow2
from images.kept import Kept, Report
from images.mirror import make_mirror
from images.packages import KERNEL, ImageBuildError, fetch, run, unpack
from images.trees import make_ramdisk_tree

PARTS: Final = Path(__file__).parent / "debian-12"
SUITE: Final = "bookworm"
VERSION: Final = "12"
# It fits the smallest disk that a type can have.
ROOT_BYTES: Final = 1 << 30

_BOOT_PACKAGES: Final = (KERNEL, "busybox-static")
_ROOT_PACKAGES: Final = (
    "?and(?essential,?architecture(amd64))",
    # debootstrap merges /usr itself; the other package that may stand here brings all of Perl.
    "usr-is-merged",
    *("apt", "ca-certificates", "cloud-init", "curl", "dbus", "e2fsprogs", "iproute2", "iputils-ping", "kmod", "less"),
    *("libnss-myhostname", "nano", "netbase", "openssh-server", "sudo", "systemd-resolved", "systemd-sysv", "tzdata"),
    "udev",
)
# What wakes up by itself, for which a guest that was just started has better use of its processor.
_MASKED: Final = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer"),
    *("e2scrub_all.timer", "e2scrub_reap.service"),
)
# An instance makes its own, or has no use for it.
_LEFT_BY_THE_BUILD: Final = (
    *("etc/ssh/ssh_host_*", "etc/apt/sources.list", "run/*", "tmp/*"),
    *("var/cache/apt/*", "var/cache/debconf/*-old", "var/lib/apt/lists/*", "var/log/*.log", "var/log/apt"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianImage:
    """Files of one build, which together are a machine."""

    kernel: Path
    ramdisk: Path
    machine: Path

    @staticmethod
    def at(folder: Path) -> DebianImage:
        return DebianImage(kernel=folder / "vmlinuz", ramdisk=folder / "ramdisk", machine=folder / "machine.qcow2")

    def files(self) -> tuple[Path, ...]:
        return (self.kernel, self.ramdisk, self.machine)


def build(out: Path, report: Report = lambda step, share: None, *, refresh: bool = False) -> DebianImage:
    """The image in `out`, built if it is not there already. `refresh` asks Debian for newer packages.

    Needs root, amd64, Debian 12's apt, debootstrap, mke2fs and qemu-img. Raises ImageBuildError.
    """
    image = DebianImage.at(out)

    def make(work: Path) -> None:
        report("fetching Debian packages", 0.0)
        boot = fetch(out / "packages/boot", _BOOT_PACKAGES, refresh=refresh)
        root = fetch(out / "packages/root", _ROOT_PACKAGES, with_dependencies=True, refresh=refresh)
        _build_in(work, boot, root, report)

    Kept(folder=out, files=image.files(), parts=PARTS).ensure(make, report, refresh=refresh)
    return image


def _build_in(work: Path, boot: Sequence[Path], packages: Sequence[Path], report: Report) -> None:
    made, unpacked, root = DebianImage.at(work), work / "unpacked", work / "root"
    report("making the ramdisk", 0.1)
    unpack(boot, unpacked)
    (kernel,) = unpacked.glob("boot/vmlinuz-*")
    shutil.copyfile(kernel, made.kernel)
    make_ramdisk_tree(unpacked, work / "ramdisk-tree")
    made.ramdisk.write_bytes(cpio.pack(work / "ramdisk-tree"))
    report("installing Debian into a folder", 0.15)
    _debootstrap(packages, root, mirror=work / "mirror")
    _install_modules(unpacked, root)
    _make_a_guest_of(root)
    report("making the root file system", 0.8)
    make_ext4(root, work / "machine.raw", size_bytes=ROOT_BYTES)
    report("compressing it", 0.85)
    make_qcow2(work / "machine.raw", made.machine, compressed=True)


_INSIDE: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


def _debootstrap(packages: Sequence[Path], root: Path, *, mirror: Path) -> None:
    """In namespaces of its own: whatever a package's scripts mount or start ends with it."""
    names = make_mirror(packages, mirror, suite=SUITE)
    command = ["debootstrap", "--variant=minbase", "--no-check-gpg", f"--include={','.join(names)}"]
    try:
        run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", *command, SUITE, str(root), mirror.as_uri()],
            # A build that is cut off is made anew: nothing needs to be on disk at once.
            env={**_INSIDE, "DPKG_FORCE": "unsafe-io"},
        )
    except ImageBuildError as error:
        log = root / "debootstrap/debootstrap.log"
        if not log.exists():
            raise
        raise ImageBuildError(f"debootstrap failed: {' / '.join(log.read_text().splitlines()[-3:])}") from error
    said = (root / "etc/os-release").read_text()
    if f'VERSION_ID="{VERSION}"' not in said:
        raise ImageBuildError(f"apt is not set up for Debian {VERSION}: use a machine that is")


def _install_modules(unpacked: Path, root: Path) -> None:
    (modules,) = unpacked.glob("lib/modules/*")
    shutil.copytree(modules, root / "usr/lib/modules" / modules.name, symlinks=True)
    _run_in(root, "depmod", modules.name)


def _make_a_guest_of(root: Path) -> None:
    _run_in(root, "systemctl", "enable", "systemd-networkd.service")
    _run_in(root, "systemctl", "mask", *_MASKED)
    for pattern in _LEFT_BY_THE_BUILD:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    for part in (path for path in PARTS.rglob("*") if path.is_file()):
        shutil.copyfile(part, root / part.relative_to(PARTS))
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    # Empty: made at boot, and not taken for the very first one, which would undo what is enabled and masked.
    (root / "etc/machine-id").write_text("")


def _run_in(root: Path, *command: str) -> None:
    run(["chroot", str(root), *command], env=_INSIDE)

"""The file trees of the guest: its ramdisk and its root, from unpacked packages and the files in guest/."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from images.modules import needed_modules
from images.packages import ImageBuildError, run

GUEST: Final = Path(__file__).parent / "guest"

_LIBRARIES: Final = (
    "libc.so.6",
    "libcrypt.so.1",
    "libgmp.so.10",
    "libresolv.so.2",
    "libtomcrypt.so.1",
    "libtommath.so.1",
    "libz.so.1",
)
_PROGRAMS: Final = ("usr/sbin/dropbear", "usr/bin/dropbearkey", "usr/bin/dbclient", "usr/lib/openssh/sftp-server")
_MOUNT_POINTS: Final = ("dev", "proc", "sys", "run", "tmp", "mnt")
_FOLDERS: Final = ("bin", "root/.ssh", "etc/dropbear", "lib/x86_64-linux-gnu", "lib64", "var/lib/mallee", "var/log")


def make_ramdisk_tree(unpacked: Path, tree: Path) -> None:
    """busybox, the modules, and lib/modules/order: their names in load order."""
    for folder in ("bin", "dev", "proc", "sys", "root", "lib/modules"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(_busybox(unpacked), tree / "bin/busybox")
    modules = needed_modules(unpacked)
    for module in modules:
        shutil.copy(module, tree / "lib/modules")
    (tree / "lib/modules/order").write_text("".join(f"{module.stem}\n" for module in modules))
    shutil.copy(GUEST / "ramdisk/init", tree / "init")
    (tree / "init").chmod(0o755)


def make_root_tree(unpacked: Path, tree: Path) -> None:
    """busybox for everything, dropbear with its libraries, and our scripts."""
    for folder in (*_FOLDERS, *_MOUNT_POINTS):
        (tree / folder).mkdir(parents=True)
    shutil.copytree(GUEST / "root", tree, dirs_exist_ok=True)
    _install_busybox(_busybox(unpacked), tree)
    for program in _PROGRAMS:
        (tree / program).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(unpacked / program, tree / program)
    for name in _LIBRARIES:
        shutil.copy(_library(unpacked, name), tree / "lib/x86_64-linux-gnu" / name)
    shutil.copy(_library(unpacked, "ld-linux-x86-64.so.2"), tree / "lib64/ld-linux-x86-64.so.2")
    (tree / "sbin").symlink_to("bin")
    # Where dropbear looks for it.
    (tree / "usr/lib/sftp-server").symlink_to("openssh/sftp-server")
    (tree / "var/run").symlink_to("../run")
    (tree / "etc/resolv.conf").symlink_to("../run/resolv.conf")
    _set_modes(tree)


def _busybox(unpacked: Path) -> Path:
    return unpacked / "bin/busybox"


def _install_busybox(busybox: Path, tree: Path) -> None:
    """A link for each of its applets, `init` among them."""
    shutil.copy(busybox, tree / "bin/busybox")
    for applet in run([str(busybox), "--list"]).split():
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")


def _library(unpacked: Path, name: str) -> Path:
    for folder in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64"):
        if (found := unpacked / folder / name).exists():
            return found
    raise ImageBuildError(f"the packages hold no {name}")


def _set_modes(tree: Path) -> None:
    """A wheel or an archive of this repository may have lost them. dropbear refuses a key that others may write to."""
    for script in ("etc/init.d", "etc/acpi/PWRF", "usr/lib/mallee", "usr/bin", "usr/sbin"):
        for path in (tree / script).iterdir():
            path.chmod(0o755)
    for folder in ("root", "root/.ssh", "etc/dropbear", "var/lib/mallee"):
        (tree / folder).chmod(0o700)
    (tree / "tmp").chmod(0o1777)
    (tree / "etc/shadow").chmod(0o600)

"""A file system of its own for a cloud's home, which may be filled without harm to the machine. Root alone has it.

Its file is sparse, and has no name once it is mounted: whatever ends the test, nothing but the mount is left, which the
next test takes away.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cloud_fixture import mallee

# As much as clouds ask for; only what is written takes room on the machine.
_SIZE_BYTES = 24 << 30


@dataclass(frozen=True, slots=True)
class SmallDisk:
    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "cloud"

    @contextlib.contextmanager
    def filled(self) -> Iterator[None]:
        """To the last block."""
        balloon = self.folder / "balloon"
        try:
            descriptor = os.open(balloon, os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                _fill(descriptor)
            finally:
                os.close(descriptor)
            yield
        finally:
            balloon.unlink(missing_ok=True)


def _fill(descriptor: int) -> None:
    """Room without content: nothing is written."""
    end, step = 0, _SIZE_BYTES
    while step >= 4096:
        try:
            os.posix_fallocate(descriptor, end, step)
            end += step
        except OSError:
            end, step = max(end, os.fstat(descriptor).st_size), step // 2


@contextlib.contextmanager
def small_disk(mounts: Path) -> Iterator[SmallDisk]:
    """Mounted at a folder named after this process; those of processes that are gone are removed, clouds and all."""
    for left in mounts.parent.glob(f"{mounts.name}-*"):
        pid = left.name.removeprefix(f"{mounts.name}-")
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            mallee("destroy", "--yes", "--home", str(left / "cloud"), check=False)
            _unmount(left)
    folder = Path(f"{mounts}-{os.getpid()}")
    folder.mkdir(parents=True)
    try:
        _mount(folder)
        yield SmallDisk(folder)
    finally:
        if not os.environ.get("MALLEE_KEEP"):
            _unmount(folder)


def _mount(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        file.truncate(_SIZE_BYTES)
        lazily = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
        # No share for root: full is full.
        subprocess.run(["/sbin/mkfs.ext4", "-q", "-F", "-m", "0", "-E", lazily, file.name], check=True)
        subprocess.run(["mount", "-o", "loop", file.name, str(folder)], check=True)


def _unmount(folder: Path) -> None:
    if os.path.ismount(folder):
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
    with contextlib.suppress(OSError):
        folder.rmdir()

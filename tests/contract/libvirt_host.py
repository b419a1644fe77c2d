"""A libvirtd of its own for tests: network and mount namespaces, sockets and folders apart from the machine's."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import processes

FOLDERS = {
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "etc": "/etc/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
}

LIBVIRTD = """\
listen_tls = 0
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
host_uuid = "{host_uuid}"
"""
QEMU = """\
user = "libvirt-qemu"
group = "libvirt-qemu"
dynamic_ownership = 1
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "logd"
seccomp_sandbox = 1
"""
VIRTLOGD = "max_size = 1048576\nmax_backups = 1\n"

# /dev/kvm as Debian's udev makes it: with other rights libvirt drops what it knows of QEMU at each start of a domain,
# which then takes half a minute.
START = """\
set -eu
for pair in {pairs}; do mount --bind "${{pair%%:*}}" "${{pair##*:}}"; done
if [ -e /dev/kvm ]; then
    mkdir {folder}/dev && mount -t tmpfs -o mode=755 tmpfs {folder}/dev
    mknod -m 660 {folder}/dev/kvm c 10 232 && chgrp kvm {folder}/dev/kvm && mount --bind {folder}/dev/kvm /dev/kvm
fi
ip link set lo up
virtlogd -d -f {folder}/virtlogd.conf -p {folder}/virtlogd.pid
libvirtd -d -f {folder}/libvirtd.conf -p {folder}/libvirtd.pid
exec sleep infinity
"""


@dataclass(frozen=True, slots=True)
class LibvirtHost:
    folder: Path
    # A process inside the namespaces.
    pid: int

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.folder}/run/libvirt-sock"

    def run(self, *command: str) -> str:
        """Inside the namespaces."""
        inside = ("nsenter", "-t", str(self.pid), "-n", "-m", *command)
        return subprocess.run(inside, check=True, capture_output=True, text=True).stdout

    def add_tap(self, name: str) -> None:
        self.run("ip", "tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr", "user", "libvirt-qemu")

    def libvirtd_pid(self) -> int:
        return int((self.folder / "libvirtd.pid").read_text())

    def kill_libvirtd(self) -> None:
        processes.kill(self.libvirtd_pid())

    def start_libvirtd(self) -> None:
        self.run("libvirtd", "-d", "-f", f"{self.folder}/libvirtd.conf", "-p", f"{self.folder}/libvirtd.pid")

    def qemu_pid(self, domain: str) -> int:
        return int((self.folder / "run/qemu" / f"{domain}.pid").read_text())


@contextlib.contextmanager
def libvirt_host() -> Iterator[LibvirtHost]:
    """Its processes and folder are gone afterwards, QEMU's included."""
    # Short: a unix socket's path ends at 108 characters.
    folder = Path(tempfile.mkdtemp(prefix="mallee-hv-", dir="/tmp"))
    folder.chmod(0o711)
    for name, there in FOLDERS.items():
        (folder / name).mkdir(mode=0o755)
        Path(there).mkdir(parents=True, exist_ok=True)
    for private in ("qemu", "qemu/nvram", "qemu/save", "qemu/dump", "qemu/snapshot", "qemu/ram", "qemu/checkpoint"):
        (folder / "lib" / private).mkdir(parents=True, exist_ok=True)
        shutil.chown(folder / "lib" / private, "libvirt-qemu", "kvm")
    (folder / "libvirtd.conf").write_text(LIBVIRTD.format(host_uuid=uuid.uuid4()))
    (folder / "virtlogd.conf").write_text(VIRTLOGD)
    (folder / "etc/qemu.conf").write_text(QEMU)
    pairs = " ".join(f"{folder}/{name}:{there}" for name, there in FOLDERS.items())
    script = START.format(pairs=pairs, folder=folder)
    keeper = subprocess.Popen(["unshare", "-m", "-n", "--propagation", "private", "sh", "-c", script])
    try:
        _wait_for(folder / "run/libvirt-sock", keeper)
        yield LibvirtHost(folder=folder, pid=keeper.pid)
    finally:
        for pid in _processes_in_namespace_of(keeper.pid):
            with contextlib.suppress(ProcessLookupError):
                processes.kill(pid)
        keeper.kill()
        keeper.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(path: Path, process: subprocess.Popen[bytes], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    tick = iter(lambda: process.poll() is None and time.monotonic() < deadline, False)
    for _ in tick:
        if _answers(path):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    raise TimeoutError(f"libvirtd did not come up: {path}")


def _answers(path: Path) -> bool:
    """A socket is there for a moment before anybody listens on it."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        return True
    return False


def _processes_in_namespace_of(pid: int) -> list[int]:
    namespace = Path(f"/proc/{pid}/ns/net").readlink()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "ns/net").readlink() == namespace:
                found.append(int(entry.name))
    return found

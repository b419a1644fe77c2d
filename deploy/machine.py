"""What this machine has, and whether a cloud can run on it. What is missing is one line that says what to do.

Nothing here changes anything, but for `allow_kvm`, `widen_sockets` and `ensure_user`.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import ipaddress
import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from common.config import CloudConfig
from deploy.layout import Host, ports

SERVICE_USER: Final = "mallee"
_KVM: Final = Path("/dev/kvm")
_SEND_BUFFER: Final = Path("/proc/sys/net/core/wmem_default")
# What QEMU 10.1 asks for by itself.
_SEND_BUFFER_BYTES: Final = 2 << 20
_NEEDED: Final = {"etcd": "etcd-server", "s6-svscan": "s6", "s6-log": "s6", "setpriv": "util-linux"}
_NEEDED_FOR_GUESTS: Final = {
    "libvirtd": "libvirt-daemon-system",
    "virtlogd": "libvirt-daemon",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "nft": "nftables",
    "dnsmasq": "dnsmasq-base",
    "conntrack": "conntrack",
    "ip": "iproute2",
}
_LEAST_MEMORY, _LEAST_DISK = 2 << 30, 4 << 30


class Unmet(RuntimeError):
    """A requirement is not met: one line, which says what to do."""


def survey(home: Path) -> Host:
    there = next(path for path in (home, *home.parents) if path.exists())
    return Host(
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        disk_free_bytes=shutil.disk_usage(there).free,
    )


def check(config: CloudConfig, host: Host, *, fake: bool) -> None:
    """Before a cloud that does not run is started. Raises Unmet."""
    for line in _unmet(config, host, fake=fake):
        raise Unmet(line)


def _unmet(config: CloudConfig, host: Host, *, fake: bool) -> Iterator[str]:
    if not fake and os.geteuid() != 0:
        yield "virtual machines and networks need root: run it as root, or use --hypervisor fake"
    for program, package in (_NEEDED if fake else _NEEDED | _NEEDED_FOR_GUESTS).items():
        if shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") is None:
            yield f"{program} is missing: install the Debian package {package} ('make run' does)"
    disk = (1 << 30) if fake else _LEAST_DISK
    if host.disk_free_bytes < disk:
        yield f"{config.home} has {host.disk_free_bytes >> 20} MiB free and {disk >> 20} are needed: make room there"
    if not fake and host.memory_bytes < _LEAST_MEMORY:
        yield f"the machine has {host.memory_bytes >> 20} MiB of memory and {_LEAST_MEMORY >> 20} are needed"
    if not fake:
        yield from _taken_networks(config)
        if not Path("/dev/net/tun").exists():
            yield "/dev/net/tun is missing: load the kernel module 'tun'"
    yield from _taken_ports(config)


def _taken_ports(config: CloudConfig) -> Iterator[str]:
    for address, port, whose in ports(config):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                # EADDRNOTAVAIL: the management address, which comes with the bridge.
                if error.errno == errno.EADDRINUSE:
                    yield (
                        f"port {port} on {address}, for {whose}, is taken: "
                        f"free it ('ss -ltnp sport = :{port}' shows by whom), or choose others with --port-base"
                    )


def _taken_networks(config: CloudConfig) -> Iterator[str]:
    """Ranges that something on this machine needs: its own addresses, its name servers."""
    needed = [*_addresses(), *_name_servers()]
    for option, cidr in (("--underlay", config.network.underlay_cidr), ("--public-pool", config.network.public_pool)):
        wanted = ipaddress.IPv4Network(cidr)
        for whose, network in needed:
            if whose != f"m{config.cloud_id}br" and network.overlaps(wanted):
                yield f"{cidr} is in use on this machine ({whose} has {network}): choose another with {option}"


def _addresses() -> Iterator[tuple[str, ipaddress.IPv4Network]]:
    shown = subprocess.run(["ip", "-j", "-4", "addr"], capture_output=True, text=True, check=True)
    for link in json.loads(shown.stdout):
        for address in link.get("addr_info", ()):
            interface = ipaddress.IPv4Interface(f"{address['local']}/{address['prefixlen']}")
            yield link["ifname"], interface.network


def _name_servers() -> Iterator[tuple[str, ipaddress.IPv4Network]]:
    with contextlib.suppress(OSError):
        for line in Path("/etc/resolv.conf").read_text().splitlines():
            if line.startswith("nameserver "):
                with contextlib.suppress(ValueError):
                    yield "a name server", ipaddress.IPv4Network(line.split()[1])


def ensure_user() -> None:
    try:
        pwd.getpwnam(SERVICE_USER)
    except KeyError:
        nobody = ("--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin")
        subprocess.run(["useradd", "--system", "--user-group", *nobody, SERVICE_USER], check=True)


def ids_of(user: str) -> tuple[int, int]:
    """uid and gid; of whoever runs this when `user` is empty."""
    if not user:
        return os.geteuid(), os.getegid()
    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid


def allow_kvm() -> None:
    """Gives /dev/kvm the owner and mode that Debian's udev rule sets. With others libvirtd, which asks QEMU what it can
    both as root and as QEMU's own user, gets two answers and asks again before every guest: 44 s instead of 0.4."""
    try:
        here = _KVM.stat()
        group = grp.getgrnam("kvm").gr_gid
    except (OSError, KeyError):
        return
    if here.st_gid != group or stat.S_IMODE(here.st_mode) & 0o660 != 0o660:
        os.chown(_KVM, -1, group)
        _KVM.chmod(0o660)


def widen_sockets(setting: Path = _SEND_BUFFER) -> None:
    """Lets the kernel take a whole request of a volume at once, where 208 KiB, its default, take several rounds of
    waking the other side. QEMU 7.2 asks for no size, so it is the default of all sockets but TCP's; TCP has its own.
    A machine that does not allow it goes on with smaller ones."""
    with contextlib.suppress(OSError):
        if int(setting.read_text()) < _SEND_BUFFER_BYTES:
            setting.write_text(f"{_SEND_BUFFER_BYTES}\n")


def own(paths: Iterable[Path], user: str, mode: int) -> None:
    """Makes folders that `user` alone may write."""
    for path in paths:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        if user:
            os.chown(path, *ids_of(user))

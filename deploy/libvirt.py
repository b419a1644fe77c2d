"""libvirtd and virtlogd of each virtual host: own folders, sockets and configuration, inside the node's namespace.

Both see their node's folders at the places they are built for (/etc/libvirt, /run/libvirt …) by bind mounts in a mount
namespace of their own; the machine's own libvirt stays untouched. libvirtd is supervised; virtlogd holds the pipes of
the guests' consoles, so it outlives the supervisor, as the guests do, and is adopted again by its pid file.
"""

from __future__ import annotations

import grp
import os
import shlex
import shutil
import uuid
from pathlib import Path
from typing import Final

from common.config import CloudConfig, NodeConfig
from common.pki import issue_engine
from deploy.s6 import Service

# Where the daemons look, and where that is in the node's folder.
_MOUNTS: Final = {
    "/run/libvirt": "run/libvirt",
    "/etc/libvirt": "libvirt/etc",
    "/var/lib/libvirt": "libvirt/lib",
    "/var/log/libvirt": "libvirt/log",
    "/var/cache/libvirt": "libvirt/cache",
}

QEMU_GROUP: Final = "libvirt-qemu"
_CERTIFICATES: Final = "mallee"
_QEMU_CONF: Final = f"""\
user = "libvirt-qemu"
group = "{QEMU_GROUP}"
dynamic_ownership = 1
remember_owner = 0
seccomp_sandbox = 1
stdio_handler = "logd"
# AppArmor's helper knows only the machine's own libvirt folders.
security_driver = "none"
# Several libvirtds on one machine share neither cgroups nor device namespaces.
cgroup_controllers = []
namespaces = []
# What a volume on another host is reached with.
nbd_tls_x509_cert_dir = "/etc/libvirt/{_CERTIFICATES}"
"""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_VIRTLOGD_CONF: Final = "max_size = 1048576\nmax_backups = 2\n"


def node_folder(config: CloudConfig, node: NodeConfig) -> Path:
    return config.home_path / "nodes" / node.name


def write_files(config: CloudConfig, node: NodeConfig) -> None:
    """Folders and configuration of one node. Repeating it changes nothing."""
    folder = node_folder(config, node)
    _forget_before_reboot(folder)
    for place in _MOUNTS.values():
        (folder / place).mkdir(parents=True, exist_ok=True)
    etc = folder / "libvirt" / "etc"
    _write_certificates(config, node, etc / _CERTIFICATES)
    # The same at every start: guests that run know their host by it.
    host = uuid.uuid5(uuid.NAMESPACE_DNS, f"{node.name}.{config.cloud_id}.mallee")
    _write(etc / "qemu.conf", _QEMU_CONF)
    _write(etc / "virtlogd.conf", _VIRTLOGD_CONF)
    _write(
        etc / "libvirtd.conf",
        f'host_uuid = "{host}"\n'
        'auth_unix_ro = "none"\nauth_unix_rw = "none"\n'
        'unix_sock_ro_perms = "0700"\nunix_sock_rw_perms = "0700"\n'
        'log_outputs = "3:stderr"\n',
    )
    _write(folder / "enter.sh", _enter_script(folder), mode=0o755)
    _write(folder / "virtlogd.sh", _virtlogd_script(folder, node), mode=0o755)


def _write_certificates(config: CloudConfig, node: NodeConfig, folder: Path) -> None:
    """By the names that QEMU looks for: https://www.qemu.org/docs/master/system/tls.html"""
    certificate, key = issue_engine(config.pki_path, node.name)
    gid = grp.getgrnam(QEMU_GROUP).gr_gid
    folder.mkdir(mode=0o750, exist_ok=True)
    os.chown(folder, 0, gid)
    for source, name in ((config.pki_path / "ca.pem", "ca-cert"), (certificate, "client-cert"), (key, "client-key")):
        _write(folder / f"{name}.pem", source.read_text(), mode=0o640)
        os.chown(folder / f"{name}.pem", 0, gid)


def _forget_before_reboot(folder: Path) -> None:
    """What libvirt keeps in /run tells of guests that ran before the host went down, and the node's outlives that."""
    note, boot_id = folder / "run" / "boot-id", _BOOT_ID.read_text()
    if note.exists() and note.read_text() != boot_id:
        shutil.rmtree(folder / "run")
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(boot_id)


def daemon_service(config: CloudConfig, node: NodeConfig) -> Service:
    folder = node_folder(config, node)
    pid_file, conf = folder / "run" / "libvirtd.pid", "/etc/libvirt/libvirtd.conf"
    return Service(
        name=f"libvirtd-{node.name}",
        command=_inside(folder, node, "/usr/sbin/libvirtd", "-f", conf, "-p", str(pid_file)),
        notifies=False,
        reads=[folder / "libvirt/etc/qemu.conf", folder / "libvirt/etc/libvirtd.conf", folder / "enter.sh"],
    )


def log_daemon_service(config: CloudConfig, node: NodeConfig) -> Service:
    return Service(
        name=f"virtlogd-{node.name}",
        command=["/bin/sh", str(node_folder(config, node) / "virtlogd.sh")],
    )


def _inside(folder: Path, node: NodeConfig, *command: str) -> list[str]:
    # `ip netns exec` makes a mount namespace too, with the /sys of the network namespace.
    return ["/usr/sbin/ip", "netns", "exec", node.namespace, "/bin/sh", str(folder / "enter.sh"), *command]


def _enter_script(folder: Path) -> str:
    lines = ["#!/bin/sh", "# Runs a command that sees this node's libvirt folders.", "set -e"]
    for target, place in _MOUNTS.items():
        lines.append(f"mkdir -p {target}")
        lines.append(f"mount --bind {shlex.quote(str(folder / place))} {target}")
    return "\n".join([*lines, 'exec "$@"', ""])


def _virtlogd_script(folder: Path, node: NodeConfig) -> str:
    pid_file = folder / "run" / "virtlogd.pid"
    start = _inside(folder, node, "/usr/sbin/virtlogd", "-d", "-f", "/etc/libvirt/virtlogd.conf", "-p", str(pid_file))
    return f"""\
#!/bin/sh
# Starts the node's virtlogd detached, or finds the one that runs, and lasts as long as it does.
# It must outlive this script: it holds the consoles of running guests.
pid() {{
    pid=$(cat {shlex.quote(str(pid_file))} 2>/dev/null) || return 1
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = virtlogd ] || return 1
    grep -qzF {shlex.quote(str(pid_file))} "/proc/$pid/cmdline"
}}
pid || setsid {shlex.join(start)} 3>&- || exit 1
until pid; do sleep 0.05; done
[ -z "$MALLEE_NOTIFY_FD" ] || echo >&3
exec 3>&-
exec tail --pid="$pid" -f /dev/null
"""


def _write(path: Path, text: str, *, mode: int = 0o644) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    path.chmod(mode)

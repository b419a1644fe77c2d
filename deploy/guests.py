"""The guests of this machine's nodes, beside their node controllers: power them off, or end all that is left."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from common.config import CloudConfig
from deploy.libvirt import node_folder

_NAMESPACES: Final = Path("/run/netns")
_CONNECT_S: Final = 20.0
_GRACE_S: Final = 20.0


def socket_uri(config: CloudConfig, node_name: str) -> str:
    """libvirt's address of a node's engine."""
    _, node = config.node(node_name)
    return f"qemu+unix:///system?socket={node_folder(config, node) / 'run' / 'libvirt' / 'libvirt-sock'}"


def power_off_all(config: CloudConfig) -> None:
    """Asks every guest to shut down (ACPI), and pulls the plug of those that have not after a while.

    With their engine stopped afterwards nobody knows why they are off, so that the next start boots them again.
    """
    with contextlib.ExitStack() as stack:
        connections = []
        for zone in config.zones:
            for node in zone.nodes:
                connection = _connect(socket_uri(config, node.name))
                stack.callback(connection.close)
                connections.append(connection)
        for domain in _active(connections):
            _quietly(domain.shutdown)
        until = time.monotonic() + _GRACE_S
        while _active(connections) and time.monotonic() < until:
            time.sleep(0.2)
        for domain in _active(connections):
            _quietly(domain.destroy)


def end_all_processes(config: CloudConfig) -> None:
    """Kills whatever lives in a network namespace of this cloud: guests, engines, dnsmasq, node controllers."""
    ours = {_identity(path) for path in _namespaces(config.cloud_id)}
    waiting = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if _identity(entry / "ns" / "net") in ours:
                waiting.append(os.pidfd_open(int(entry.name)))
                os.kill(int(entry.name), signal.SIGKILL)
    for descriptor in waiting:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.poll(10_000)
        os.close(descriptor)


def _namespaces(cloud_id: str) -> Iterator[Path]:
    if _NAMESPACES.is_dir():
        yield from (path for path in _NAMESPACES.iterdir() if path.name.startswith(f"m{cloud_id}-"))


def _identity(namespace: Path) -> tuple[int, int]:
    status = namespace.stat()
    return status.st_dev, status.st_ino


def _connect(uri: str) -> Any:
    # Compiled against libvirt: a cloud without guests does not have it.
    import libvirt

    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    until = time.monotonic() + _CONNECT_S
    while True:
        try:
            return libvirt.open(uri)
        except libvirt.libvirtError:
            # Its engine has only just been started.
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _active(connections: list[Any]) -> list[Any]:
    import libvirt

    return [d for c in connections for d in c.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)]


def _quietly(order: Any) -> None:
    """A guest that ended by itself meanwhile is what was wanted."""
    import libvirt

    with contextlib.suppress(libvirt.libvirtError):
        order()

"""The guests of this machine's nodes, and what serves their volumes, beside their controllers: power guests off, or end
all that is left."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from common.config import CloudConfig
from deploy.processes import Code, power_off_services
from deploy.s6 import SupervisorError

_NAMESPACES: Final = Path("/run/netns")
# In the cloud's home.
VOLUMES: Final = "volumes"
# As the kernel names processes: 15 bytes of it. The interpreter serves snapshots to new volumes.
_STORAGE_PROGRAMS: Final = frozenset({"qemu-storage-daemon"[:15], "qemu-img", "python3", "python", "python3.11"})


def power_off_all(config: CloudConfig, code: Code) -> None:
    """Asks every guest to shut down (ACPI), and pulls the plug of those that have not after a while; the next start
    boots them again. Engines run, node controllers do not. Raises SupervisorError."""
    with contextlib.ExitStack() as stack:
        orders = []
        for service in power_off_services(config, code):
            environment = {"PATH": os.environ.get("PATH", os.defpath), **service.environment}
            order = subprocess.Popen(service.command, env=environment, cwd="/", stderr=subprocess.PIPE, text=True)
            orders.append((service.name, stack.enter_context(order)))
        for name, order in orders:
            _, said = order.communicate()
            if order.returncode:
                raise SupervisorError(f"the guests of {name} could not be powered off: {said.strip()[-400:]}")


def end_all_processes(config: CloudConfig) -> None:
    """Kills whatever lives in a network namespace of this cloud: guests, engines, dnsmasq, node controllers."""
    ours = {_identity(path) for path in _namespaces(config.cloud_id)}
    _end(lambda process: _identity(process / "ns" / "net") in ours)


def end_storage(config: CloudConfig) -> None:
    """Kills what serves volumes, and what works on their files: it outlives its controllers, as guests do, and names
    their folders. Nobody reads or writes a volume any more."""
    folders = (f"{config.home_path / VOLUMES}/sc-".encode(), f"{config.sockets_path}/sc-".encode())

    def is_ours(process: Path) -> bool:
        command = (process / "cmdline").read_bytes()
        return (process / "comm").read_text().strip() in _STORAGE_PROGRAMS and any(f in command for f in folders)

    _end(is_ours)


def _end(is_ours: Callable[[Path], bool]) -> None:
    waiting = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if is_ours(entry):
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

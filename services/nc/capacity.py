"""What a host has, what it offers, and what is promised. Pure, but for `measure` and `HostRoom.check`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.config import NodeConfig, NodesConfig
from common.errors import NoCapacity
from mallee.nc.v1 import instance_pb2, service_pb2

# An overlay grows as its guest writes; a launch that could not even begin to is refused.
_FIRST_WRITES_BYTES: Final = 64 << 20
_MEMORY: Final = re.compile(r"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRoom:
    """What a node may promise, and what its host must have at the moment it does."""

    total: service_pb2.Resources
    # On the file system that guests write to.
    folder: Path
    disk_reserve_bytes: int
    # Of an instance's memory so much has to be free. 0: its memory is pretended.
    memory_share: float

    def check(self, wanted: service_pb2.Resources) -> None:
        """Raises NoCapacity if the host itself has run out, whatever was promised. Blocks.

        Guests take their memory as they touch it, so this sees less than was promised, but also what others took.
        """
        if shutil.disk_usage(self.folder).free - self.disk_reserve_bytes < _FIRST_WRITES_BYTES:
            raise NoCapacity("this host's disk is full")
        needed_bytes = int(wanted.memory_bytes * self.memory_share)
        if needed_bytes and needed_bytes > (available_bytes := _available_memory_bytes()):
            raise NoCapacity(f"this host has {available_bytes} bytes of memory available and {needed_bytes} are needed")


def measure(node: NodeConfig, nodes: NodesConfig, folder: Path) -> service_pb2.Resources:
    """What the node offers; memory and disk that the configuration leaves at 0 are the host's own."""
    memory_bytes = node.memory_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    disk_bytes = node.disk_bytes or shutil.disk_usage(folder).total
    return service_pb2.Resources(
        vcpus=int(node.cores * nodes.cpu_overcommit),
        memory_bytes=int(memory_bytes * nodes.memory_overcommit),
        disk_bytes=int(disk_bytes * nodes.disk_overcommit),
    )


def need_of(spec: instance_pb2.InstanceSpec) -> service_pb2.Resources:
    """Volumes take nothing of the node's own disk."""
    disk_bytes = spec.shape.disk_bytes if spec.boot.machine.image_id else 0
    return service_pb2.Resources(
        vcpus=spec.shape.vcpus,
        memory_bytes=spec.shape.memory_bytes,
        disk_bytes=disk_bytes + sum(disk.size_bytes for disk in spec.disks.disks if not disk.volume_id),
    )


def used_by(needs: Iterable[service_pb2.Resources], used: service_pb2.Resources) -> service_pb2.Resources:
    """`used` and the needs beside it."""
    for need in needs:
        used.vcpus += need.vcpus
        used.memory_bytes += need.memory_bytes
        used.disk_bytes += need.disk_bytes
    return used


def check_fits(wanted: service_pb2.Resources, *, total: service_pb2.Resources, used: service_pb2.Resources) -> None:
    """Raises NoCapacity that says of what there is too little."""
    for name in ("vcpus", "memory_bytes", "disk_bytes"):
        free = getattr(total, name) - getattr(used, name)
        if getattr(wanted, name) > free:
            raise NoCapacity(f"this host has {free} {name} left and {getattr(wanted, name)} are wanted")


def _available_memory_bytes() -> int:
    found = _MEMORY.search(Path("/proc/meminfo").read_text())
    assert found is not None
    return int(found[1]) << 10

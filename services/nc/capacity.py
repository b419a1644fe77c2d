"""What a host has and what is promised. Pure, but for `measure`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from common.config import NodeConfig
from common.errors import NoCapacity
from mallee.nc.v1 import instance_pb2, service_pb2


def measure(node: NodeConfig, *, cpu_overcommit: float, folder: Path) -> service_pb2.Resources:
    """What the node offers; memory and disk that the configuration leaves at 0 are the host's own."""
    memory_bytes = node.memory_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    disk_bytes = node.disk_bytes or shutil.disk_usage(folder).total
    return service_pb2.Resources(
        vcpus=int(node.cores * cpu_overcommit), memory_bytes=memory_bytes, disk_bytes=disk_bytes
    )


def used_by(shapes: Iterable[instance_pb2.InstanceShape]) -> service_pb2.Resources:
    used = service_pb2.Resources()
    for shape in shapes:
        used.vcpus += shape.vcpus
        used.memory_bytes += shape.memory_bytes
        used.disk_bytes += shape.disk_bytes
    return used


def check_fits(
    wanted: instance_pb2.InstanceShape, *, total: service_pb2.Resources, used: service_pb2.Resources
) -> None:
    """Raises NoCapacity that says of what there is too little."""
    for name in ("vcpus", "memory_bytes", "disk_bytes"):
        free = getattr(total, name) - getattr(used, name)
        if getattr(wanted, name) > free:
            raise NoCapacity(f"this host has {free} {name} left and {getattr(wanted, name)} are wanted")

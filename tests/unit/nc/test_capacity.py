"""What a node offers, and what its host must have before an instance is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config import NodeConfig, NodesConfig
from common.errors import NoCapacity
from mallee.nc.v1 import service_pb2
from services.nc.capacity import HostRoom, measure

NODE = NodeConfig(name="nc-1", address="127.0.0.1", cores=3, memory_bytes=1000, disk_bytes=500)
NEED = service_pb2.Resources(vcpus=1, memory_bytes=1 << 20, disk_bytes=1 << 30)


def room(folder: Path, *, disk_reserve_bytes: int = 0, memory_share: float = 1.0) -> HostRoom:
    return HostRoom(
        total=service_pb2.Resources(),
        folder=folder,
        disk_reserve_bytes=disk_reserve_bytes,
        memory_share=memory_share,
    )


def test_a_node_offers_what_it_has_times_the_factors(tmp_path: Path) -> None:
    nodes = NodesConfig(cpu_overcommit=2.5, memory_overcommit=1.5, disk_overcommit=3.0)
    offered = measure(NODE, nodes, tmp_path)
    assert (offered.vcpus, offered.memory_bytes, offered.disk_bytes) == (7, 1500, 1500)
    plain = measure(NODE, NodesConfig(), tmp_path)
    assert (plain.vcpus, plain.memory_bytes, plain.disk_bytes) == (12, 1000, 500)


def test_without_figures_it_offers_what_its_host_has(tmp_path: Path) -> None:
    node = NodeConfig(name="nc-1", address="127.0.0.1")
    once, twice = (measure(node, NodesConfig(memory_overcommit=n, disk_overcommit=n), tmp_path) for n in (1.0, 2.0))
    assert once.memory_bytes > 1 << 20
    assert once.disk_bytes > 1 << 20
    assert (twice.memory_bytes, twice.disk_bytes) == (2 * once.memory_bytes, 2 * once.disk_bytes)


def test_a_host_that_has_run_out_takes_nothing_whatever_was_promised(tmp_path: Path) -> None:
    room(tmp_path).check(NEED)
    with pytest.raises(NoCapacity, match="disk is full"):
        room(tmp_path, disk_reserve_bytes=1 << 60).check(NEED)
    large = service_pb2.Resources(vcpus=1, memory_bytes=1 << 50, disk_bytes=1 << 30)
    with pytest.raises(NoCapacity, match="memory"):
        room(tmp_path).check(large)
    # Overcommitted so much, or pretended, it does not have to be there.
    room(tmp_path, memory_share=1 / (1 << 40)).check(large)
    room(tmp_path, memory_share=0.0).check(large)

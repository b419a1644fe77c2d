"""Placement: which node takes which instance. Pure: a function of a snapshot of the zone's nodes, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from mallee.nc.v1 import instance_pb2, service_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a node has or an instance needs. vCPUs include the node's overcommit."""

    vcpus: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0

    @classmethod
    def of(cls, resources: service_pb2.Resources | instance_pb2.InstanceShape) -> Self:
        return cls(vcpus=resources.vcpus, memory_bytes=resources.memory_bytes, disk_bytes=resources.disk_bytes)

    def __add__(self, other: Room) -> Room:
        return Room(
            vcpus=self.vcpus + other.vcpus,
            memory_bytes=self.memory_bytes + other.memory_bytes,
            disk_bytes=self.disk_bytes + other.disk_bytes,
        )

    def __sub__(self, other: Room) -> Room:
        return Room(
            vcpus=self.vcpus - other.vcpus,
            memory_bytes=self.memory_bytes - other.memory_bytes,
            disk_bytes=self.disk_bytes - other.disk_bytes,
        )

    def holds(self, need: Room) -> bool:
        return (
            self.vcpus >= need.vcpus and self.memory_bytes >= need.memory_bytes and self.disk_bytes >= need.disk_bytes
        )

    def to_proto(self) -> service_pb2.Resources:
        """Never below zero: a node that shrank may have promised more than it has."""
        return service_pb2.Resources(
            vcpus=max(self.vcpus, 0), memory_bytes=max(self.memory_bytes, 0), disk_bytes=max(self.disk_bytes, 0)
        )


NOTHING: Final = Room()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A node that takes instances now."""

    name: str
    free: Room


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    instance_id: str
    need: Room
    # Nodes that refused it.
    not_on: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """`nodes`: instance id → node. Who is not in it fits nowhere. `last` is where the next round begins after."""

    nodes: Mapping[str, str]
    last: str


def place(candidates: Sequence[Candidate], wants: Sequence[Want], *, last: str = "") -> Placing:
    """Round robin: each instance goes to the next node by name, after the one that got the instance before it, with the
    cores, the memory and the disk it needs. One that fits nowhere is left out, and the others go on.
    """
    ring = sorted(candidates, key=lambda candidate: candidate.name)
    chosen: dict[str, str] = {}
    for want in wants:
        start = next((i for i, candidate in enumerate(ring) if candidate.name > last), 0)
        for i in (*range(start, len(ring)), *range(start)):
            candidate = ring[i]
            if candidate.name not in want.not_on and candidate.free.holds(want.need):
                ring[i] = replace(candidate, free=candidate.free - want.need)
                chosen[want.instance_id] = last = candidate.name
                break
    return Placing(nodes=chosen, last=last)

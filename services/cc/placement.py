"""Placement: which node takes which instance. Pure: a function of a snapshot of the zone's nodes and of the policy."""

from __future__ import annotations

import bisect
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol, Self

from common.config import PlacementPolicy
from mallee.nc.v1 import instance_pb2, service_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a node has or an instance needs. vCPUs include the node's overcommit."""

    vcpus: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0

    @classmethod
    def of(cls, resources: service_pb2.Resources) -> Self:
        return cls(vcpus=resources.vcpus, memory_bytes=resources.memory_bytes, disk_bytes=resources.disk_bytes)

    @classmethod
    def needed_by(cls, spec: instance_pb2.InstanceSpec) -> Self:
        """Volumes take nothing of a node's own disk."""
        shape, root_bytes = spec.shape, spec.shape.disk_bytes if spec.boot.machine.image_id else 0
        own_bytes = root_bytes + sum(disk.size_bytes for disk in spec.disks.disks if not disk.volume_id)
        return cls(vcpus=shape.vcpus, memory_bytes=shape.memory_bytes, disk_bytes=own_bytes)

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


class Candidate(Protocol):
    """A node that takes instances now."""

    @property
    def name(self) -> str: ...
    @property
    def total(self) -> Room: ...
    @property
    def used(self) -> Room: ...
    @property
    def is_doubted(self) -> bool:
        """It is taken only when no other will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    instance_id: str
    need: Room
    vpc_id: str = ""
    # The one node that will do. Empty: any.
    host: str = ""
    # Nodes that refused it.
    not_on: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """`nodes`: instance id → node. Who is not in it fits nowhere. `last` is where the next round begins after."""

    nodes: Mapping[str, str]
    last: str


def place(
    candidates: Iterable[Candidate],
    wants: Sequence[Want],
    *,
    policy: PlacementPolicy = "round-robin",
    last: str = "",
    members: Mapping[tuple[str, str], int] = MappingProxyType({}),
) -> Placing:
    """Each instance, in turn, goes to the first node in the order of `policy` that has the cores, the memory and the
    disk it needs. One that fits nowhere is left out, and the others go on.

    - greedy: the first node by name, so that the others stay empty.
    - round-robin: the next by name after the node that got the instance before it.
    - spread: the node with fewest instances of its VPC, and among those the one least full afterwards.
    - pack: the node that is fullest afterwards.

    `members` counts the instances by (VPC, node). The cost is one look at each node and the logarithm of their number
    for each instance.
    """
    board = _Board(candidates, policy, last=last, members=members)
    chosen = {want.instance_id: name for want in wants if (name := board.put(want)) is not None}
    return Placing(nodes=chosen, last=board.last)


# What stands first in an order; the node's index breaks ties.
_Rank = tuple[bool, float, float]


class _Board:
    """The snapshot, with what was placed on it so far."""

    def __init__(
        self,
        candidates: Iterable[Candidate],
        policy: PlacementPolicy,
        *,
        last: str,
        members: Mapping[tuple[str, str], int],
    ) -> None:
        self.last = last
        self._policy = policy
        self._nodes = sorted(candidates, key=lambda node: node.name)
        self._index = {node.name: i for i, node in enumerate(self._nodes)}
        self._used = [node.used for node in self._nodes]
        self._members = members
        self._joined: Counter[tuple[str, int]] = Counter()
        # Of round robin: the position whose turn it is, counted on and on round the ring.
        self._turn = bisect.bisect_right(self._nodes, last, key=lambda node: node.name)
        # Per kind of want a heap of the nodes that may take one. An entry whose rank has changed since is out of date.
        self._queues: dict[tuple[Room, str], list[tuple[_Rank, int]]] = {}

    def put(self, want: Want) -> str | None:
        """The node it is placed on."""
        found = self._index.get(want.host) if want.host else self._first(want)
        if found is None or not self._fits(found, want.need) or self._nodes[found].name in want.not_on:
            return None
        self._used[found] += want.need
        self._joined[want.vpc_id, found] += 1
        self._turn += (found - self._turn) % len(self._nodes) + 1
        for (need, vpc_id), queue in self._queues.items():
            heapq.heappush(queue, (self._rank(found, need, vpc_id), found))
        self.last = self._nodes[found].name
        return self.last

    def _first(self, want: Want) -> int | None:
        queue = self._queue(want)
        passed: list[tuple[_Rank, int]] = []
        found = None
        while queue and found is None:
            rank, i = entry = heapq.heappop(queue)
            now = self._rank(i, want.need, want.vpc_id)
            if now > rank:
                heapq.heappush(queue, (now, i))
            elif now == rank and self._nodes[i].name in want.not_on:
                passed.append(entry)
            elif now == rank and self._fits(i, want.need):
                found = i
            # Else it has another entry, further up, or no room for this kind any more.
        for entry in passed:
            heapq.heappush(queue, entry)
        return found

    def _queue(self, want: Want) -> list[tuple[_Rank, int]]:
        kind = want.need, want.vpc_id
        if kind not in self._queues:
            fitting = (i for i in range(len(self._nodes)) if self._fits(i, want.need))
            self._queues[kind] = [(self._rank(i, *kind), i) for i in fitting]
            heapq.heapify(self._queues[kind])
        return self._queues[kind]

    def _rank(self, i: int, need: Room, vpc_id: str) -> _Rank:
        node = self._nodes[i]
        match self._policy:
            case "greedy":
                return node.is_doubted, i, 0
            case "round-robin":
                return node.is_doubted, self._turn + (i - self._turn) % len(self._nodes), 0
            case "spread":
                fellows = self._members.get((vpc_id, node.name), 0) + self._joined[vpc_id, i]
                return node.is_doubted, fellows, _share(node.total, self._used[i], need)
            case "pack":
                return node.is_doubted, -_share(node.total, self._used[i], need), 0

    def _fits(self, i: int, need: Room) -> bool:
        total, used = self._nodes[i].total, self._used[i]
        return (
            total.vcpus - used.vcpus >= need.vcpus
            and total.memory_bytes - used.memory_bytes >= need.memory_bytes
            and total.disk_bytes - used.disk_bytes >= need.disk_bytes
        )


def _share(total: Room, used: Room, need: Room) -> float:
    """Of what a node has most in demand, how much is taken once `need` is there too."""
    return max(
        (used.vcpus + need.vcpus) / (total.vcpus or 1),
        (used.memory_bytes + need.memory_bytes) / (total.memory_bytes or 1),
        (used.disk_bytes + need.disk_bytes) / (total.disk_bytes or 1),
    )

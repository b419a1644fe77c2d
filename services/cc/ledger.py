"""What the zone's leader knows in memory: nodes with their room, and every placement. One writer, no I/O.

Room is taken when a placement is chosen, before it is durable, so two launches never count on the same place.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from common.config import PlacementPolicy
from mallee.cc.v1 import record_pb2, service_pb2
from services.cc.placement import NOTHING, Room, Want, place


class Trust(enum.Enum):
    """Whether a node that is there does as it says."""

    FULL = enum.auto()
    # It did not answer in time.
    SILENT = enum.auto()
    # It refused an instance for which it told of room.
    OVERSTATED = enum.auto()


@dataclass(slots=True, kw_only=True)
class Node:
    name: str
    # Its lease stands. False: nothing is placed there; what is placed stays.
    alive: bool = False
    # From DescribeNode; nothing is placed before.
    described: bool = False
    # Why it takes no instances although it is there. Empty: it does.
    refused: str = ""
    # Less than full: it is taken only when no other node will do, until it has described itself anew.
    trust: Trust = Trust.FULL
    total: Room = NOTHING
    used: Room = NOTHING
    instances: int = 0
    underlay_address: str = ""
    hypervisor: str = ""

    @property
    def free(self) -> Room:
        """What others may count on."""
        return NOTHING if self.trust is Trust.OVERSTATED else self.total - self.used

    @property
    def is_doubted(self) -> bool:
        return self.trust is not Trust.FULL

    @property
    def takes_instances(self) -> bool:
        return self.alive and self.described and not self.refused


@dataclass(slots=True, kw_only=True)
class Placement:
    instance_id: str
    node: str
    generation: int
    need: Room
    vpc_id: str
    # Whether etcd holds exactly this, and since what revision; 0: there is no record that we know of.
    written: bool = False
    mod_revision: int = 0
    # It is to be taken away. In memory alone: who wants it gone says so again after a change of leaders.
    terminating: bool = False
    # With `terminating`, by this process's monotonic clock: how long its guest may take to shut down.
    grace_until_s: float = 0.0

    def to_record(self) -> record_pb2.PlacementRecord:
        return record_pb2.PlacementRecord(
            instance_id=self.instance_id,
            node=self.node,
            generation=self.generation,
            resources=self.need.to_proto(),
            vpc_id=self.vpc_id,
        )

    @classmethod
    def from_record(cls, record: record_pb2.PlacementRecord, mod_revision: int) -> Placement:
        return cls(
            instance_id=record.instance_id,
            node=record.node,
            generation=record.generation,
            need=Room.of(record.resources),
            vpc_id=record.vpc_id,
            written=True,
            mod_revision=mod_revision,
        )

    def on(self, node: str) -> Placement:
        """The same on another node; its record is to be overwritten."""
        return replace(self, node=node, written=False)


@dataclass(slots=True)
class Ledger:
    """`changed(nodes, placed)` is called after each change: names of nodes, and ids placed by it."""

    changed: Callable[[Sequence[str], Sequence[str]], None] = lambda _nodes, _placed: None
    policy: PlacementPolicy = "round-robin"
    nodes: dict[str, Node] = field(default_factory=dict)
    placements: dict[str, Placement] = field(default_factory=dict)
    _last: str = ""
    # (vpc, node) → placements of the one on the other.
    _members: Counter[tuple[str, str]] = field(default_factory=Counter)

    def node(self, name: str) -> Node:
        """Made when it is new: a placement may name a node that has not come back yet."""
        if name not in self.nodes:
            self.nodes[name] = Node(name=name)
        return self.nodes[name]

    def node_changed(self, name: str) -> None:
        self.changed([name], [])

    def load(self, placements: Iterable[Placement]) -> None:
        for placement in placements:
            self._take(placement)

    def reserve(self, wants: Sequence[Want], make: Callable[[str, str], Placement]) -> list[Placement]:
        """Chooses nodes and takes their room. `make(instance_id, node)` builds what is kept."""
        made = [make(instance_id, node) for instance_id, node in self._place(wants).items()]
        for placement in made:
            self._take(placement)
        self.changed(sorted({p.node for p in made}), [p.instance_id for p in made])
        return made

    def move(self, wants: Sequence[Want]) -> list[Placement]:
        """Placed instances to other nodes; their room is taken there. Who finds none stays where it is."""
        moved = [self.placements[instance_id].on(node) for instance_id, node in self._place(wants).items()]
        for placement in moved:
            self.release(placement.instance_id)
            self._take(placement)
        self.changed(sorted({p.node for p in moved}), [p.instance_id for p in moved])
        return moved

    def release(self, instance_id: str) -> None:
        placement = self.placements.pop(instance_id, None)
        if placement is not None:
            node = self.node(placement.node)
            node.used -= placement.need
            node.instances -= 1
            member = placement.vpc_id, placement.node
            self._members[member] -= 1
            if not self._members[member]:
                del self._members[member]
            self.changed([node.name], [])

    def on_node(self, name: str) -> list[Placement]:
        return [placement for placement in self.placements.values() if placement.node == name]

    def has_member(self, vpc_id: str, node: str) -> bool:
        """Something of the VPC is placed on the node."""
        return self._members[vpc_id, node] > 0

    def capacity(self, name: str) -> service_pb2.NodeCapacity:
        node = self.nodes[name]
        return service_pb2.NodeCapacity(
            node=name,
            underlay_address=node.underlay_address,
            alive=node.takes_instances,
            total=node.total.to_proto(),
            free=node.free.to_proto(),
            hypervisor=node.hypervisor,
            instances=node.instances,
        )

    def _place(self, wants: Sequence[Want]) -> Mapping[str, str]:
        if not wants:
            return {}
        candidates = [node for node in self.nodes.values() if node.takes_instances]
        placing = place(candidates, wants, policy=self.policy, last=self._last, members=self._members)
        self._last = placing.last
        return placing.nodes

    def _take(self, placement: Placement) -> None:
        assert placement.instance_id not in self.placements
        self.placements[placement.instance_id] = placement
        node = self.node(placement.node)
        node.used += placement.need
        node.instances += 1
        self._members[placement.vpc_id, placement.node] += 1

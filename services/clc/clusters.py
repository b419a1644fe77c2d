"""The zones: what their cluster controllers report, and the way to give them orders.

Room is followed by every CLC (it admits launches); what instances do is followed by the leader alone (reconcile.py).
What was last heard stays while a CC is away: silence is not evidence.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import Message

from common.errors import CloudError
from common.log import get_logger
from common.rpc.channel import cloud_errors
from common.rpc.peers import Peers
from mallee.cc.v1 import service_pb2, service_pb2_grpc
from mallee.clc.v1 import record_pb2
from mallee.nc.v1 import instance_pb2
from mallee.nc.v1 import service_pb2 as nc_service_pb2
from services.clc.capacity import Room, admissible
from services.clc.clock import Clock, system_clock
from services.clc.instance import rules
from services.clc.store import Store

_RETRY_S: Final = 0.5
_log = get_logger(__name__)

if TYPE_CHECKING:
    from typing import TypeAlias

    Stub: TypeAlias = service_pb2_grpc.ClusterControllerServiceAsyncStub


@dataclass(frozen=True, slots=True)
class Launching:
    room: Room
    # The one node that will do. Empty: any.
    host: str


class Cluster:
    """One zone."""

    def __init__(self, zone: str, peers: Peers, clock: Clock) -> None:
        self.zone = zone
        self._clock = clock
        # Nodes that are not alive: since when, as far as this CLC has heard of it.
        self.lost: dict[str, float] = {}
        self.connected = False
        self.nodes: dict[str, service_pb2.NodeCapacity] = {}
        # Of those of them that take instances.
        self._free: dict[str, Room] = {}
        # Launches of ours that the CC has not taken over yet, by instance id; and those being written right now.
        self.unplaced: dict[str, Launching] = {}
        # What the CC's figures count already, whatever our records know of it.
        self.placed: set[str] = set()
        self.admitting: list[Launching] = []
        self._peers = peers
        self._heard = False

    @property
    def stub(self) -> Stub:
        """Of the CC that leads the zone. Raises Unavailable if none does."""
        return self._peers.leader_stub(service_pb2_grpc.ClusterControllerServiceStub)

    def admissible(self, room: Room, wanted: int, *, host: str = "") -> int | None:
        """How many of `wanted` fit now, on the node `host` if one is named; None before the CC was heard for the first
        time. Of the launches that are under way only those to that node are known to take its room.
        """
        if not self._heard:
            return None
        launching = [its.room for its in (*self.unplaced.values(), *self.admitting) if host in ("", its.host)]
        free = [room for name, room in self._free.items() if host in ("", name)]
        return admissible(free, launching, room, wanted)

    def alive(self, node: str) -> bool | None:
        """What the CC says of a node now; None while nobody says anything."""
        known = self.nodes.get(node) if self.connected else None
        return known.alive if known is not None else None

    async def follow_capacity(self) -> None:
        """Without end."""
        while True:
            try:
                with cloud_errors():
                    await self._read_capacity()
            except CloudError as error:
                if self.connected:
                    _log.warning("capacity stream ended", zone=self.zone, error=error.message)
            self.connected = False
            await asyncio.sleep(_RETRY_S)

    async def _read_capacity(self) -> None:
        first = True
        async for news in self.stub.WatchCapacity(service_pb2.WatchCapacityRequest()):
            if first:
                self.nodes.clear()
                self._free.clear()
                self.placed.clear()
                first = False
            for node in news.nodes:
                self.nodes[node.node] = node
                self._free.pop(node.node, None)
                if node.alive:
                    self._free[node.node] = _room(node.free)
                    self.lost.pop(node.node, None)
                else:
                    self.lost.setdefault(node.node, self._clock())
            for instance_id in news.placed_instance_ids:
                self.placed.add(instance_id)
                self.unplaced.pop(instance_id, None)
            self.connected = self._heard = True

    async def observations(self) -> AsyncIterator[instance_pb2.InstanceObservation | None]:
        """What each placed instance does, then None once all are told, then every change. Ends with the stream.

        Raises CloudError.
        """
        with cloud_errors():
            async for news in self.stub.WatchInstances(service_pb2.WatchInstancesRequest()):
                yield news.observation if news.HasField("observation") else None


class Clusters:
    def __init__(self, store: Store, peers: dict[str, Peers], *, clock: Clock = system_clock) -> None:
        self._clusters = {zone: Cluster(zone, its, clock) for zone, its in peers.items()}
        store.listen(self._heard)

    def __iter__(self) -> Iterator[Cluster]:
        return iter(self._clusters.values())

    def __getitem__(self, zone: str) -> Cluster:
        return self._clusters[zone]

    def stub(self, zone: str) -> Stub:
        return self._clusters[zone].stub

    def alive(self, zone: str, node: str) -> bool | None:
        cluster = self._clusters.get(zone)
        return cluster.alive(node) if cluster else None

    def lost_since(self, zone: str, node: str) -> float | None:
        """None: it is alive, or nobody has told."""
        cluster = self._clusters.get(zone)
        return cluster.lost.get(node) if cluster else None

    def zone_of(self, node: str) -> str | None:
        """None: no zone has told of it."""
        return next((cluster.zone for cluster in self if node in cluster.nodes), None)

    def admissible(self, zone: str, room: Room, wanted: int, *, host: str = "") -> int | None:
        cluster = self._clusters.get(zone)
        return cluster.admissible(room, wanted, host=host) if cluster else None

    @contextlib.contextmanager
    def admitting(self, zone: str, rooms: Iterable[Room], *, host: str = "") -> Iterator[None]:
        """Counts a launch while it is being written; once it is, its record does."""
        admitting = self._clusters[zone].admitting
        taken = [Launching(room, host) for room in rooms]
        admitting.extend(taken)
        try:
            yield
        finally:
            for launching in taken:
                admitting.remove(launching)

    def follow(self, start: Callable[[Any], Any]) -> None:
        for cluster in self:
            start(cluster.follow_capacity())

    def _heard(self, kind: type[Message], latest: Message, new: Message | None) -> None:
        if not isinstance(latest, record_pb2.InstanceRecord) or latest.zone not in self._clusters:
            return
        cluster, instance_id = self._clusters[latest.zone], latest.instance_id
        if new is None or latest.state not in (rules.PENDING, rules.RUNNING):
            cluster.unplaced.pop(instance_id, None)
            cluster.placed.discard(instance_id)
        elif instance_id not in cluster.placed:
            cluster.unplaced[instance_id] = Launching(_room(latest.shape), latest.host_id)


def _room(of: nc_service_pb2.Resources | instance_pb2.InstanceShape) -> Room:
    return Room(vcpus=of.vcpus, memory_bytes=of.memory_bytes, disk_bytes=of.disk_bytes)

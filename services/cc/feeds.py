"""What watchers of the zone are told: a snapshot, then changes. A slow watcher gets the newest, never a backlog."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Final

from common.feed import Listener
from mallee.cc.v1 import service_pb2
from mallee.nc.v1 import instance_pb2
from services.cc.ledger import Ledger

Observation = instance_pb2.InstanceObservation
_LAST_WORDS: Final = "this cluster controller no longer leads its zone"


class InstanceFeed:
    """The last known of each placed instance; one that is gone is told once and forgotten."""

    def __init__(self) -> None:
        self._known: dict[str, Observation] = {}
        self._listeners: set[Listener[Observation]] = set()
        self._closed = False

    def publish(self, observation: Observation) -> None:
        if observation.state == instance_pb2.VM_STATE_GONE:
            self._known.pop(observation.instance_id, None)
        elif self._known.get(observation.instance_id) == observation:
            return
        else:
            self._known[observation.instance_id] = observation
        for listener in self._listeners:
            listener.tell(observation.instance_id, observation)

    def get(self, instance_id: str) -> Observation | None:
        return self._known.get(instance_id)

    async def watch(self) -> AsyncGenerator[service_pb2.WatchInstancesResponse, None]:
        """Raises Unavailable when the feed is closed."""
        listener = Listener[Observation](closed=self._closed, last_words=_LAST_WORDS)
        self._listeners.add(listener)
        try:
            for observation in list(self._known.values()):
                yield service_pb2.WatchInstancesResponse(observation=observation)
            yield service_pb2.WatchInstancesResponse(snapshot_complete=True)
            while True:
                for observation in (await listener.next()).values():
                    yield service_pb2.WatchInstancesResponse(observation=observation)
        finally:
            self._listeners.discard(listener)

    def close(self) -> None:
        self._closed = True
        for listener in self._listeners:
            listener.close()


class CapacityFeed:
    """Room and the placements that took it, always told together: both are read from the ledger at one moment."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._listeners: set[Listener[bool]] = set()
        self._closed = False

    def publish(self, nodes: Sequence[str], placed: Sequence[str]) -> None:
        for listener in self._listeners:
            for name in nodes:
                listener.tell(name, False)
            for instance_id in placed:
                listener.tell(instance_id, True)

    async def watch(self) -> AsyncGenerator[service_pb2.WatchCapacityResponse, None]:
        """Raises Unavailable when the feed is closed."""
        listener = Listener[bool](closed=self._closed, last_words=_LAST_WORDS)
        self._listeners.add(listener)
        try:
            yield self._news(self._ledger.nodes, self._ledger.placements)
            while True:
                news = await listener.next()
                yield self._news(
                    (name for name, is_placed in news.items() if not is_placed),
                    (name for name, is_placed in news.items() if is_placed),
                )
        finally:
            self._listeners.discard(listener)

    def close(self) -> None:
        self._closed = True
        for listener in self._listeners:
            listener.close()

    def _news(self, nodes: Iterable[str], placed: Iterable[str]) -> service_pb2.WatchCapacityResponse:
        return service_pb2.WatchCapacityResponse(
            nodes=[self._ledger.capacity(name) for name in sorted(nodes)], placed_instance_ids=sorted(placed)
        )

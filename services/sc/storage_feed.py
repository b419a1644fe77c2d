"""What watchers of the zone's storage are told: a snapshot, then changes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from common.feed import Listener
from mallee.sc.v1 import service_pb2 as sc
from mallee.sc.v1 import snapshot_pb2, volume_pb2

_LAST_WORDS: Final = "this storage controller no longer leads its zone"


class StorageFeed:
    """The last known of each thing; one that is gone is told once and forgotten."""

    def __init__(self) -> None:
        self._known: dict[str, sc.WatchStorageResponse] = {}
        self._listeners: set[Listener[sc.WatchStorageResponse]] = set()
        self._closed = False

    def volume(self, observation: volume_pb2.VolumeObservation) -> None:
        gone = observation.state == volume_pb2.VOLUME_STATE_GONE
        self._publish(observation.volume_id, sc.WatchStorageResponse(volume=observation), gone=gone)

    def snapshot(self, observation: snapshot_pb2.SnapshotObservation) -> None:
        gone = observation.state == snapshot_pb2.SNAPSHOT_STATE_GONE
        self._publish(observation.snapshot_id, sc.WatchStorageResponse(snapshot=observation), gone=gone)

    def export(self, observation: snapshot_pb2.ExportObservation) -> None:
        gone = observation.state == snapshot_pb2.SNAPSHOT_STATE_GONE
        self._publish(observation.task_id, sc.WatchStorageResponse(export=observation), gone=gone)

    def capacity(self, capacity: sc.StorageCapacity) -> None:
        self._publish("capacity", sc.WatchStorageResponse(capacity=capacity), gone=False)

    async def watch(self) -> AsyncGenerator[sc.WatchStorageResponse, None]:
        """Raises Unavailable when the feed is closed."""
        listener = Listener[sc.WatchStorageResponse](closed=self._closed, last_words=_LAST_WORDS)
        self._listeners.add(listener)
        try:
            for response in list(self._known.values()):
                yield response
            yield sc.WatchStorageResponse(snapshot_complete=True)
            while True:
                for response in (await listener.next()).values():
                    yield response
        finally:
            self._listeners.discard(listener)

    def close(self) -> None:
        self._closed = True
        for listener in self._listeners:
            listener.close()

    def _publish(self, key: str, response: sc.WatchStorageResponse, *, gone: bool) -> None:
        if gone:
            if self._known.pop(key, None) is None:
                return
        elif self._known.get(key) == response:
            return
        else:
            self._known[key] = response
        for listener in self._listeners:
            listener.tell(key, response)

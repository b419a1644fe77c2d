"""The zones' storage: what their storage controllers report, and the way to give them orders.

Every CLC follows every zone, for its room; the leader listens to what becomes of volumes, snapshots and exports. What
was last heard stays while an SC is away: silence is not evidence.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import Message

from common.errors import CloudError, NoCapacity, Unavailable
from common.log import get_logger
from common.rpc.channel import cloud_errors
from common.rpc.peers import Peers
from mallee.clc.v1 import record_pb2
from mallee.sc.v1 import service_pb2, service_pb2_grpc, snapshot_pb2, volume_pb2
from services.clc.store import Store
from services.clc.volume.types import GIB

_RETRY_S: Final = 0.5
_log = get_logger(__name__)

if TYPE_CHECKING:
    from typing import TypeAlias

    Stub: TypeAlias = service_pb2_grpc.StorageControllerServiceAsyncStub

Observation = volume_pb2.VolumeObservation | snapshot_pb2.SnapshotObservation | snapshot_pb2.ExportObservation
# Hears (zone, what changed). None: the whole state of the zone has been told anew, so all of it is looked at again.
Listener = Callable[[str, Observation | None], None]


class ZoneStorage:
    """One zone. The three tables are what its SC last said, by id; what is gone is not in them."""

    def __init__(self, zone: str, peers: Peers, tell: Listener) -> None:
        self.zone = zone
        self.connected = False
        # None: never heard.
        self.capacity: service_pb2.StorageCapacity | None = None
        self.volumes: dict[str, volume_pb2.VolumeObservation] = {}
        self.snapshots: dict[str, snapshot_pb2.SnapshotObservation] = {}
        self.exports: dict[str, snapshot_pb2.ExportObservation] = {}
        # Bytes of volumes of ours that the SC has not told of yet, by id; and of those being written right now.
        self.unmade: dict[str, int] = {}
        self._admitting = 0
        self._peers = peers
        self._tell = tell

    @property
    def stub(self) -> Stub:
        """Of the SC that leads the zone. Raises Unavailable if none does."""
        return self._peers.leader_stub(service_pb2_grpc.StorageControllerServiceStub)

    @contextlib.contextmanager
    def admitting(self, size_bytes: int) -> Iterator[None]:
        """Counts new volumes of so many bytes in all while they are being written; once they are, their records do.

        Raises NoCapacity (InsufficientVolumeCapacity), Unavailable before the SC was heard for the first time.
        """
        if size_bytes and self.capacity is None:
            raise Unavailable("No storage controller of the zone answers yet; try again in a moment.")
        if self.capacity is not None and size_bytes > self._free_bytes():
            raise NoCapacity(
                f"There is not enough capacity to fulfill your EBS volume request in {self.zone}: a volume may have"
                f" {max(0, self._free_bytes()) // GIB} GiB there now.",
                code="InsufficientVolumeCapacity",
            )
        self._admitting += size_bytes
        try:
            yield
        finally:
            self._admitting -= size_bytes

    def note(self, observation: Observation) -> None:
        """What an order was answered, before the stream says it.

        Told on if it is news: who repeats an order since nothing has come of it is not to be woken by the same answer.
        """
        match observation:
            case volume_pb2.VolumeObservation():
                self.unmade.pop(observation.volume_id, None)
                table: dict[str, Any] = self.volumes
                is_gone = observation.state == volume_pb2.VOLUME_STATE_GONE
            case snapshot_pb2.SnapshotObservation():
                table, is_gone = self.snapshots, observation.state == snapshot_pb2.SNAPSHOT_STATE_GONE
            case snapshot_pb2.ExportObservation():
                table, is_gone = self.exports, observation.state == snapshot_pb2.SNAPSHOT_STATE_GONE
        its_id = _id_of(observation)
        if is_gone:
            table.pop(its_id, None)
        elif table.get(its_id) == observation:
            return
        else:
            table[its_id] = observation
        self._tell(self.zone, observation)

    async def follow(self) -> None:
        """Without end."""
        while True:
            try:
                with cloud_errors():
                    await self._read()
            except CloudError as error:
                if self.connected:
                    _log.warning("storage stream ended", zone=self.zone, error=error.message)
            self.connected = False
            await asyncio.sleep(_RETRY_S)

    async def _read(self) -> None:
        told: set[str] | None = set()
        async for news in self.stub.WatchStorage(service_pb2.WatchStorageRequest()):
            match news.WhichOneof("event"):
                case "capacity":
                    self.capacity = news.capacity
                case "snapshot_complete":
                    self._all_told(told or set())
                    told = None
                    self.connected = True
                case "volume" | "snapshot" | "export" as name:
                    observation = getattr(news, name)
                    if told is not None:
                        told.add(_id_of(observation))
                    self.note(observation)
                case _:
                    pass

    def _all_told(self, told: set[str]) -> None:
        for table in (self.volumes, self.snapshots, self.exports):
            for its_id in [its_id for its_id in table if its_id not in told]:
                del table[its_id]
        self._tell(self.zone, None)

    def _free_bytes(self) -> int:
        assert self.capacity is not None
        return self.capacity.free_bytes - self._admitting - sum(self.unmade.values())


class Storage:
    """Use as `cloud.storage[zone]`. Raises KeyError for a zone that is not there."""

    def __init__(self, store: Store, peers: dict[str, Peers]) -> None:
        self._listeners: list[Listener] = []
        self._zones = {zone: ZoneStorage(zone, its, self._tell) for zone, its in peers.items()}
        for stored in store.all(record_pb2.VolumeRecord):
            self._heard(record_pb2.VolumeRecord, stored.record, stored.record)
        store.listen(self._heard)

    def __iter__(self) -> Iterator[ZoneStorage]:
        return iter(self._zones.values())

    def __getitem__(self, zone: str) -> ZoneStorage:
        return self._zones[zone]

    def __contains__(self, zone: str) -> bool:
        return zone in self._zones

    def volume(self, zone: str, volume_id: str) -> volume_pb2.VolumeObservation | None:
        """What its SC last said of it; None: nothing."""
        return self._zones[zone].volumes.get(volume_id) if zone in self._zones else None

    def snapshot(self, zone: str, snapshot_id: str) -> snapshot_pb2.SnapshotObservation | None:
        """What its SC last said of it; None: nothing."""
        return self._zones[zone].snapshots.get(snapshot_id) if zone in self._zones else None

    def listen(self, listener: Listener) -> None:
        """It must neither block nor raise."""
        self._listeners.append(listener)

    def unlisten(self, listener: Listener) -> None:
        self._listeners.remove(listener)

    def follow(self, start: Callable[[Any], Any]) -> None:
        for zone in self:
            start(zone.follow())

    def _tell(self, zone: str, observation: Observation | None) -> None:
        for listener in self._listeners:
            listener(zone, observation)

    def _heard(self, kind: type[Message], latest: Message, new: Message | None) -> None:
        if not isinstance(latest, record_pb2.VolumeRecord) or latest.zone not in self._zones:
            return
        zone, volume_id = self._zones[latest.zone], latest.volume_id
        if new is None or latest.state != record_pb2.VOLUME_STATE_CREATING:
            zone.unmade.pop(volume_id, None)
        elif volume_id not in zone.volumes:
            zone.unmade[volume_id] = latest.size_gib * GIB


def _id_of(observation: Observation) -> str:
    match observation:
        case volume_pb2.VolumeObservation():
            return observation.volume_id
        case snapshot_pb2.SnapshotObservation():
            return observation.snapshot_id
        case _:
            return observation.task_id

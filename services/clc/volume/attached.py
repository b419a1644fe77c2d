"""Which volumes each instance has: an index over the volumes' records, where attachments stand."""

from __future__ import annotations

from google.protobuf.message import Message

from mallee.clc.v1 import record_pb2
from services.clc.store import Store, Stored


class Attached:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._volumes: dict[str, set[str]] = {}
        self._instance: dict[str, str] = {}
        for stored in store.all(record_pb2.VolumeRecord):
            self._heard(record_pb2.VolumeRecord, stored.record, stored.record)
        store.listen(self._heard)

    def of(self, instance_id: str) -> list[Stored[record_pb2.VolumeRecord]]:
        """In the order of their devices: attaching, attached, detaching, and those that are still to be made for it."""
        found = (self._store.get(record_pb2.VolumeRecord, i) for i in self._volumes.get(instance_id, ()))
        return sorted((stored for stored in found if stored is not None), key=lambda s: s.record.attachment.slot)

    def _heard(self, kind: type[Message], latest: Message, new: Message | None) -> None:
        if not isinstance(latest, record_pb2.VolumeRecord):
            return
        volume_id = latest.volume_id
        if (before := self._instance.pop(volume_id, "")) in self._volumes:
            self._volumes[before].discard(volume_id)
            if not self._volumes[before]:
                del self._volumes[before]
        if new is not None and latest.HasField("attachment"):
            self._instance[volume_id] = latest.attachment.instance_id
            self._volumes.setdefault(latest.attachment.instance_id, set()).add(volume_id)

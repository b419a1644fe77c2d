"""What is recorded when the CLC wants a volume, wants it otherwise, or wants it gone."""

from __future__ import annotations

from typing import Final

from common.errors import InvalidArgument, NotFound, Stale, WrongState
from common.ids import AccountId, SnapshotId, VolumeId
from mallee.sc.v1.record_pb2 import VolumeRecord
from mallee.sc.v1.volume_pb2 import VOLUME_STATE_CREATING, VOLUME_STATE_DELETING, VolumeSpec
from services.sc.capacity import Capacity
from services.sc.store import Records

# QEMU's own unit of a disk's size.
_SECTOR_BYTES: Final = 512


class Orders:
    def __init__(self, volumes: Records[VolumeRecord], capacity: Capacity) -> None:
        self._volumes = volumes
        self._capacity = capacity

    async def ensure(self, spec: VolumeSpec) -> None:
        """Durable when it returns. Raises InvalidArgument, Stale, NoCapacity."""
        _check(spec)

        def change(record: VolumeRecord | None) -> VolumeRecord:
            if record is None:
                return VolumeRecord(spec=spec, state=VOLUME_STATE_CREATING)
            _check_change(record, spec)
            record.spec.CopyFrom(spec)
            return record

        with self._capacity.reserve(spec.volume_id, spec.size_bytes):
            await self._volumes.update(spec.volume_id, change)

    async def delete(self, volume_id: str) -> bool:
        """Whether nothing of it is left. Durable when it returns. Raises WrongState."""

        def change(record: VolumeRecord | None) -> VolumeRecord | None:
            if record is None:
                return None
            if record.HasField("grant"):
                raise WrongState(f"{volume_id} is granted to {record.grant.node}", code="VolumeInUse")
            record.state = VOLUME_STATE_DELETING
            return record

        return await self._volumes.update(volume_id, change) is None


def _check(spec: VolumeSpec) -> None:
    try:
        VolumeId(spec.volume_id)
        AccountId(spec.account_id)
        if spec.snapshot_id:
            SnapshotId(spec.snapshot_id)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
    if not spec.size_bytes or spec.size_bytes % _SECTOR_BYTES:
        raise InvalidArgument(f"{spec.volume_id}: a size of {spec.size_bytes} bytes")


def _check_change(record: VolumeRecord, spec: VolumeSpec) -> None:
    old = record.spec
    if spec == old:
        return
    if spec.generation <= old.generation:
        raise Stale(f"generation {spec.generation} of {spec.volume_id} is over: {old.generation} was here")
    if record.state == VOLUME_STATE_DELETING:
        raise NotFound(f"{spec.volume_id} is being deleted", code="InvalidVolume.NotFound")
    if spec.size_bytes < old.size_bytes:
        raise InvalidArgument(f"{spec.volume_id} has {old.size_bytes} bytes and cannot shrink")
    if (spec.snapshot_id, spec.account_id) != (old.snapshot_id, old.account_id):
        raise InvalidArgument(f"{spec.volume_id}: its snapshot and its account never change")

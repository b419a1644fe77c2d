"""Brings volumes and their attachments where their records want them.

A pass reads the record, what the zone's storage controller and the instance's node last said, and does the next thing
(rules.py). After a crash it does the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from common.errors import CloudError, InvalidArgument, NoCapacity, NotFound, Stale
from common.log import get_logger
from common.patience import RoomPatience
from common.rpc import context
from mallee.clc.v1 import record_pb2
from mallee.nc.v1 import instance_pb2 as nc
from mallee.sc.v1 import service_pb2 as sc
from mallee.sc.v1 import volume_pb2 as volumes
from services.clc.clock import timestamp
from services.clc.idempotency import outlive, token_of
from services.clc.store import Changes, Conflict, Stored
from services.clc.use_case import Cloud
from services.clc.volume import rules
from services.clc.volume.create import ACTION
from services.clc.volume.describe import volume_view
from services.clc.volume.device import device_claim
from services.clc.volume.disks import heard_disk, place_of
from services.clc.volume.modify import MODIFYING, OPTIMIZING, wanted_shape
from services.clc.volume.types import GIB, limits_of

# An order is repeated when nothing was heard for this long.
REPEAT_S: Final = 5.0
# A node that hears in time that a volume is taken by force lets its guest's operations fail. Once it is cut off, they
# would wait for it.
_FORCE_S: Final = 1.0
# A volume that is to go waits for the snapshots of it that are on their way.
_SNAPSHOTS_S: Final = 1.0
# That the storage controller will never do.
_FINAL: Final = (NoCapacity, InvalidArgument, NotFound)

_log = get_logger(__name__)

Volume = Stored[record_pb2.VolumeRecord]


@dataclass(frozen=True, slots=True)
class _World:
    """What is known of one volume beside its record."""

    heard: volumes.VolumeObservation | None
    made: rules.Made | None
    place: rules.Place
    disk: rules.Heard
    granted: rules.Granted


class VolumeReconciler:
    """`observed`: what the nodes last said, by instance. `disks_changed` hears of an instance whose plan is another."""

    def __init__(
        self,
        cloud: Cloud,
        observed: Mapping[str, nc.InstanceObservation],
        disks_changed: Callable[[str], None],
    ) -> None:
        self._cloud = cloud
        self._observed = observed
        self._disks_changed = disks_changed
        self._room = RoomPatience(cloud.clock)
        # Volumes that are taken by force, and since when that is known here.
        self._forced: dict[str, float] = {}

    async def step(self, volume_id: str) -> float | None:
        volume = self._cloud.store.get(record_pb2.VolumeRecord, volume_id)
        if volume is None or not volume.record.attachment.forced:
            self._forced.pop(volume_id, None)
        if volume is None:
            self._room.end(volume_id)
            return await self._remove_orphan(volume_id)
        with context.bind(request_id=volume.record.request_id):
            return await self._step(volume)

    async def _step(self, volume: Volume) -> float | None:
        world = self._look(volume)
        if draft := self._modified(volume, world):
            return await self._write(volume, draft)
        if (step := self._next_of_attachment(volume.record, world)) is not None:
            if isinstance(step, rules.Do):
                return await self._do(step, volume, world)
            draft = volume.draft()
            draft.attachment.state = step
            return await self._write(volume, draft)
        again_s = await self._live(volume, world)
        return self._left_s(volume.record) or again_s

    async def _live(self, volume: Volume, world: _World) -> float | None:
        attached = volume.record.HasField("attachment")
        granted = world.granted not in (rules.Granted.NONE, rules.Granted.UNKNOWN)
        step = rules.next_step(volume.record.state, world.made, attached=attached, granted=granted)
        if step is None or isinstance(step, rules.Do):
            return await self._do(step, volume, world) if step else None
        draft = volume.draft()
        draft.state = step
        if step == rules.ERROR and world.heard is not None:
            draft.reason_code, draft.reason_message = world.heard.reason_code, world.heard.message
        return await self._write(volume, draft)

    def _left_s(self, record: record_pb2.VolumeRecord) -> float:
        """Until a volume that is taken by force is cut off, whatever its node says."""
        if not record.attachment.forced:
            return 0.0
        now = time.monotonic()
        return max(0.0, self._forced.setdefault(record.volume_id, now) + _FORCE_S - now)

    def _next_of_attachment(
        self, record: record_pb2.VolumeRecord, world: _World
    ) -> rules.Do | record_pb2.AttachmentState.ValueType | None:
        """Of a volume that is made; of one that is not, only the end of its instance counts."""
        attachment = record.attachment
        if not record.HasField("attachment") or (record.state != rules.IN_USE and world.place is not rules.Place.ENDED):
            return None
        forced = attachment.forced and not self._left_s(record)
        return rules.next_of_attachment(attachment.state, world.place, world.disk, world.granted, forced=forced)

    def _look(self, volume: Volume) -> _World:
        record, cloud = volume.record, self._cloud
        heard = cloud.storage.volume(record.zone, record.volume_id)
        made = rules.Made(heard.state, heard.generation >= record.generation) if heard else None
        instance = cloud.store.get(record_pb2.InstanceRecord, record.attachment.instance_id)
        known = instance.record if instance is not None else None
        return _World(
            heard=heard,
            made=made,
            place=place_of(known),
            disk=heard_disk(volume, known, self._observed.get(record.attachment.instance_id)),
            granted=_granted(record, known, heard),
        )

    async def _do(self, do: rules.Do, volume: Volume, world: _World) -> float | None:
        match do:
            case rules.Do.ENSURE:
                return await self._ensure(volume)
            case rules.Do.DELETE:
                return await self._delete(volume)
            case rules.Do.GRANT:
                return await self._grant(volume)
            case rules.Do.REVOKE:
                assert world.heard is not None
                return await self._revoke(volume, world.heard.grant.generation)
            case rules.Do.RENEW:
                return await self._renew(volume)
            case rules.Do.RELEASE:
                return await self._release(volume, ended=world.place is rules.Place.ENDED)

    async def _ensure(self, volume: Volume) -> float | None:
        record = volume.record
        shape = wanted_shape(record)
        spec = volumes.VolumeSpec(
            volume_id=record.volume_id,
            account_id=record.account_id,
            generation=record.generation,
            size_bytes=shape.size_bytes,
            limits=limits_of(shape),
            snapshot_id=record.snapshot_id,
        )
        storage = self._cloud.storage[record.zone]
        before = storage.volumes.get(record.volume_id)
        try:
            answer = await storage.stub.EnsureVolume(sc.EnsureVolumeRequest(spec=spec))
        except _FINAL as error:
            if isinstance(error, NoCapacity) and not self._room.is_over(record.volume_id):
                raise
            return await self._refused(volume, error)
        self._room.end(record.volume_id)
        # What the stream has said meanwhile is newer.
        if storage.volumes.get(record.volume_id) is before:
            storage.note(answer.observation)
        return REPEAT_S

    async def _refused(self, volume: Volume, error: CloudError) -> float | None:
        """The check at the request did not know: the volume, or its change, fails."""
        self._room.end(volume.record.volume_id)
        draft = volume.draft()
        code = "InsufficientVolumeCapacity" if isinstance(error, NoCapacity) else error.code
        if draft.modification.state == MODIFYING:
            draft.generation += 1
            draft.modification.state = record_pb2.MODIFICATION_STATE_FAILED
            draft.modification.message = error.message
            draft.modification.ended.CopyFrom(timestamp(self._cloud.clock()))
        elif draft.state == rules.CREATING:
            draft.state = rules.ERROR
            draft.reason_code, draft.reason_message = code, error.message
        else:
            raise error
        return await self._write(volume, draft)

    async def _delete(self, volume: Volume) -> float | None:
        store, record = self._cloud.store, volume.record
        if any(
            snapshot.record.volume_id == record.volume_id and snapshot.record.state == record_pb2.SNAPSHOT_STATE_PENDING
            for snapshot in store.owned(record_pb2.SnapshotRecord, record.account_id)
        ):
            return _SNAPSHOTS_S
        request = sc.DeleteVolumeRequest(volume_id=record.volume_id)
        answer = await self._cloud.storage[record.zone].stub.DeleteVolume(request)
        if not answer.gone:
            return REPEAT_S
        gone = volumes.VolumeObservation(volume_id=record.volume_id, state=volumes.VOLUME_STATE_GONE)
        self._cloud.storage[record.zone].note(gone)
        changes = Changes()
        changes.delete(volume)
        if used := token_of(store, record.account_id, ACTION, record.client_token):
            shown = volume_view(self._cloud, record)
            shown.state = "deleted"
            outlive(changes, used, last_shown=shown.SerializeToString(), now=self._cloud.clock())
        await self._commit(changes)
        return None

    async def _grant(self, volume: Volume) -> float | None:
        record = volume.record
        instance = self._cloud.store.get(record_pb2.InstanceRecord, record.attachment.instance_id)
        assert instance is not None
        grant = volumes.Grant(
            generation=record.attachment.generation,
            node=instance.record.node,
            instance_id=record.attachment.instance_id,
        )
        storage = self._cloud.storage[record.zone]
        request = sc.GrantExportRequest(volume_id=record.volume_id, grant=grant)
        try:
            await storage.stub.GrantExport(request)
        except Stale:
            # It was revoked, and the record was not told: a crash between the two.
            return await self._renew(volume)
        if (heard := storage.volumes.get(record.volume_id)) is not None:
            storage.note(_with_grant(heard, grant))
        return REPEAT_S

    async def _revoke(self, volume: Volume, generation: int) -> float | None:
        record = volume.record
        storage = self._cloud.storage[record.zone]
        request = sc.RevokeExportRequest(volume_id=record.volume_id, generation=generation)
        await storage.stub.RevokeExport(request)
        heard = storage.volumes.get(record.volume_id)
        if heard is not None and heard.grant.generation <= generation:
            storage.note(_with_grant(heard, None))
        return REPEAT_S

    async def _renew(self, volume: Volume) -> float | None:
        draft = volume.draft()
        draft.attachment_generation += 1
        draft.attachment.generation = draft.attachment_generation
        return await self._write(volume, draft)

    async def _release(self, volume: Volume, *, ended: bool) -> float | None:
        attachment = volume.record.attachment
        try:
            await self._revoke(volume, attachment.generation)
        except NotFound:
            # It was never made, or is gone already.
            _log.debug("nothing to revoke", volume_id=volume.record.volume_id)
        draft = volume.draft()
        draft.state = rules.after_release(
            draft.state, attachment.state, ended=ended, delete_on_termination=attachment.delete_on_termination
        )
        draft.ClearField("attachment")
        changes = Changes()
        changes.update(volume, draft)
        changes.release(device_claim(attachment.instance_id, attachment.slot))
        if await self._commit(changes):
            self._tell(volume, draft)
            self._disks_changed(attachment.instance_id)
        return None

    def _modified(self, volume: Volume, world: _World) -> record_pb2.VolumeRecord | None:
        """The record as the end of a step of its modification leaves it."""
        record = volume.record
        if record.modification.state not in (MODIFYING, OPTIMIZING):
            return None
        in_force = world.made is not None and world.made.in_force
        state = rules.next_of_modification(
            record.modification.state, in_force=in_force, seen=self._is_seen(record, world)
        )
        if state is None:
            return None
        draft = volume.draft()
        to = draft.modification
        to.state = state
        if state == OPTIMIZING:
            draft.size_gib, draft.volume_type = to.target_size_gib, to.target_volume_type
            draft.iops, draft.throughput_mibps = to.target_iops, to.target_throughput_mibps
        else:
            to.ended.CopyFrom(timestamp(self._cloud.clock()))
        return draft

    def _is_seen(self, record: record_pb2.VolumeRecord, world: _World) -> bool:
        """The guest has the volume at its size; or there is none."""
        if record.attachment.state != rules.ATTACHED or world.place is not rules.Place.NODE:
            return True
        observation = self._observed.get(record.attachment.instance_id)
        disks = observation.disks if observation else ()
        return any(d.volume_id == record.volume_id and d.size_bytes >= record.size_gib * GIB for d in disks)

    async def _write(self, volume: Volume, draft: record_pb2.VolumeRecord) -> float | None:
        changes = Changes()
        changes.update(volume, draft)
        if await self._commit(changes):
            self._tell(volume, draft)
        return None

    async def _commit(self, changes: Changes) -> bool:
        """False: a record has changed meanwhile. That has nudged: the pass that follows decides on it."""
        try:
            await self._cloud.store.commit(changes)
        except Conflict:
            return False
        return True

    def _tell(self, volume: Volume, draft: record_pb2.VolumeRecord) -> None:
        before, after = _words(volume.record), _words(draft)
        if before != after:
            _log.info("a volume changes state", volume_id=draft.volume_id, state=after, reason=draft.reason_code)

    async def _remove_orphan(self, volume_id: str) -> float | None:
        """A volume that a storage controller has and no record owns: an order that came late made it."""
        for storage in self._cloud.storage:
            heard = storage.volumes.get(volume_id)
            if heard is None:
                continue
            # A commit returns when this replica has seen it: what is not in it after that is not in etcd either.
            changes = Changes()
            changes.bump(f"orphan-volumes/{storage.zone}")
            await self._cloud.store.commit(changes)
            if self._cloud.store.get(record_pb2.VolumeRecord, volume_id) is not None:
                return 0.0
            if heard.HasField("grant"):
                revoke = sc.RevokeExportRequest(volume_id=volume_id, generation=heard.grant.generation)
                await storage.stub.RevokeExport(revoke)
            answer = await storage.stub.DeleteVolume(sc.DeleteVolumeRequest(volume_id=volume_id))
            _log.warning("a volume that no record owns is removed", volume_id=volume_id, zone=storage.zone)
            if not answer.gone:
                return REPEAT_S
        return None


def _granted(
    record: record_pb2.VolumeRecord,
    instance: record_pb2.InstanceRecord | None,
    heard: volumes.VolumeObservation | None,
) -> rules.Granted:
    if heard is None:
        return rules.Granted.UNKNOWN
    if not heard.HasField("grant"):
        return rules.Granted.NONE
    if heard.grant.generation != record.attachment.generation:
        return rules.Granted.OLD
    node = instance.node if instance is not None else ""
    return rules.Granted.OURS if heard.grant.node == node else rules.Granted.ELSEWHERE


def _with_grant(heard: volumes.VolumeObservation, grant: volumes.Grant | None) -> volumes.VolumeObservation:
    changed = volumes.VolumeObservation()
    changed.CopyFrom(heard)
    changed.ClearField("grant")
    if grant is not None:
        changed.grant.CopyFrom(grant)
    return changed


def _words(record: record_pb2.VolumeRecord) -> str:
    state = record_pb2.VolumeState.Name(record.state).removeprefix("VOLUME_STATE_").lower()
    if not record.HasField("attachment"):
        return state
    attachment = record_pb2.AttachmentState.Name(record.attachment.state).removeprefix("ATTACHMENT_STATE_").lower()
    return f"{state}, {attachment}"

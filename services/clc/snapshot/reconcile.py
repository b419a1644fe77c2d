"""Brings snapshots from pending to completed, and takes away what is deleted. By the leader alone."""

from __future__ import annotations

from typing import Final

from common.errors import InvalidArgument, NotFound, WrongState
from common.log import get_logger
from common.rpc import context
from mallee.clc.v1 import record_pb2
from mallee.sc.v1 import service_pb2 as sc
from mallee.sc.v1 import snapshot_pb2 as sc_snapshot
from mallee.sc.v1 import volume_pb2 as sc_volume
from services.clc.clock import timestamp
from services.clc.snapshot import rules
from services.clc.snapshot.create import fix_point_of
from services.clc.snapshot.find import Snapshot, use_of
from services.clc.store import Changes
from services.clc.task import rules as tasks
from services.clc.task.disk import import_order
from services.clc.use_case import Cloud
from services.clc.volume.types import GIB

_AGAIN_S: Final = 2.0
# The call that made the record fixes its point in time itself; after this long it has died.
_CALL_S: Final = 30.0
_log = get_logger(__name__)


class SnapshotReconciler:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def step(self, snapshot_id: str) -> float | None:
        snapshot = self._cloud.store.get(record_pb2.SnapshotRecord, snapshot_id)
        if snapshot is None:
            return await self._remove_orphan(snapshot_id)
        record = snapshot.record
        seen = self._cloud.storage.snapshot(record.zone, snapshot_id)
        with context.bind(request_id=record.request_id):
            said = seen.state if seen is not None else None
            match rules.next_step(record.state, said, settled=seen is not None and seen.settled):
                case rules.Do.MAKE:
                    return await self._make(snapshot)
                case rules.Do.FORGET:
                    return await self._forget(snapshot)
                case rules.Do.SETTLE:
                    return await self._settle(record)
                case None:
                    await self._note(snapshot, seen)
                case rules.ERROR:
                    assert seen is not None
                    await self._fail(snapshot, seen.reason_code, seen.message)
                case _:
                    assert seen is not None
                    await self._complete(snapshot, seen.full_bytes, size_bytes=seen.size_bytes)
        return None

    async def _make(self, snapshot: Snapshot) -> float | None:
        """Given again until something is seen of it."""
        record = snapshot.record
        try:
            if record.source_snapshot_id:
                full_bytes = await self._cloud.images.copy_snapshot(
                    record.source_snapshot_id, record.snapshot_id, record.account_id
                )
                await self._complete(snapshot, full_bytes, size_bytes=0)
                return None
            if record.import_task_id:
                return await self._import(snapshot)
            age_s = self._cloud.clock() - record.started.ToMilliseconds() / 1000
            if age_s < _CALL_S:
                return _CALL_S - age_s
            if self._waits_for_rest(record):
                return _AGAIN_S
            await fix_point_of(self._cloud, self._siblings(record))
        except (NotFound, InvalidArgument, WrongState) as error:
            await self._fail(snapshot, error.code, error.message)
            return None
        return _AGAIN_S

    async def _import(self, snapshot: Snapshot) -> float | None:
        record = snapshot.record
        task = self._cloud.store.get(record_pb2.TaskRecord, record.import_task_id)
        if task is None:
            raise NotFound("The import task is gone.")
        await self._cloud.storage[record.zone].stub.ImportSnapshot(import_order(record, task.record))
        return _AGAIN_S

    def _waits_for_rest(self, record: record_pb2.SnapshotRecord) -> bool:
        """Its image has the point fixed."""
        image = self._cloud.store.get(record_pb2.ImageRecord, record.image_id) if record.image_id else None
        return (
            image is not None
            and image.record.state == record_pb2.IMAGE_STATE_PENDING
            and image.record.point == record_pb2.IMAGE_POINT_DUE
        )

    def _siblings(self, record: record_pb2.SnapshotRecord) -> list[record_pb2.SnapshotRecord]:
        """Those of the same call: they have one point in time."""
        return [
            other.record
            for other in self._cloud.store.owned(record_pb2.SnapshotRecord, record.account_id)
            if other.record.state == rules.PENDING
            and (other.record.request_id, other.record.zone) == (record.request_id, record.zone)
            and not other.record.source_snapshot_id
            and not other.record.import_task_id
        ]

    async def _note(self, snapshot: Snapshot, seen: sc_snapshot.SnapshotObservation | None) -> None:
        """How far it is; 100 % is said when it is whole."""
        if seen is None or snapshot.record.state != rules.PENDING:
            return
        percent = min(seen.progress_percent, 99)
        if percent > snapshot.record.progress_percent:
            draft = snapshot.draft()
            draft.progress_percent = percent
            await self._replace(snapshot, draft)

    async def _complete(self, snapshot: Snapshot, full_bytes: int, *, size_bytes: int) -> None:
        draft = snapshot.draft()
        draft.state = rules.COMPLETED
        draft.progress_percent = 100
        draft.full_bytes = full_bytes
        draft.completed.CopyFrom(timestamp(self._cloud.clock()))
        if draft.import_task_id:
            draft.volume_size_gib = max(1, -(-size_bytes // GIB))
        await self._replace(snapshot, draft)

    async def _fail(self, snapshot: Snapshot, code: str, message: str) -> None:
        _log.warning("a snapshot failed", snapshot_id=snapshot.record.snapshot_id, code=code, message=message)
        draft = snapshot.draft()
        draft.state = rules.ERROR
        draft.reason_code = code or "InternalError"
        draft.reason_message = message or "The storage controller does not have this snapshot any more."
        await self._replace(snapshot, draft)

    async def _settle(self, record: record_pb2.SnapshotRecord) -> float | None:
        task = self._cloud.store.get(record_pb2.TaskRecord, record.import_task_id) if record.import_task_id else None
        if task is not None and task.record.status in tasks.UNDER_WAY:
            # It has yet to look at what was said of its disks.
            return _AGAIN_S
        await self._cloud.storage[record.zone].stub.SettleSnapshot(
            sc.SettleSnapshotRequest(snapshot_id=record.snapshot_id)
        )
        return None

    async def _replace(self, snapshot: Snapshot, draft: record_pb2.SnapshotRecord) -> None:
        changes = Changes()
        changes.update(snapshot, draft)
        await self._cloud.store.commit(changes)

    async def _forget(self, snapshot: Snapshot) -> float | None:
        """In Walrus and at the storage controller that made it; then the record goes."""
        record = snapshot.record
        if self._is_read(record.snapshot_id):
            return _AGAIN_S
        await self._cloud.images.forget_snapshot(record.snapshot_id)
        if record.zone in self._cloud.storage:
            request = sc.DeleteSnapshotRequest(snapshot_id=record.snapshot_id)
            if not (await self._cloud.storage[record.zone].stub.DeleteSnapshot(request)).gone:
                return _AGAIN_S
            gone = sc_snapshot.SnapshotObservation(
                snapshot_id=record.snapshot_id, state=sc_snapshot.SNAPSHOT_STATE_GONE
            )
            self._cloud.storage[record.zone].note(gone)
        changes = Changes()
        changes.delete(snapshot)
        changes.release(use_of(record.snapshot_id))
        await self._cloud.store.commit(changes)
        return None

    async def _remove_orphan(self, snapshot_id: str) -> float | None:
        """One that a storage controller has and no record owns: it was deleted while its point was on its way."""
        for storage in self._cloud.storage:
            if snapshot_id not in storage.snapshots:
                continue
            # A commit returns when this replica has seen it: what is not in it after that is not in etcd either.
            changes = Changes()
            changes.bump(f"orphan-snapshots/{storage.zone}")
            await self._cloud.store.commit(changes)
            if self._cloud.store.get(record_pb2.SnapshotRecord, snapshot_id) is not None:
                return 0.0
            answer = await storage.stub.DeleteSnapshot(sc.DeleteSnapshotRequest(snapshot_id=snapshot_id))
            _log.warning("a snapshot that no record owns is removed", snapshot_id=snapshot_id, zone=storage.zone)
            if not answer.gone:
                return _AGAIN_S
        return None

    def _is_read(self, snapshot_id: str) -> bool:
        """A copy, an export or a volume of it still needs its blocks. A volume that nothing is heard of may."""
        store = self._cloud.store
        return (
            any(
                other.record.source_snapshot_id == snapshot_id and other.record.state == rules.PENDING
                for other in store.all(record_pb2.SnapshotRecord)
            )
            or any(
                task.record.status in ("active", "deleting") and snapshot_id in task.record.snapshot_ids
                for task in store.all(record_pb2.TaskRecord)
                if task.record.task_id.startswith("export-")
            )
            or any(
                self._is_fetching(volume.record)
                for volume in store.all(record_pb2.VolumeRecord)
                if volume.record.snapshot_id == snapshot_id
            )
        )

    def _is_fetching(self, volume: record_pb2.VolumeRecord) -> bool:
        if volume.state == record_pb2.VOLUME_STATE_ERROR:
            return False
        seen = self._cloud.storage.volume(volume.zone, volume.volume_id)
        return seen is None or seen.state == sc_volume.VOLUME_STATE_CREATING or seen.missing_bytes > 0

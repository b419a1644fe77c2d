"""Follows tasks to their end: imports by the snapshots they make, exports by what their storage controller says."""

from __future__ import annotations

from typing import Final

from common.errors import InvalidArgument, NotFound, Unsupported, WrongState
from common.ids import MachineImageId
from common.log import get_logger
from common.rpc import context
from mallee.clc.v1 import record_pb2
from mallee.sc.v1 import service_pb2 as sc
from mallee.sc.v1 import snapshot_pb2 as sc_snapshot
from services.clc.clock import timestamp
from services.clc.idempotency import forget
from services.clc.image.record import add_image
from services.clc.snapshot import rules as snapshots
from services.clc.store import Changes
from services.clc.task import rules
from services.clc.task.cancel import take_away
from services.clc.task.disk import percent_of
from services.clc.task.export_image import export_order
from services.clc.task.find import Task
from services.clc.task.import_image import ROOT_DEVICE
from services.clc.use_case import Cloud
from services.clc.volume.types import DEFAULT_TYPE

_AGAIN_S: Final = 2.0
# That the storage controller will never do.
_FINAL: Final = (InvalidArgument, NotFound, Unsupported, WrongState)
# How long one that has ended is shown.
_SHOWN_S: Final = 7 * 86_400.0
_ACTIONS: Final = {"import-snap": "ImportSnapshot", "import-ami": "ImportImage", "export-ami": "ExportImage"}
_log = get_logger(__name__)


class TaskReconciler:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def step(self, task_id: str) -> float | None:
        task = self._cloud.store.get(record_pb2.TaskRecord, task_id)
        if task is None:
            return None
        with context.bind(request_id=task.record.request_id):
            if task.record.status not in rules.UNDER_WAY:
                return await self._forget(task)
            if task_id.startswith("export-"):
                return await self._export(task)
            await self._import(task)
        return None

    async def _import(self, task: Task) -> None:
        """Its snapshots are made by their own reconciler; each change of one nudges this."""
        store, record = self._cloud.store, task.record
        found = [store.get(record_pb2.SnapshotRecord, snapshot_id) for snapshot_id in record.snapshot_ids]
        made = [
            snapshot.record if snapshot is not None else None
            for disk, snapshot in zip(record.disks, found, strict=True)
            if not disk.ready_made
        ]
        failed = rules.ERROR if record.task_id.startswith("import-snap-") else rules.DELETED
        states: list[int | None] = [s.state if s is not None else None for s in made]
        if record.status == rules.ACTIVE and self._is_one_gone(record):
            states.append(None)
        status = rules.next_status(record.status, states, failed=failed)
        draft, changes = task.draft(), Changes()
        self._note_sizes(draft)
        match status:
            case None if record.status == rules.ACTIVE:
                draft.progress_percent = min(99, percent_of(made))
                draft.status_message = "converting" if draft.progress_percent else "pending"
            case None:
                return
            case rules.COMPLETED:
                if failed == rules.DELETED:
                    draft.image_id = self._add_image(changes, draft)
                self._end(draft, status, "")
            case rules.ERROR | rules.DELETED if record.status == rules.ACTIVE:
                take_away(store, changes, record)
                reasons = [f"{s.reason_code}: {s.reason_message}" for s in made if s is not None and s.reason_code]
                self._end(draft, status, f"ClientError: {reasons[0]}" if reasons else "ClientError: a disk is gone")
            case _:
                self._end(draft, status, record.status_message)
        if draft != record:
            changes.update(task, draft)
            await store.commit(changes)

    def _is_one_gone(self, task: record_pb2.TaskRecord) -> bool:
        """Of the snapshots that it was given: their owner may delete them, as no image keeps them yet."""
        given = (
            snapshot_id for disk, snapshot_id in zip(task.disks, task.snapshot_ids, strict=True) if disk.ready_made
        )
        found = (self._cloud.store.get(record_pb2.SnapshotRecord, snapshot_id) for snapshot_id in given)
        return any(s is None or s.record.state != snapshots.COMPLETED for s in found)

    def _note_sizes(self, draft: record_pb2.TaskRecord) -> None:
        """Of the disk images, as far as their storage controller knows them."""
        zone = next((zone for zone in self._cloud.storage if zone.zone == draft.zone), None)
        for disk, snapshot_id in zip(draft.disks, draft.snapshot_ids, strict=True):
            seen = zone.snapshots.get(snapshot_id) if zone is not None else None
            if seen is not None and seen.size_bytes:
                disk.size_bytes = seen.size_bytes

    def _add_image(self, changes: Changes, task: record_pb2.TaskRecord) -> str:
        devices = [
            record_pb2.BlockDeviceMappingRecord(
                device_name=disk.device_name,
                snapshot_id=snapshot_id,
                size_gib=self._size_gib(changes, snapshot_id),
                volume_type=DEFAULT_TYPE,
                delete_on_termination=index == 0,
            )
            for index, (disk, snapshot_id) in enumerate(zip(task.disks, task.snapshot_ids, strict=True))
        ]
        image = record_pb2.ImageRecord(
            image_id=MachineImageId.new(),
            account_id=task.account_id,
            name=task.task_id,
            location=f"{task.account_id}/{task.task_id}",
            description=f"AWS-VMImport service: {task.platform} - {task.description or task.task_id}"[:255],
            image_type="machine",
            architecture=task.architecture,
            state=record_pb2.IMAGE_STATE_AVAILABLE,
            created=timestamp(self._cloud.clock()),
            root_device_name=devices[0].device_name or ROOT_DEVICE,
            root_device_type="ebs",
            virtualization_type="hvm",
            ena_support=True,
            block_devices=devices,
        )
        add_image(changes, image)
        return image.image_id

    def _size_gib(self, changes: Changes, snapshot_id: str) -> int:
        """It must still be there when the image is written."""
        snapshot = self._cloud.store.get(record_pb2.SnapshotRecord, snapshot_id)
        assert snapshot is not None
        changes.require(snapshot)
        return snapshot.record.volume_size_gib

    async def _export(self, task: Task) -> float | None:
        record, draft = task.record, task.draft()
        zone = self._cloud.storage[record.zone]
        if record.status == rules.DELETING:
            await zone.stub.CancelExport(sc.CancelExportRequest(task_id=record.task_id))
            self._end(draft, rules.DELETED, record.status_message)
            await self._replace(task, draft)
            return None
        seen = zone.exports.get(record.task_id)
        match seen.state if seen is not None else None:
            case None:
                try:
                    await zone.stub.ExportSnapshot(export_order(record))
                except _FINAL as error:
                    self._end(draft, rules.DELETED, f"ClientError: {error.code}: {error.message}")
                    await self._replace(task, draft)
                    return None
                return _AGAIN_S
            case sc_snapshot.SNAPSHOT_STATE_COMPLETED:
                self._end(draft, rules.COMPLETED, "")
            case sc_snapshot.SNAPSHOT_STATE_PENDING:
                assert seen is not None
                draft.progress_percent = min(99, max(record.progress_percent, seen.progress_percent))
                draft.status_message = "converting" if draft.progress_percent else "pending"
            case _:
                assert seen is not None
                self._end(draft, rules.DELETED, f"ClientError: {seen.reason_code}: {seen.message}")
        await self._replace(task, draft)
        return None

    def _end(self, draft: record_pb2.TaskRecord, status: str, message: str) -> None:
        _log.info("a task has ended", task_id=draft.task_id, status=status, message=message)
        draft.status, draft.status_message = status, message
        draft.progress_percent = 100 if status == rules.COMPLETED else draft.progress_percent
        draft.ended.CopyFrom(timestamp(self._cloud.clock()))

    async def _replace(self, task: Task, draft: record_pb2.TaskRecord) -> None:
        if draft != task.record:
            changes = Changes()
            changes.update(task, draft)
            await self._cloud.store.commit(changes)

    async def _forget(self, task: Task) -> float | None:
        record = task.record
        left_s = record.ended.ToSeconds() + _SHOWN_S - self._cloud.clock()
        if left_s > 0:
            return left_s
        if record.task_id.startswith("export-"):
            await self._cloud.storage[record.zone].stub.CancelExport(sc.CancelExportRequest(task_id=record.task_id))
        changes = Changes()
        changes.delete(task)
        action = _ACTIONS[record.task_id.rpartition("-")[0]]
        forget(self._cloud.store, changes, account_id=record.account_id, action=action, token=record.client_token)
        await self._cloud.store.commit(changes)
        return None

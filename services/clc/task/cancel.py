"""CancelImportTask and CancelExportTask: the task is marked, and the reconciler takes away what it has made."""

from __future__ import annotations

from typing import Final

from common.errors import InvalidArgument, WrongState
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import export_task_pb2, import_task_pb2
from services.clc.lookup import EXPORT_IMAGE_TASK, IMPORT_IMAGE_TASK, IMPORT_SNAPSHOT_TASK
from services.clc.snapshot import rules as snapshots
from services.clc.store import Changes, Store, until_committed
from services.clc.task import rules
from services.clc.task.find import Task, TaskNoun, own_task
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_BY_USER: Final = "User initiated task cancellation"


@use_case("ec2.CancelImportTask")
async def cancel_import_task(
    cloud: Cloud, call: Call, request: import_task_pb2.CancelImportTaskRequest
) -> import_task_pb2.CancelImportTaskResult:
    if not request.import_task_id:
        raise InvalidArgument("The request must contain the parameter ImportTaskId", code="MissingParameter")
    if len(request.cancel_reason) > 255:
        raise InvalidArgument("Character limit exceeded: the reason may have 255 characters")
    is_snapshot = request.import_task_id.startswith("import-snap-")
    noun = IMPORT_SNAPSHOT_TASK if is_snapshot else IMPORT_IMAGE_TASK

    async def attempt() -> import_task_pb2.CancelImportTaskResult:
        task = _active(cloud, call, noun, request.import_task_id)
        end_dry_run(request)
        changes = Changes()
        cancel(cloud.store, changes, task, request.cancel_reason or _BY_USER)
        await cloud.store.commit(changes)
        return import_task_pb2.CancelImportTaskResult(
            import_task_id=task.record.task_id, previous_state=task.record.status, state=rules.DELETING
        )

    return await until_committed(attempt)


@use_case("ec2.CancelExportTask")
async def cancel_export_task(
    cloud: Cloud, call: Call, request: export_task_pb2.CancelExportTaskRequest
) -> export_task_pb2.CancelExportTaskResponse:
    async def attempt() -> export_task_pb2.CancelExportTaskResponse:
        task = _active(cloud, call, EXPORT_IMAGE_TASK, request.export_task_id)
        changes = Changes()
        cancel(cloud.store, changes, task, _BY_USER)
        await cloud.store.commit(changes)
        return export_task_pb2.CancelExportTaskResponse()

    return await until_committed(attempt)


def cancel(store: Store, changes: Changes, task: Task, why: str) -> None:
    draft = task.draft()
    draft.status, draft.status_message = rules.DELETING, why
    changes.update(task, draft)
    take_away(store, changes, task.record)


def take_away(store: Store, changes: Changes, task: record_pb2.TaskRecord) -> None:
    """Marks the snapshots that an import was making; those that it was given stay, as an export's does."""
    for disk, snapshot_id in zip(task.disks, task.snapshot_ids, strict=False):
        snapshot = store.get(record_pb2.SnapshotRecord, snapshot_id)
        if disk.ready_made or snapshot is None or snapshot.record.state == snapshots.DELETING:
            continue
        draft = snapshot.draft()
        draft.state = snapshots.DELETING
        changes.update(snapshot, draft)


def _active(cloud: Cloud, call: Call, noun: TaskNoun, task_id: str) -> Task:
    task = own_task(cloud, call, noun, task_id)
    if task.record.status != rules.ACTIVE:
        raise WrongState(f"The task {task_id} is {task.record.status} and cannot be cancelled.")
    return task

"""ImportSnapshot and DescribeImportSnapshotTasks: a disk image of a bucket becomes a snapshot."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import InvalidArgument
from common.ids import ImportSnapshotTaskId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import import_task_pb2 as ec2
from services.clc.filters import FilterTable
from services.clc.idempotency import earlier, remember
from services.clc.listing import max_results_of, shown_page
from services.clc.lookup import IMPORT_SNAPSHOT_TASK
from services.clc.snapshot.create import check_description
from services.clc.store import Changes, until_committed
from services.clc.tag import rules as tags
from services.clc.tag.view import as_mapping, shown
from services.clc.task import rules
from services.clc.task.disk import disk_of
from services.clc.task.find import tasks_asked_for
from services.clc.task.new import check_role, imported_snapshots, new_task
from services.clc.task.view import bucket_of, progress_of
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_ACTION = "ImportSnapshot"
_FILTERS = FilterTable[ec2.ImportSnapshotTask](
    "ec2.DescribeImportSnapshotTasks",
    {"task-state": lambda t: t.snapshot_task_detail.status},
    tags=lambda t: as_mapping(t.tags),
)


@use_case("ec2.ImportSnapshot")
async def import_snapshot(cloud: Cloud, call: Call, request: ec2.ImportSnapshotRequest) -> ec2.ImportSnapshotResult:
    kind = IMPORT_SNAPSHOT_TASK.resource_type
    given_tags = tags.from_specifications(request.tag_specifications, allowed=[kind])[kind]
    check_description(request.description)
    check_role(request.role_name)
    if not request.HasField("disk_container"):
        raise InvalidArgument("The request must contain the parameter DiskContainer", code="MissingParameter")
    disk = disk_of(request.disk_container)

    async def attempt() -> ec2.ImportSnapshotResult:
        if (task_id := earlier(cloud, call, _ACTION, request)) is not None:
            return _answer(cloud, task_id)
        end_dry_run(request)
        task = new_task(
            cloud,
            call,
            ImportSnapshotTaskId.new(),
            description=request.description,
            token=request.client_token,
            tags=given_tags,
        )
        snapshots = imported_snapshots(call, task, [disk])
        task.disks.append(disk)
        task.snapshot_ids.extend(snapshot.snapshot_id for snapshot in snapshots)
        changes = Changes()
        for record in (task, *snapshots):
            changes.create(record)
        remember(changes, call, _ACTION, request, task.task_id)
        await cloud.store.commit(changes)
        return _answer(cloud, task.task_id)

    return await until_committed(attempt)


@use_case("ec2.DescribeImportSnapshotTasks")
async def describe_import_snapshot_tasks(
    cloud: Cloud, call: Call, request: ec2.DescribeImportSnapshotTasksRequest
) -> ec2.DescribeImportSnapshotTasksResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request, low=1)
    end_dry_run(request)
    found = tasks_asked_for(cloud, call, IMPORT_SNAPSHOT_TASK, request.import_task_ids)
    pairs = ((task, _view(task.record)) for task in found)
    views, token = shown_page(pairs, matches, request=request, limit=limit)
    return ec2.DescribeImportSnapshotTasksResult(import_snapshot_tasks=views, next_token=token)


def _answer(cloud: Cloud, task_id: str) -> ec2.ImportSnapshotResult:
    stored = cloud.store.get(record_pb2.TaskRecord, task_id)
    assert stored is not None
    shown_task = _view(stored.record)
    return ec2.ImportSnapshotResult(
        import_task_id=shown_task.import_task_id,
        description=shown_task.description,
        snapshot_task_detail=shown_task.snapshot_task_detail,
        tags=shown_task.tags,
    )


def _view(task: record_pb2.TaskRecord) -> ec2.ImportSnapshotTask:
    disk = task.disks[0]
    return ec2.ImportSnapshotTask(
        import_task_id=task.task_id,
        description=task.description or None,
        snapshot_task_detail=ec2.SnapshotTaskDetail(
            description=disk.description or task.description or None,
            disk_image_size=float(disk.size_bytes),
            encrypted=False,
            format=disk.format.upper() or None,
            progress=progress_of(task),
            snapshot_id=_snapshot_id(task.status, task.snapshot_ids),
            status=task.status,
            status_message=task.status_message or None,
            url=disk.url or None,
            user_bucket=bucket_of(disk),
        ),
        tags=shown(task.tags),
    )


def _snapshot_id(status: str, snapshot_ids: Sequence[str]) -> str | None:
    return snapshot_ids[0] if status == rules.COMPLETED else None

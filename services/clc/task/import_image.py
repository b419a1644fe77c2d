"""ImportImage and DescribeImportImageTasks: disk images of a bucket, or snapshots, become a machine image."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import InvalidArgument
from common.ids import ImportImageTaskId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import import_task_pb2 as ec2
from services.clc.filters import FilterTable
from services.clc.idempotency import earlier, remember
from services.clc.listing import max_results_of, shown_page
from services.clc.lookup import IMPORT_IMAGE_TASK
from services.clc.snapshot.create import check_description
from services.clc.snapshot.find import Snapshot, completed_snapshot, own_snapshot, use_of
from services.clc.store import Changes, until_committed
from services.clc.tag import rules as tags
from services.clc.tag.view import as_mapping, shown
from services.clc.task import rules
from services.clc.task.disk import check_format, disk_of
from services.clc.task.find import tasks_asked_for
from services.clc.task.new import check_role, imported_snapshots, new_task
from services.clc.task.view import bucket_of, progress_of
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.volume.device import slot_of

_ACTION = "ImportImage"
ROOT_DEVICE = "/dev/sda1"
# As many as instances have letters for disks.
_MOST_DISKS = 21
_FILTERS = FilterTable[ec2.ImportImageTask](
    "ec2.DescribeImportImageTasks", {"task-state": lambda t: t.status}, tags=lambda t: as_mapping(t.tags)
)
# What AWS takes, with the values that this cloud has.
_SETTINGS = {
    "architecture": ("x86_64",),
    "hypervisor": ("xen",),
    "license_type": ("BYOL",),
    "platform": ("Linux",),
    "usage_operation": ("RunInstances",),
    "boot_mode": ("legacy-bios",),
}


@use_case("ec2.ImportImage")
async def import_image(cloud: Cloud, call: Call, request: ec2.ImportImageRequest) -> ec2.ImportImageResult:
    kind = IMPORT_IMAGE_TASK.resource_type
    given_tags = tags.from_specifications(request.tag_specifications, allowed=[kind])[kind]
    check_description(request.description)
    check_role(request.role_name)
    for name, known in _SETTINGS.items():
        given = getattr(request, name)
        if given and given not in known:
            raise InvalidArgument(f"Value ({given}) for parameter {name} is invalid. Expecting {known[0]}.")
    disks = _disks(request.disk_containers)

    async def attempt() -> ec2.ImportImageResult:
        if (task_id := earlier(cloud, call, _ACTION, request)) is not None:
            return _answer(cloud, task_id)
        ready = _ready_made(cloud, call, request.disk_containers)
        end_dry_run(request)
        task = new_task(
            cloud,
            call,
            ImportImageTaskId.new(),
            description=request.description,
            token=request.client_token,
            tags=given_tags,
        )
        task.architecture, task.platform, task.boot_mode = "x86_64", "Linux", request.boot_mode
        changes = Changes()
        made = imported_snapshots(call, task, [disk for disk in disks if not disk.ready_made])
        to_come = iter(made)
        for disk, container in zip(disks, request.disk_containers, strict=True):
            task.disks.append(disk)
            task.snapshot_ids.append(container.snapshot_id if disk.ready_made else next(to_come).snapshot_id)
        for snapshot in ready:
            changes.require(snapshot)
            changes.bump(use_of(snapshot.record.snapshot_id))
        for record in (task, *made):
            changes.create(record)
        remember(changes, call, _ACTION, request, task.task_id)
        await cloud.store.commit(changes)
        return _answer(cloud, task.task_id)

    return await until_committed(attempt)


@use_case("ec2.DescribeImportImageTasks")
async def describe_import_image_tasks(
    cloud: Cloud, call: Call, request: ec2.DescribeImportImageTasksRequest
) -> ec2.DescribeImportImageTasksResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request, low=1)
    end_dry_run(request)
    found = tasks_asked_for(cloud, call, IMPORT_IMAGE_TASK, request.import_task_ids)
    pairs = ((task, _view(task.record)) for task in found)
    views, token = shown_page(pairs, matches, request=request, limit=limit)
    return ec2.DescribeImportImageTasksResult(import_image_tasks=views, next_token=token)


def _disks(containers: Sequence[ec2.ImageDiskContainer]) -> list[record_pb2.ImportDiskRecord]:
    if not containers:
        raise InvalidArgument("The request must contain the parameter DiskContainers", code="MissingParameter")
    if len(containers) > _MOST_DISKS:
        raise InvalidArgument(f"An image may be imported of {_MOST_DISKS} disks at most.")
    disks, slots = [], set()
    for index, container in enumerate(containers):
        name = container.device_name or (ROOT_DEVICE if index == 0 else f"/dev/sd{chr(ord('f') + index - 1)}")
        if (slot := slot_of(name, "deviceName")) in slots:
            raise InvalidArgument(f"Value ({name}) for parameter deviceName is invalid: it is in use already.")
        slots.add(slot)
        if container.snapshot_id:
            if container.url or container.HasField("user_bucket"):
                raise InvalidArgument(
                    "The parameter snapshotId cannot be used with the parameter userBucket",
                    code="InvalidParameterCombination",
                )
            check_format(container.format)
            check_description(container.description)
            disk = record_pb2.ImportDiskRecord(
                description=container.description, format=container.format, ready_made=True
            )
        else:
            disk = disk_of(container)
        disk.device_name = name
        disks.append(disk)
    return disks


def _ready_made(cloud: Cloud, call: Call, containers: Sequence[ec2.ImageDiskContainer]) -> list[Snapshot]:
    """The snapshots that are named. Raises CloudError for one that is not the caller's own or not completed."""
    found = []
    for container in containers:
        if container.snapshot_id:
            own_snapshot(cloud.store, call.account_id, container.snapshot_id)
            found.append(completed_snapshot(cloud.store, call.account_id, container.snapshot_id))
    return found


def _answer(cloud: Cloud, task_id: str) -> ec2.ImportImageResult:
    stored = cloud.store.get(record_pb2.TaskRecord, task_id)
    assert stored is not None
    view = _view(stored.record)
    return ec2.ImportImageResult(
        architecture=view.architecture,
        description=view.description or None,
        encrypted=view.encrypted,
        hypervisor=view.hypervisor,
        image_id=view.image_id or None,
        import_task_id=view.import_task_id,
        license_type=view.license_type,
        platform=view.platform,
        progress=view.progress or None,
        snapshot_details=view.snapshot_details,
        status=view.status,
        status_message=view.status_message or None,
        tags=view.tags,
        usage_operation=view.usage_operation,
    )


def _view(task: record_pb2.TaskRecord) -> ec2.ImportImageTask:
    return ec2.ImportImageTask(
        import_task_id=task.task_id,
        architecture=task.architecture,
        description=task.description or None,
        encrypted=False,
        hypervisor="xen",
        image_id=task.image_id or None,
        license_type="BYOL",
        platform=task.platform,
        progress=progress_of(task),
        snapshot_details=[
            ec2.SnapshotDetail(
                description=disk.description or None,
                device_name=disk.device_name,
                disk_image_size=float(disk.size_bytes),
                format=disk.format.upper() or None,
                progress=progress_of(task),
                snapshot_id=snapshot_id if task.status == rules.COMPLETED or disk.ready_made else None,
                status=task.status,
                url=disk.url or None,
                user_bucket=bucket_of(disk),
            )
            for disk, snapshot_id in zip(task.disks, task.snapshot_ids, strict=True)
        ],
        status=task.status,
        status_message=task.status_message or None,
        tags=shown(task.tags),
        usage_operation="RunInstances",
        boot_mode=task.boot_mode or None,
    )

"""ExportImage and DescribeExportImageTasks: an image on a snapshot becomes a disk image in a bucket."""

from __future__ import annotations

from common.errors import InvalidArgument, NotFound, Unsupported
from common.ids import ExportImageTaskId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import export_task_pb2 as ec2
from mallee.sc.v1 import service_pb2 as sc
from mallee.sc.v1 import snapshot_pb2 as sc_snapshot
from services.clc.filters import FilterTable
from services.clc.idempotency import earlier, remember
from services.clc.image.use_cases import own_image
from services.clc.listing import max_results_of, shown_page
from services.clc.lookup import EXPORT_IMAGE_TASK, SNAPSHOT, own
from services.clc.snapshot.create import check_description
from services.clc.snapshot.find import Snapshot
from services.clc.store import Changes, Stored, until_committed
from services.clc.tag import rules as tags
from services.clc.tag.view import as_mapping, shown
from services.clc.task.disk import FORMATS, check_bucket, check_key
from services.clc.task.find import tasks_asked_for
from services.clc.task.new import check_role, new_task
from services.clc.task.view import progress_of
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_ACTION = "ExportImage"
_FORMATS = ("VMDK", "RAW")
_FILTERS = FilterTable[ec2.ExportImageTask](
    "ec2.DescribeExportImageTasks", {"task-state": lambda t: t.status}, tags=lambda t: as_mapping(t.tags)
)


@use_case("ec2.ExportImage")
async def export_image(cloud: Cloud, call: Call, request: ec2.ExportImageRequest) -> ec2.ExportImageResult:
    kind = EXPORT_IMAGE_TASK.resource_type
    given_tags = tags.from_specifications(request.tag_specifications, allowed=[kind])[kind]
    check_description(request.description)
    check_role(request.role_name)
    if not request.disk_image_format:
        raise InvalidArgument("The request must contain the parameter DiskImageFormat", code="MissingParameter")
    if request.disk_image_format not in _FORMATS:
        raise InvalidArgument(
            f"Value ({request.disk_image_format}) for parameter diskImageFormat is invalid. Expecting one of:"
            f" {', '.join(_FORMATS)}."
        )
    location = request.s3_export_location
    check_bucket(location.s3_bucket, "S3Bucket")
    check_key(_key(location.s3_prefix, ExportImageTaskId.new(), request.disk_image_format), "S3Prefix")

    async def attempt() -> ec2.ExportImageResult:
        if (task_id := earlier(cloud, call, _ACTION, request)) is not None:
            return _answer(cloud, task_id)
        image = own_image(cloud.store, call.account_id, request.image_id)
        snapshot = _root_of(cloud, image)
        end_dry_run(request)
        task = new_task(
            cloud,
            call,
            ExportImageTaskId.new(),
            description=request.description,
            token=request.client_token,
            tags=given_tags,
        )
        task.image_id, task.format = request.image_id, request.disk_image_format.lower()
        task.snapshot_ids.append(snapshot.record.snapshot_id)
        task.bucket, task.prefix = location.s3_bucket, location.s3_prefix
        task.key = _key(location.s3_prefix, task.task_id, request.disk_image_format).encode()
        changes = Changes()
        changes.require(image)
        changes.require(snapshot)
        changes.create(task)
        remember(changes, call, _ACTION, request, task.task_id)
        await cloud.store.commit(changes)
        return _answer(cloud, task.task_id)

    return await until_committed(attempt)


@use_case("ec2.DescribeExportImageTasks")
async def describe_export_image_tasks(
    cloud: Cloud, call: Call, request: ec2.DescribeExportImageTasksRequest
) -> ec2.DescribeExportImageTasksResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request, low=1, high=500)
    end_dry_run(request)
    found = tasks_asked_for(cloud, call, EXPORT_IMAGE_TASK, request.export_image_task_ids)
    pairs = ((task, _view(task.record)) for task in found)
    views, token = shown_page(pairs, matches, request=request, limit=limit)
    return ec2.DescribeExportImageTasksResult(export_image_tasks=views, next_token=token)


def export_order(task: record_pb2.TaskRecord) -> sc.ExportSnapshotRequest:
    return sc.ExportSnapshotRequest(
        spec=sc_snapshot.ExportSpec(
            task_id=task.task_id,
            account_id=task.account_id,
            snapshot_id=task.snapshot_ids[0],
            format=FORMATS[task.format],
            target=sc_snapshot.ObjectPlace(account_id=task.account_id, bucket=task.bucket, key=task.key),
        )
    )


def _key(prefix: str, task_id: str, disk_format: str) -> str:
    return f"{prefix}{task_id}.{disk_format.lower()}"


def _root_of(cloud: Cloud, image: Stored[record_pb2.ImageRecord]) -> Snapshot:
    """The snapshot that is its only disk."""
    record = image.record
    if record.state != record_pb2.IMAGE_STATE_AVAILABLE:
        raise NotFound(f"The image id '[{record.image_id}]' is not available", code="InvalidAMIID.Unavailable")
    if record.root_device_type != "ebs":
        raise Unsupported("The root device of the image is an instance store: it lies in a bucket already.")
    snapshots = [device.snapshot_id for device in record.block_devices if device.snapshot_id]
    if len(snapshots) != 1:
        raise Unsupported("An image with more than one disk cannot be exported.")
    return own(cloud.store, SNAPSHOT, record.account_id, snapshots[0])


def _answer(cloud: Cloud, task_id: str) -> ec2.ExportImageResult:
    stored = cloud.store.get(record_pb2.TaskRecord, task_id)
    assert stored is not None
    view = _view(stored.record)
    return ec2.ExportImageResult(
        description=view.description or None,
        disk_image_format=stored.record.format.upper(),
        export_image_task_id=view.export_image_task_id,
        image_id=view.image_id,
        role_name="vmimport",
        progress=view.progress or None,
        s3_export_location=view.s3_export_location,
        status=view.status,
        status_message=view.status_message or None,
        tags=view.tags,
    )


def _view(task: record_pb2.TaskRecord) -> ec2.ExportImageTask:
    return ec2.ExportImageTask(
        description=task.description or None,
        export_image_task_id=task.task_id,
        image_id=task.image_id,
        progress=progress_of(task),
        s3_export_location=ec2.ExportTaskS3Location(s3_bucket=task.bucket, s3_prefix=task.prefix or None),
        status=task.status,
        status_message=task.status_message or None,
        tags=shown(task.tags),
    )

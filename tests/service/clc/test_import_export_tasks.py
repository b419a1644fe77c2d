"""Imports and exports from their making to their end, with a leader and a played storage controller."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import NotFound, Unsupported
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import export_task_pb2, image_pb2, import_task_pb2, snapshot_pb2
from mallee.ec2.v1.filter_pb2 import Filter
from mallee.sc.v1 import snapshot_pb2 as sc
from services.clc.reconcile import Leader
from tests.eventually import eventually
from tests.service.clc.played_snapshots import PlayedSnapshots
from tests.service.clc.snapshot_requests import (
    export_an_image,
    import_a_snapshot,
    import_an_image,
    import_snapshot_task,
    snapshot,
)
from tests.service.clc.stage import Stage
from tests.service.clc.test_snapshots import refused

BOB = 1


@pytest.fixture
def played(stage: Stage) -> PlayedSnapshots:
    """The one that gets the work: it has most room."""
    for zone in stage.storage.values():
        zone.busy = True
    return stage.storage["us-east-1b"]


async def status(stage: Stage, task_id: str, wanted: str) -> record_pb2.TaskRecord:
    def record() -> record_pb2.TaskRecord:
        stored = stage.cloud.store.get(record_pb2.TaskRecord, task_id)
        assert stored is not None
        return stored.record

    await eventually(lambda: record().status == wanted)
    return record()


async def snapshot_task(stage: Stage, task_id: str, *, caller: int = 0) -> import_task_pb2.SnapshotTaskDetail:
    request = import_task_pb2.DescribeImportSnapshotTasksRequest(import_task_ids=[task_id])
    answer = await stage.run("DescribeImportSnapshotTasks", request, caller=caller)
    detail: import_task_pb2.SnapshotTaskDetail = answer.import_snapshot_tasks[0].snapshot_task_detail
    return detail


async def image_task(stage: Stage, task_id: str) -> import_task_pb2.ImportImageTask:
    request = import_task_pb2.DescribeImportImageTasksRequest(import_task_ids=[task_id])
    task: import_task_pb2.ImportImageTask = (await stage.run("DescribeImportImageTasks", request)).import_image_tasks[0]
    return task


async def export(stage: Stage, task_id: str) -> export_task_pb2.ExportImageTask:
    request = export_task_pb2.DescribeExportImageTasksRequest(export_image_task_ids=[task_id])
    task: export_task_pb2.ExportImageTask = (await stage.run("DescribeExportImageTasks", request)).export_image_tasks[0]
    return task


async def snapshots(stage: Stage) -> list[Any]:
    return list((await stage.run("DescribeSnapshots", snapshot_pb2.DescribeSnapshotsRequest())).snapshots)


async def test_a_disk_image_becomes_a_snapshot(stage: Stage, leader: Leader, played: PlayedSnapshots) -> None:
    answer = await stage.run("ImportSnapshot", import_a_snapshot())
    task_id, first = answer.import_task_id, answer.snapshot_task_detail
    assert (first.status, first.status_message, first.progress) == ("active", "pending", "0")
    assert (first.format, first.user_bucket.s3_bucket, first.user_bucket.s3_key) == ("RAW", "bucket", "machine")
    await eventually(lambda: played.imports)
    ((snapshot_id, spec),) = played.imports.items()
    assert (spec.source.bucket, spec.source.key, spec.format) == ("bucket", b"machine", sc.DISK_FORMAT_RAW)
    assert spec.source.account_id == spec.account_id == stage.callers[0].account_id
    assert await snapshots(stage) == []
    played.progresses(snapshot_id, 40)
    await eventually(lambda: stage.cloud.store.get(record_pb2.TaskRecord, task_id).record.progress_percent == 40)  # type: ignore[union-attr]
    seen = await snapshot_task(stage, task_id)
    assert (seen.progress, seen.status_message, seen.HasField("snapshot_id")) == ("40", "converting", False)
    played.completes(snapshot_id)
    await status(stage, task_id, "completed")
    seen = await snapshot_task(stage, task_id)
    assert (seen.snapshot_id, seen.HasField("status_message")) == (snapshot_id, False)
    assert seen.disk_image_size == 3 << 30
    (its,) = await snapshots(stage)
    assert (its.snapshot_id, its.volume_size, its.volume_id, its.state) == (snapshot_id, 3, "vol-ffffffff", "completed")
    await refused("InvalidConversionTaskId", snapshot_task(stage, task_id, caller=BOB))


async def test_a_token_names_one_import_until_it_is_forgotten(
    stage: Stage, leader: Leader, played: PlayedSnapshots
) -> None:
    first = (await stage.run("ImportSnapshot", import_a_snapshot())).import_task_id
    assert (await stage.run("ImportSnapshot", import_a_snapshot())).import_task_id == first
    other = import_a_snapshot()
    other.description = "another"
    await refused("IdempotentParameterMismatch", stage.run("ImportSnapshot", other))
    await eventually(lambda: played.imports)
    played.completes(next(iter(played.imports)))
    await status(stage, first, "completed")
    stage.now += 8 * 86_400
    leader._snapshots.loops[1].nudge(first)
    await eventually(lambda: stage.cloud.store.get(record_pb2.TaskRecord, first) is None)
    assert (await stage.run("ImportSnapshot", other)).import_task_id != first


async def test_a_hostile_disk_image_leaves_an_error_and_no_snapshot(
    stage: Stage, leader: Leader, played: PlayedSnapshots
) -> None:
    task_id = await import_snapshot_task(stage)
    await eventually(lambda: played.imports)
    played.loses(next(iter(played.imports)), "InvalidParameterValue", "it has a backing file")
    await status(stage, task_id, "error")
    seen = await snapshot_task(stage, task_id)
    assert seen.status_message == "ClientError: InvalidParameterValue: it has a backing file"
    await eventually(lambda: stage.cloud.store.count(record_pb2.SnapshotRecord) == 0)


async def test_a_cancelled_import_leaves_nothing(stage: Stage, leader: Leader, played: PlayedSnapshots) -> None:
    task_id = await import_snapshot_task(stage)
    await eventually(lambda: played.imports)
    request = import_task_pb2.CancelImportTaskRequest(import_task_id=task_id, cancel_reason="enough")
    answer = await stage.run("CancelImportTask", request)
    assert (answer.previous_state, answer.state) == ("active", "deleting")
    await status(stage, task_id, "deleted")
    assert (await snapshot_task(stage, task_id)).status_message == "enough"
    assert stage.cloud.store.count(record_pb2.SnapshotRecord) == 0
    assert played.snapshots == {}
    await refused("IncorrectState", stage.run("CancelImportTask", request))


async def test_an_image_is_there_when_all_its_disks_are(stage: Stage, leader: Leader, played: PlayedSnapshots) -> None:
    task_id = (await stage.run("ImportImage", import_an_image())).import_task_id
    await eventually(lambda: len(played.imports) == 2)
    task = stage.cloud.store.get(record_pb2.TaskRecord, task_id)
    assert task is not None
    root, data = task.record.snapshot_ids
    played.completes(root)
    await eventually(lambda: stage.cloud.store.get(record_pb2.TaskRecord, task_id).record.progress_percent == 50)  # type: ignore[union-attr]
    assert not (await image_task(stage, task_id)).image_id
    played.completes(data)
    await status(stage, task_id, "completed")
    seen = await image_task(stage, task_id)
    assert [d.device_name for d in seen.snapshot_details] == ["/dev/sda1", "/dev/sdf"]
    assert [d.snapshot_id for d in seen.snapshot_details] == [root, data]
    request = image_pb2.DescribeImagesRequest(image_ids=[seen.image_id])
    made = (await stage.run("DescribeImages", request)).images[0]
    assert (made.name, made.state, made.root_device_type) == (task_id, "available", "ebs")
    assert [(d.device_name, d.ebs.snapshot_id) for d in made.block_device_mappings] == [
        ("/dev/sda1", root),
        ("/dev/sdf", data),
    ]


async def test_one_bad_disk_spoils_the_image(stage: Stage, leader: Leader, played: PlayedSnapshots) -> None:
    task_id = (await stage.run("ImportImage", import_an_image())).import_task_id
    await eventually(lambda: len(played.imports) == 2)
    good, bad = played.imports
    played.completes(good)
    played.loses(bad, "InvalidParameterValue", "no image at all")
    await status(stage, task_id, "deleted")
    assert "no image at all" in (await image_task(stage, task_id)).status_message
    await eventually(lambda: stage.cloud.store.count(record_pb2.SnapshotRecord) == 0)
    assert stage.cloud.store.count(record_pb2.ImageRecord) == 0


async def test_a_snapshot_that_is_deleted_before_the_other_disks_are_there_ends_the_import(
    stage: Stage, leader: Leader, played: PlayedSnapshots
) -> None:
    its = await snapshot(stage)
    containers = [
        import_task_pb2.ImageDiskContainer(snapshot_id=its),
        import_task_pb2.ImageDiskContainer(url="s3://disks/data.raw"),
    ]
    request = import_task_pb2.ImportImageRequest(disk_containers=containers)
    task_id = (await stage.run("ImportImage", request)).import_task_id
    await eventually(lambda: played.imports)
    (coming,) = played.imports
    await stage.run("DeleteSnapshot", snapshot_pb2.DeleteSnapshotRequest(snapshot_id=its))
    await eventually(lambda: stage.cloud.store.get(record_pb2.SnapshotRecord, its) is None)
    played.completes(coming)
    await status(stage, task_id, "deleted")
    assert not (await image_task(stage, task_id)).image_id
    await eventually(lambda: stage.cloud.store.get(record_pb2.SnapshotRecord, coming) is None)


async def test_an_image_of_a_snapshot_needs_no_import(stage: Stage, leader: Leader) -> None:
    its = await snapshot(stage)
    container = import_task_pb2.ImageDiskContainer(snapshot_id=its)
    task_id = (
        await stage.run("ImportImage", import_task_pb2.ImportImageRequest(disk_containers=[container]))
    ).import_task_id
    await status(stage, task_id, "completed")
    assert (await image_task(stage, task_id)).image_id
    delete = snapshot_pb2.DeleteSnapshotRequest(snapshot_id=its)
    await refused("InvalidSnapshot.InUse", stage.run("DeleteSnapshot", delete))


async def test_an_image_is_exported_to_a_bucket(stage: Stage, leader: Leader, played: PlayedSnapshots) -> None:
    answer = await stage.run("ExportImage", await export_an_image(stage))
    task_id = answer.export_image_task_id
    assert (answer.status, answer.progress, answer.disk_image_format) == ("active", "0", "VMDK")
    await eventually(lambda: task_id in played.exports)
    played.exported(task_id, sc.SNAPSHOT_STATE_PENDING, progress_percent=30)
    await eventually(lambda: stage.cloud.store.get(record_pb2.TaskRecord, task_id).record.progress_percent == 30)  # type: ignore[union-attr]
    assert (await export(stage, task_id)).status_message == "converting"
    played.exported(task_id, sc.SNAPSHOT_STATE_COMPLETED)
    record = await status(stage, task_id, "completed")
    assert record.key == f"exports/{task_id}.vmdk".encode()
    seen = await export(stage, task_id)
    assert (seen.s3_export_location.s3_bucket, seen.s3_export_location.s3_prefix) == ("bucket", "exports/")
    assert (seen.HasField("progress"), seen.HasField("status_message")) == (False, False)


async def test_an_export_that_fails_or_is_cancelled_is_deleted(
    stage: Stage, leader: Leader, played: PlayedSnapshots
) -> None:
    request = await export_an_image(stage)
    request.client_token = ""
    first = (await stage.run("ExportImage", request)).export_image_task_id
    await eventually(lambda: first in played.exports)
    played.exported(first, sc.SNAPSHOT_STATE_FAILED, reason_code="NoSuchBucket", message="no such bucket")
    await status(stage, first, "deleted")
    assert (await export(stage, first)).status_message == "ClientError: NoSuchBucket: no such bucket"
    second = (await stage.run("ExportImage", request)).export_image_task_id
    await eventually(lambda: second in played.exports)
    cancel = export_task_pb2.CancelExportTaskRequest(export_task_id=second)
    await stage.run("CancelExportTask", cancel)
    await status(stage, second, "deleted")
    assert second not in played.exports
    await refused("IncorrectState", stage.run("CancelExportTask", cancel))
    played.broken = Unsupported("not yet")
    third = (await stage.run("ExportImage", request)).export_image_task_id
    await status(stage, third, "deleted")


async def test_only_an_image_with_one_disk_is_exported(stage: Stage, image_id: str) -> None:
    request = await export_an_image(stage)
    request.image_id = image_id
    await refused("UnsupportedOperation", stage.run("ExportImage", request))
    devices = [
        image_pb2.BlockDeviceMapping(device_name=name, ebs=image_pb2.EbsBlockDevice(snapshot_id=await snapshot(stage)))
        for name in ("/dev/sda1", "/dev/sdf")
    ]
    two = image_pb2.RegisterImageRequest(name="two disks", block_device_mappings=devices)
    request.image_id = (await stage.run("RegisterImage", two)).image_id
    await refused("UnsupportedOperation", stage.run("ExportImage", request))


async def test_an_account_has_twenty_tasks_of_a_kind_under_way_at_most(stage: Stage) -> None:
    for _ in range(20):
        await import_snapshot_task(stage)
    await refused("ResourceCountLimitExceeded", import_snapshot_task(stage))
    assert (await stage.run("ImportImage", import_an_image())).import_task_id
    assert await import_snapshot_task(stage.of_the_other())


async def test_tasks_are_filtered_and_paged(stage: Stage) -> None:
    made = [await import_snapshot_task(stage) for _ in range(3)]
    request = import_task_pb2.DescribeImportSnapshotTasksRequest(
        filters=[Filter(name="task-state", values=["active"])], max_results=2
    )
    first = await stage.run("DescribeImportSnapshotTasks", request)
    request.next_token = first.next_token
    second = await stage.run("DescribeImportSnapshotTasks", request)
    assert [t.import_task_id for t in (*first.import_snapshot_tasks, *second.import_snapshot_tasks)] == made
    assert not (
        await stage.run("DescribeImportImageTasks", import_task_pb2.DescribeImportImageTasksRequest())
    ).import_image_tasks


async def test_a_snapshot_goes_when_its_export_has_ended(stage: Stage, leader: Leader, played: PlayedSnapshots) -> None:
    request = await export_an_image(stage)
    task_id = (await stage.run("ExportImage", request)).export_image_task_id
    await eventually(lambda: task_id in played.exports)
    away = image_pb2.DeregisterImageRequest(image_id=request.image_id, delete_associated_snapshots=True)
    await stage.run("DeregisterImage", away)
    await leader._snapshots.loops[0].idle()
    assert stage.images.forgotten == set()
    played.exported(task_id, sc.SNAPSHOT_STATE_COMPLETED)
    await eventually(lambda: stage.cloud.store.count(record_pb2.SnapshotRecord) == 0)
    assert len(stage.images.forgotten) == 1


async def test_of_the_older_tools_there_are_no_tasks(stage: Stage) -> None:
    read = import_task_pb2.DescribeConversionTasksRequest()
    assert not (await stage.run("DescribeConversionTasks", read)).conversion_tasks
    exports = export_task_pb2.DescribeExportTasksRequest()
    assert not (await stage.run("DescribeExportTasks", exports)).export_tasks
    read.conversion_task_ids.append("import-i-0123456789abcdef0")
    with pytest.raises(NotFound) as refused:
        await stage.run("DescribeConversionTasks", read)
    assert refused.value.code == "InvalidConversionTaskId"
    exports.export_task_ids.append("export-i-0123456789abcdef0")
    with pytest.raises(NotFound) as refused:
        await stage.run("DescribeExportTasks", exports)
    assert refused.value.code == "InvalidExportTaskID.NotFound"

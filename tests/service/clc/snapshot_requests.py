"""Each action on snapshots, images of snapshots, imports and exports, with every member set."""

from __future__ import annotations

from typing import Any, Final

from common.ids import SnapshotId, VolumeId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import export_task_pb2, image_pb2, import_task_pb2, snapshot_pb2, tag_pb2
from mallee.ec2.v1.filter_pb2 import Filter
from services.clc.clock import timestamp
from services.clc.snapshot import rules
from services.clc.store import Changes
from tests.service.clc.making import Make, constantly, of, reads, running, tagged
from tests.service.clc.stage import Stage

ZONE: Final = "us-east-1a"


async def store(stage: Stage, *records: Any) -> None:
    changes = Changes()
    for record in records:
        changes.create(record)
    await stage.cloud.store.commit(changes)


def volume_record(stage: Stage, **more: Any) -> record_pb2.VolumeRecord:
    given: dict[str, Any] = {
        "volume_id": VolumeId.new(),
        "account_id": stage.callers[0].account_id,
        "zone": ZONE,
        "state": record_pb2.VOLUME_STATE_AVAILABLE,
        "size_gib": 8,
        "volume_type": "gp2",
        "iops": 100,
        "created": timestamp(stage.now),
    }
    return record_pb2.VolumeRecord(**(given | more))


async def volume(stage: Stage) -> str:
    """One that is there already."""
    record = volume_record(stage)
    await store(stage, record)
    return record.volume_id


def snapshot_record(stage: Stage, **more: Any) -> record_pb2.SnapshotRecord:
    """One that is completed."""
    given: dict[str, Any] = {
        "snapshot_id": SnapshotId.new(),
        "account_id": stage.callers[0].account_id,
        "state": rules.COMPLETED,
        "volume_id": VolumeId.new(),
        "volume_size_gib": 8,
        "started": timestamp(stage.now),
        "completed": timestamp(stage.now),
        "progress_percent": 100,
        "zone": ZONE,
    }
    return record_pb2.SnapshotRecord(**(given | more))


async def snapshot(stage: Stage) -> str:
    record = snapshot_record(stage)
    await store(stage, record)
    return record.snapshot_id


async def image_of_a_snapshot(stage: Stage, name: str = "on a volume") -> str:
    device = image_pb2.BlockDeviceMapping(
        device_name="/dev/sda1", ebs=image_pb2.EbsBlockDevice(snapshot_id=await snapshot(stage))
    )
    request = image_pb2.RegisterImageRequest(name=name, block_device_mappings=[device])
    return str((await stage.run("RegisterImage", request)).image_id)


async def on_volumes(stage: Stage) -> tuple[str, list[str]]:
    """A running instance, its root and two other volumes."""
    instance_id = await running(stage)
    stored = stage.cloud.store.get(record_pb2.InstanceRecord, instance_id)
    assert stored is not None
    draft = stored.draft()
    draft.state = record_pb2.INSTANCE_STATE_RUNNING
    draft.root_device_type, draft.root_device_name = "ebs", "/dev/sda1"
    volumes = [
        volume_record(
            stage,
            zone=draft.zone,
            state=record_pb2.VOLUME_STATE_IN_USE,
            tags={"disk": name},
            attachment=record_pb2.VolumeAttachmentRecord(
                instance_id=instance_id,
                device_name=name,
                slot=slot,
                state=record_pb2.ATTACHMENT_STATE_ATTACHED,
                delete_on_termination=slot == 0,
            ),
        )
        for slot, name in ((0, "/dev/sda1"), (5, "/dev/sdf"), (6, "/dev/sdg"))
    ]
    changes = Changes()
    changes.update(stored, draft)
    for record in volumes:
        changes.create(record)
    await stage.cloud.store.commit(changes)
    return instance_id, [record.volume_id for record in volumes]


async def create_snapshots(stage: Stage) -> Any:
    instance_id, volumes = await on_volumes(stage)
    return snapshot_pb2.CreateSnapshotsRequest(
        description="all",
        instance_specification=snapshot_pb2.InstanceSpecification(
            instance_id=instance_id, exclude_boot_volume=True, exclude_data_volume_ids=[volumes[2]]
        ),
        tag_specifications=tagged("snapshot"),
        copy_tags_from_source="volume",
        location="regional",
    )


async def create_image(stage: Stage) -> Any:
    instance_id, _ = await on_volumes(stage)
    return image_pb2.CreateImageRequest(
        tag_specifications=[*tagged("image"), *tagged("snapshot")],
        snapshot_location="regional",
        instance_id=instance_id,
        name="taken",
        description="of an instance",
        no_reboot=True,
        block_device_mappings=[
            image_pb2.BlockDeviceMapping(device_name="/dev/sdg", no_device=""),
            image_pb2.BlockDeviceMapping(device_name="/dev/sdh", virtual_name="ephemeral0"),
            image_pb2.BlockDeviceMapping(device_name="/dev/sdi", ebs=await ebs(stage)),
        ],
    )


async def ebs(stage: Stage) -> image_pb2.EbsBlockDevice:
    return image_pb2.EbsBlockDevice(
        delete_on_termination=False,
        iops=3100,
        snapshot_id=await snapshot(stage),
        volume_size=10,
        volume_type="gp3",
        encrypted=False,
        throughput=130,
    )


async def register_a_snapshot(stage: Stage) -> Any:
    root = await ebs(stage)
    # What is on a snapshot is encrypted or not.
    root.ClearField("encrypted")
    return image_pb2.RegisterImageRequest(
        name="on a volume",
        root_device_name="/dev/sda1",
        block_device_mappings=[image_pb2.BlockDeviceMapping(device_name="/dev/sda1", ebs=root)],
    )


def import_a_snapshot() -> Any:
    return import_task_pb2.ImportSnapshotRequest(
        client_token="once",
        description="a disk",
        disk_container=import_task_pb2.SnapshotDiskContainer(
            description="its disk",
            format="RAW",
            user_bucket=import_task_pb2.UserBucket(s3_bucket="bucket", s3_key="machine"),
        ),
        encrypted=False,
        role_name="vmimport",
        tag_specifications=tagged("import-snapshot-task"),
    )


def import_an_image() -> Any:
    return import_task_pb2.ImportImageRequest(
        architecture="x86_64",
        client_token="once",
        description="a machine",
        disk_containers=[
            import_task_pb2.ImageDiskContainer(
                description="its root", device_name="/dev/sda1", format="qcow2", url="s3://bucket/machine"
            ),
            import_task_pb2.ImageDiskContainer(
                format="VMDK", user_bucket=import_task_pb2.UserBucket(s3_bucket="bucket", s3_key="other")
            ),
        ],
        encrypted=False,
        hypervisor="xen",
        license_type="BYOL",
        platform="Linux",
        role_name="vmimport",
        tag_specifications=tagged("import-image-task"),
        usage_operation="RunInstances",
        boot_mode="legacy-bios",
    )


async def import_of_a_snapshot(stage: Stage) -> Any:
    container = import_task_pb2.ImageDiskContainer(snapshot_id=await snapshot(stage))
    return import_task_pb2.ImportImageRequest(disk_containers=[container])


async def import_snapshot_task(stage: Stage) -> str:
    request = import_a_snapshot()
    request.client_token = ""
    return str((await stage.run("ImportSnapshot", request)).import_task_id)


async def import_image_task(stage: Stage) -> str:
    request = import_an_image()
    request.client_token = ""
    return str((await stage.run("ImportImage", request)).import_task_id)


async def export_an_image(stage: Stage) -> Any:
    return export_task_pb2.ExportImageRequest(
        client_token="once",
        description="out",
        disk_image_format="VMDK",
        image_id=await image_of_a_snapshot(stage),
        s3_export_location=export_task_pb2.ExportTaskS3LocationRequest(s3_bucket="bucket", s3_prefix="exports/"),
        role_name="vmimport",
        tag_specifications=tagged("export-image-task"),
    )


async def export_task(stage: Stage) -> str:
    request = await export_an_image(stage)
    request.client_token = ""
    return str((await stage.run("ExportImage", request)).export_image_task_id)


def _permission(user_id: str) -> Any:
    add = [snapshot_pb2.CreateVolumePermission(user_id=user_id)]
    return snapshot_pb2.CreateVolumePermissionModifications(add=add)


_PERMISSION: Final = "createVolumePermission"
# AWS has no DryRun for it.
WITHOUT_DRY_RUN: Final = {"CancelExportTask", "DescribeExportTasks"}

SNAPSHOTS: dict[str, Make] = {
    "CreateSnapshot": of(
        volume,
        snapshot_pb2.CreateSnapshotRequest(
            description="first", tag_specifications=tagged("snapshot"), location="regional"
        ),
        "volume_id",
    ),
    "CreateSnapshots": create_snapshots,
    "DeleteSnapshot": of(snapshot, snapshot_pb2.DeleteSnapshotRequest(), "snapshot_id"),
    "DescribeSnapshots": reads(
        snapshot_pb2.DescribeSnapshotsRequest(owner_ids=["self"], restorable_by_user_ids=["self"]), status="*"
    ),
    "DescribeSnapshotAttribute": of(
        snapshot, snapshot_pb2.DescribeSnapshotAttributeRequest(attribute=_PERMISSION), "snapshot_id"
    ),
    "ModifySnapshotAttribute": of(
        snapshot,
        snapshot_pb2.ModifySnapshotAttributeRequest(
            attribute=_PERMISSION, operation_type="add", group_names=["all"], user_ids=["123456789012"]
        ),
        "snapshot_id",
    ),
    "ResetSnapshotAttribute": of(
        snapshot, snapshot_pb2.ResetSnapshotAttributeRequest(attribute=_PERMISSION), "snapshot_id"
    ),
    "CopySnapshot": of(
        snapshot,
        snapshot_pb2.CopySnapshotRequest(
            description="second",
            destination_region="us-east-1",
            encrypted=False,
            presigned_url="http://127.0.0.1/?Action=CopySnapshot",
            source_region="us-east-1",
            tag_specifications=tagged("snapshot"),
        ),
        "source_snapshot_id",
    ),
    "CreateImage": create_image,
    "CopyImage": of(
        image_of_a_snapshot,
        image_pb2.CopyImageRequest(
            client_token="once",
            description="second",
            encrypted=False,
            name="copied",
            source_region="us-east-1",
            copy_image_tags=True,
            tag_specifications=[*tagged("image"), *tagged("snapshot")],
        ),
        "source_image_id",
    ),
    "ImportSnapshot": constantly(import_a_snapshot()),
    "DescribeImportSnapshotTasks": reads(import_task_pb2.DescribeImportSnapshotTasksRequest(), task_state="active"),
    "ImportImage": constantly(import_an_image()),
    "DescribeImportImageTasks": reads(import_task_pb2.DescribeImportImageTasksRequest(), task_state="active"),
    "DescribeConversionTasks": constantly(import_task_pb2.DescribeConversionTasksRequest()),
    "CancelImportTask": of(
        import_snapshot_task, import_task_pb2.CancelImportTaskRequest(cancel_reason="enough"), "import_task_id"
    ),
    "ExportImage": export_an_image,
    "DescribeExportImageTasks": reads(export_task_pb2.DescribeExportImageTasksRequest(), task_state="active"),
    "DescribeExportTasks": constantly(
        export_task_pb2.DescribeExportTasksRequest(filters=[Filter(name="tag:a", values=["b"])])
    ),
    "CancelExportTask": of(export_task, export_task_pb2.CancelExportTaskRequest(), "export_task_id"),
}

SNAPSHOTS_NAMED: dict[tuple[str, str], Make] = {
    ("CancelImportTask", "of an image"): of(
        import_image_task, import_task_pb2.CancelImportTaskRequest(), "import_task_id"
    ),
    ("CreateTags", "on a snapshot"): of(
        snapshot, tag_pb2.CreateTagsRequest(tags=[tag_pb2.Tag(key="a", value="b")]), "resources"
    ),
    ("DeregisterImage", "with its snapshots"): of(
        image_of_a_snapshot, image_pb2.DeregisterImageRequest(delete_associated_snapshots=True), "image_id"
    ),
    ("DescribeExportImageTasks", "by id"): of(
        export_task, export_task_pb2.DescribeExportImageTasksRequest(), "export_image_task_ids"
    ),
    ("DescribeImageAttribute", "devices"): of(
        image_of_a_snapshot,
        image_pb2.DescribeImageAttributeRequest(attribute="blockDeviceMapping"),
        "image_id",
    ),
    ("DescribeImportImageTasks", "by id"): of(
        import_image_task, import_task_pb2.DescribeImportImageTasksRequest(), "import_task_ids"
    ),
    ("DescribeImportSnapshotTasks", "by id"): of(
        import_snapshot_task, import_task_pb2.DescribeImportSnapshotTasksRequest(), "import_task_ids"
    ),
    ("DescribeSnapshots", "by id"): of(snapshot, snapshot_pb2.DescribeSnapshotsRequest(), "snapshot_ids"),
    ("ImportImage", "of a snapshot"): import_of_a_snapshot,
    ("ModifySnapshotAttribute", "as a structure"): of(
        snapshot,
        snapshot_pb2.ModifySnapshotAttributeRequest(create_volume_permission=_permission("123456789012")),
        "snapshot_id",
    ),
    ("RegisterImage", "of a snapshot"): register_a_snapshot,
}

"""Disk images of a bucket that become snapshots and images, and the way back, through EC2's clients."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud
from tests.eventually import eventually

SOON = {"Delay": 0.2, "MaxAttempts": 150}
ACCOUNT, BUCKET = "imports", "disks-of-imports"
# A disk with something at its begin and in its midst.
SIZE = 3 << 20
DISK = (bytes(510) + b"\x55\xaa").ljust(1 << 20, b"\0") + b"data".ljust(SIZE - (1 << 20), b"\0")


@pytest.fixture(scope="module")
def ec2(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2", ACCOUNT)


@pytest.fixture(scope="module")
def s3(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("s3", ACCOUNT)


@pytest.fixture(scope="module")
def disks(s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One disk in each format, and one with a backing file."""
    folder: Path = tmp_path_factory.mktemp("disks")
    (folder / "disk.raw").write_bytes(DISK)
    for kind, options in (("qcow2", []), ("vmdk", ["-o", "subformat=streamOptimized"])):
        qemu_img("convert", "-q", "-O", kind, *options, f"{folder}/disk.raw", f"{folder}/disk.{kind}")
    qemu_img("create", "-qu", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", f"{folder}/hostile.qcow2", "1M")
    s3.create_bucket(Bucket=BUCKET)
    for file in folder.iterdir():
        s3.put_object(Bucket=BUCKET, Key=file.name, Body=file.read_bytes())
    yield
    for kept in s3.list_objects_v2(Bucket=BUCKET)["Contents"]:
        s3.delete_object(Bucket=BUCKET, Key=kept["Key"])
    s3.delete_bucket(Bucket=BUCKET)


@pytest.fixture(scope="module")
def foreign_bucket(fake_cloud: RunningCloud) -> Iterator[str]:
    """With a disk that its owner alone may read."""
    s3, name = fake_cloud.client("s3", "neighbour"), "disks-of-a-neighbour"
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="disk.raw", Body=DISK)
    yield name
    s3.delete_object(Bucket=name, Key="disk.raw")
    s3.delete_bucket(Bucket=name)


def qemu_img(*arguments: str) -> None:
    subprocess.run(["qemu-img", *arguments], check=True)


def container(key: str, form: str) -> dict[str, Any]:
    return {"Format": form, "UserBucket": {"S3Bucket": BUCKET, "S3Key": key}}


async def ended(task: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    await eventually(lambda: task()["Status"] in ("completed", "deleted", "error"), within_s=60, every_s=0.2)
    return task()


def import_image_task(ec2: Any, task_id: str) -> Callable[[], dict[str, Any]]:
    return lambda: ec2.describe_import_image_tasks(ImportTaskIds=[task_id])["ImportImageTasks"][0]


def export_task(ec2: Any, task_id: str) -> Callable[[], dict[str, Any]]:
    return lambda: ec2.describe_export_image_tasks(ExportImageTaskIds=[task_id])["ExportImageTasks"][0]


@pytest.mark.parametrize("kind", ["raw", "qcow2", "vmdk"])
def test_a_disk_image_becomes_a_snapshot(ec2: Any, disks: None, kind: str) -> None:
    task = ec2.import_snapshot(Description=f"of {kind}", DiskContainer=container(f"disk.{kind}", kind.upper()))
    assert task["ImportTaskId"].startswith("import-snap-")
    assert task["SnapshotTaskDetail"]["Status"] == "active"
    ids = [task["ImportTaskId"]]
    ec2.get_waiter("snapshot_imported").wait(ImportTaskIds=ids, WaiterConfig=SOON)
    (shown,) = ec2.describe_import_snapshot_tasks(ImportTaskIds=ids)["ImportSnapshotTasks"]
    detail = shown["SnapshotTaskDetail"]
    (snapshot,) = ec2.describe_snapshots(SnapshotIds=[detail["SnapshotId"]])["Snapshots"]
    assert (snapshot["State"], snapshot["VolumeSize"], snapshot["Description"]) == ("completed", 1, f"of {kind}")
    # Two blocks of 512 KiB are not zero.
    assert snapshot["FullSnapshotSizeInBytes"] == 1 << 20
    with refused("IncorrectState"):
        ec2.cancel_import_task(ImportTaskId=ids[0])
    ec2.delete_snapshot(SnapshotId=detail["SnapshotId"])


@pytest.mark.parametrize(
    ("bucket", "key", "code"),
    [
        (BUCKET, "hostile.qcow2", "InvalidParameterValue"),
        (BUCKET, "absent", "NoSuchKey"),
        ("no-such-bucket-of-tests", "disk.raw", "NoSuchBucket"),
        ("disks-of-a-neighbour", "disk.raw", "AccessDenied"),
    ],
)
async def test_an_import_that_fails_says_why_and_leaves_nothing(
    ec2: Any, disks: None, foreign_bucket: str, bucket: str, key: str, code: str
) -> None:
    place = {"UserBucket": {"S3Bucket": bucket, "S3Key": key}}
    task_id = ec2.import_snapshot(DiskContainer=place)["ImportTaskId"]

    def detail() -> dict[str, Any]:
        (task,) = ec2.describe_import_snapshot_tasks(ImportTaskIds=[task_id])["ImportSnapshotTasks"]
        found: dict[str, Any] = task["SnapshotTaskDetail"]
        return found

    failed = await ended(detail)
    assert failed["Status"] == "error"
    assert failed["StatusMessage"].split(": ")[:2] == ["ClientError", code]
    assert ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"] == []


async def test_an_image_is_imported_and_exported_with_the_same_bytes(
    ec2: Any, s3: Any, disks: None, foreign_bucket: str, tmp_path: Path
) -> None:
    imported = ec2.import_image(Description="a machine", DiskContainers=[container("disk.qcow2", "qcow2")])
    assert imported["ImportTaskId"].startswith("import-ami-")
    task = await ended(import_image_task(ec2, imported["ImportTaskId"]))
    assert task["Status"] == "completed", task
    (image,) = ec2.describe_images(ImageIds=[task["ImageId"]])["Images"]
    assert (image["Name"], image["State"]) == (imported["ImportTaskId"], "available")
    assert image["ImageLocation"] == f"{image['OwnerId']}/{image['Name']}"
    target = {"S3Bucket": BUCKET, "S3Prefix": "exports/"}
    for form in ("RAW", "VMDK"):
        export = ec2.export_image(ImageId=task["ImageId"], DiskImageFormat=form, S3ExportLocation=target)
        task_id = export["ExportImageTaskId"]
        done = await ended(export_task(ec2, task_id))
        assert done["Status"] == "completed", done
        body = s3.get_object(Bucket=BUCKET, Key=f"exports/{task_id}.{form.lower()}")["Body"].read()
        if form == "VMDK":
            (tmp_path / "out.vmdk").write_bytes(body)
            await asyncio.to_thread(qemu_img, "convert", "-O", "raw", f"{tmp_path}/out.vmdk", f"{tmp_path}/out.raw")
            body = (tmp_path / "out.raw").read_bytes()
        assert body.rstrip(b"\0") == DISK.rstrip(b"\0")
    with refused("IncorrectState"):
        ec2.cancel_export_task(ExportTaskId=task_id)
    for bucket, code in (("no-such-bucket-of-tests", "NoSuchBucket"), (foreign_bucket, "AccessDenied")):
        location = {"S3Bucket": bucket}
        lost = ec2.export_image(ImageId=task["ImageId"], DiskImageFormat="RAW", S3ExportLocation=location)
        failed = await ended(export_task(ec2, lost["ExportImageTaskId"]))
        assert (failed["Status"], failed["StatusMessage"].split(": ")[:2]) == ("deleted", ["ClientError", code])
    ec2.deregister_image(ImageId=task["ImageId"], DeleteAssociatedSnapshots=True)


async def test_a_cancelled_import_is_deleted(ec2: Any, disks: None) -> None:
    imported = ec2.import_image(DiskContainers=[container("disk.raw", "RAW"), container("disk.vmdk", "VMDK")])
    cancelled = ec2.cancel_import_task(ImportTaskId=imported["ImportTaskId"], CancelReason="enough")
    assert (cancelled["PreviousState"], cancelled["State"]) == ("active", "deleting")
    task = await ended(import_image_task(ec2, imported["ImportTaskId"]))
    assert (task["Status"], task["StatusMessage"]) == ("deleted", "enough")
    assert ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"] == []


def test_tasks_carry_tags_and_are_their_accounts_own(ec2: Any, disks: None, fake_cloud: RunningCloud) -> None:
    tags = [{"ResourceType": "import-snapshot-task", "Tags": [{"Key": "Name", "Value": "tested"}]}]
    wanted = {
        "DiskContainer": container("disk.raw", "RAW"), "TagSpecifications": tags, "ClientToken": "once"
    }  # fmt: skip
    task_id = ec2.import_snapshot(**wanted)["ImportTaskId"]
    assert ec2.import_snapshot(**wanted)["ImportTaskId"] == task_id
    ec2.create_tags(Resources=[task_id], Tags=[{"Key": "more", "Value": "x"}])
    named = [{"Name": "tag:Name", "Values": ["tested"]}]
    (shown,) = ec2.describe_import_snapshot_tasks(Filters=named)["ImportSnapshotTasks"]
    assert {tag["Key"] for tag in shown["Tags"]} == {"Name", "more"}
    other = fake_cloud.client("ec2", "neighbour")
    with refused("InvalidConversionTaskId"):
        other.cancel_import_task(ImportTaskId=task_id)
    assert other.describe_import_snapshot_tasks()["ImportSnapshotTasks"] == []
    assert other.describe_conversion_tasks()["ConversionTasks"] == []
    assert other.describe_export_tasks()["ExportTasks"] == []
    ec2.get_waiter("snapshot_imported").wait(ImportTaskIds=[task_id], WaiterConfig=SOON)
    (made,) = ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    ec2.delete_snapshot(SnapshotId=made["SnapshotId"])

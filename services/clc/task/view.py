"""What the views of all tasks have in common."""

from __future__ import annotations

from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import import_task_pb2 as ec2
from services.clc.task import rules


def progress_of(task: record_pb2.TaskRecord) -> str | None:
    """Percent, while it is under way."""
    return str(task.progress_percent) if task.status == rules.ACTIVE else None


def bucket_of(disk: record_pb2.ImportDiskRecord) -> ec2.UserBucketDetails | None:
    """None where its owner named it otherwise."""
    if disk.url or not disk.bucket:
        return None
    return ec2.UserBucketDetails(s3_bucket=disk.bucket, s3_key=disk.key.decode())

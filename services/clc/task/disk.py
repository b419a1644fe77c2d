"""The disk images that imports are made of: where they lie, and what their owner says they are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote, urlsplit

from common.errors import InvalidArgument, Unsupported
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import import_task_pb2 as ec2
from mallee.sc.v1 import service_pb2 as sc
from mallee.sc.v1 import snapshot_pb2 as sc_snapshot

# io2's and gp3's largest volume.
_MOST_BYTES: Final = 64 << 40
_MOST_KEY: Final = 1024
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
FORMATS: Final = {
    "": sc_snapshot.DISK_FORMAT_UNSPECIFIED,
    "raw": sc_snapshot.DISK_FORMAT_RAW,
    "qcow2": sc_snapshot.DISK_FORMAT_QCOW2,
    "vmdk": sc_snapshot.DISK_FORMAT_VMDK,
}
# AWS takes them, this cloud does not.
_OTHER_FORMATS: Final = ("ova", "ovf", "vhd", "vhdx")

Container = ec2.SnapshotDiskContainer | ec2.ImageDiskContainer


def disk_of(container: Container) -> record_pb2.ImportDiskRecord:
    """Raises InvalidArgument, Unsupported."""
    check_format(container.format)
    if container.HasField("user_bucket") and container.url:
        raise InvalidArgument(
            "The parameter url cannot be used with the parameter userBucket", code="InvalidParameterCombination"
        )
    if len(container.description) > 255:
        raise InvalidArgument("Character limit exceeded: the description may have 255 characters")
    if container.url:
        bucket, key = _place(container.url)
    else:
        bucket, key = container.user_bucket.s3_bucket, container.user_bucket.s3_key
    check_bucket(bucket, "S3Bucket")
    check_key(key, "S3Key")
    return record_pb2.ImportDiskRecord(
        description=container.description, format=container.format, bucket=bucket, key=key.encode(), url=container.url
    )


def check_format(given: str) -> None:
    if given.lower() in _OTHER_FORMATS:
        raise Unsupported(f"The disk image format {given.upper()} is not supported by this cloud.")
    if given.lower() not in FORMATS:
        raise InvalidArgument(f"Value ({given}) for parameter format is invalid: {', '.join(filter(None, FORMATS))}")


def check_bucket(bucket: str, parameter: str) -> None:
    if not bucket:
        raise InvalidArgument(f"The request must contain the parameter {parameter}", code="MissingParameter")
    if not _BUCKET.fullmatch(bucket):
        raise InvalidArgument(f"Value ({bucket}) for parameter {parameter} is invalid: no bucket is called that.")


def check_key(key: str, parameter: str) -> None:
    if not key:
        raise InvalidArgument(f"The request must contain the parameter {parameter}", code="MissingParameter")
    if len(key.encode()) > _MOST_KEY:
        raise InvalidArgument(f"Value for parameter {parameter} is invalid: a key has at most {_MOST_KEY} bytes.")


def import_order(snapshot: record_pb2.SnapshotRecord, task: record_pb2.TaskRecord) -> sc.ImportSnapshotRequest:
    disk = task.disks[list(task.snapshot_ids).index(snapshot.snapshot_id)]
    return sc.ImportSnapshotRequest(
        spec=sc_snapshot.ImportSpec(
            snapshot_id=snapshot.snapshot_id,
            account_id=snapshot.account_id,
            source=sc_snapshot.ObjectPlace(account_id=task.account_id, bucket=disk.bucket, key=disk.key),
            format=FORMATS[disk.format.lower()],
            most_bytes=_MOST_BYTES,
        )
    )


def percent_of(snapshots: Iterable[record_pb2.SnapshotRecord | None]) -> int:
    """Of all together, each counting the same."""
    shares = [snapshot.progress_percent if snapshot is not None else 0 for snapshot in snapshots]
    return sum(shares) // len(shares) if shares else 0


def _place(url: str) -> tuple[str, str]:
    """Bucket and key of s3://bucket/key, https://s3.region.domain/bucket/key, https://bucket.s3.region.domain/key."""
    refused = InvalidArgument(f"Value ({url[:256]}) for parameter url is invalid: expected s3://bucket/key")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise refused from None
    path = unquote(parts.path).removeprefix("/")
    match parts.scheme:
        case "s3":
            bucket, key = host, path
        case "http" | "https" if re.match(r"s3[.-]", host):
            bucket, _, key = path.partition("/")
        case "http" | "https" if found := re.match(r"(.+)\.s3[.-]", host):
            bucket, key = found[1], path
        case _:
            raise refused
    if not bucket or not key:
        raise refused
    return bucket, key

"""CopySnapshot, within the one region there is: no block is copied, but the copy is whole by itself."""

from __future__ import annotations

from common.errors import InvalidArgument
from common.ids import SnapshotId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import snapshot_pb2 as ec2
from services.clc.clock import timestamp
from services.clc.snapshot import rules
from services.clc.snapshot.create import check_description
from services.clc.snapshot.find import completed_snapshot
from services.clc.store import Changes, until_committed
from services.clc.tag import rules as tags
from services.clc.tag.view import shown
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

# What clients sign a request for another region's API into.
_MOST_URL = 8192


@use_case("ec2.CopySnapshot")
async def copy_snapshot(cloud: Cloud, call: Call, request: ec2.CopySnapshotRequest) -> ec2.CopySnapshotResult:
    check_region(cloud, request.source_region, "sourceRegion")
    if request.HasField("destination_region"):
        check_region(cloud, request.destination_region, "destinationRegion")
    if len(request.presigned_url) > _MOST_URL:
        raise InvalidArgument("Value for parameter presignedUrl is too long.")
    check_description(request.description)
    given_tags = tags.from_specifications(request.tag_specifications, allowed=["snapshot"])["snapshot"]

    async def attempt() -> ec2.CopySnapshotResult:
        source = completed_snapshot(cloud.store, call.account_id, request.source_snapshot_id)
        end_dry_run(request)
        record = copy_of(call, source.record, request.description)
        record.tags.update(given_tags)
        changes = Changes()
        changes.require(source)
        changes.create(record)
        await cloud.store.commit(changes)
        return ec2.CopySnapshotResult(snapshot_id=record.snapshot_id, tags=shown(record.tags))

    return await until_committed(attempt)


def copy_of(call: Call, source: record_pb2.SnapshotRecord, description: str) -> record_pb2.SnapshotRecord:
    return record_pb2.SnapshotRecord(
        snapshot_id=SnapshotId.new(),
        account_id=call.account_id,
        state=rules.PENDING,
        volume_id=rules.NO_VOLUME,
        volume_size_gib=source.volume_size_gib,
        description=description,
        started=timestamp(call.now),
        source_snapshot_id=source.snapshot_id,
        request_id=call.request_id,
    )


def check_region(cloud: Cloud, region: str, parameter: str) -> None:
    """Raises InvalidArgument for any but the one there is."""
    if not region:
        raise InvalidArgument(f"The request must contain the parameter {parameter}", code="MissingParameter")
    if region != cloud.config.region:
        raise InvalidArgument(f"Invalid value '{region}' for {parameter}: this cloud is {cloud.config.region}.")

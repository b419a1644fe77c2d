"""DescribeVolumes and DescribeSnapshots of a cloud without block storage: there is none, and one that is named is not
there."""

from __future__ import annotations

from collections.abc import Sequence

from mallee.ec2.v1 import snapshot_pb2, volume_pb2
from services.clc.filters import FilterTable
from services.clc.lookup import SNAPSHOT, VOLUME, Kind, check_accounts
from services.clc.paging import page
from services.clc.tag.view import as_mapping
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.vpc.describe import max_results_of

_VOLUME_FILTERS = FilterTable[volume_pb2.Volume](
    "ec2.DescribeVolumes",
    {
        "attachment.attach-time": lambda v: [a.attach_time.ToJsonString() for a in v.attachments],
        "attachment.delete-on-termination": lambda v: [
            "true" if a.delete_on_termination else "false" for a in v.attachments
        ],
        "attachment.device": lambda v: [a.device for a in v.attachments],
        "attachment.instance-id": lambda v: [a.instance_id for a in v.attachments],
        "attachment.status": lambda v: [a.state for a in v.attachments],
        "availability-zone": lambda v: v.availability_zone,
        "availability-zone-id": lambda v: v.availability_zone_id,
        "create-time": lambda v: v.create_time.ToJsonString(),
        "encrypted": lambda v: v.encrypted,
        "multi-attach-enabled": lambda v: v.multi_attach_enabled,
        "size": lambda v: v.size,
        "snapshot-id": lambda v: v.snapshot_id,
        "status": lambda v: v.state,
        "volume-id": lambda v: v.volume_id,
        "volume-type": lambda v: v.volume_type,
    },
    tags=lambda v: as_mapping(v.tags),
    absent=(
        "fast-restored",
        "operator.managed",
        "operator.principal",
    ),
)
_SNAPSHOT_FILTERS = FilterTable[snapshot_pb2.Snapshot](
    "ec2.DescribeSnapshots",
    {
        "description": lambda s: s.description,
        "encrypted": lambda s: s.encrypted,
        "owner-alias": lambda s: s.owner_alias,
        "owner-id": lambda s: s.owner_id,
        "progress": lambda s: s.progress,
        "snapshot-id": lambda s: s.snapshot_id,
        "start-time": lambda s: s.start_time.ToJsonString(),
        "status": lambda s: s.state,
        "volume-id": lambda s: s.volume_id,
        "volume-size": lambda s: s.volume_size,
    },
    tags=lambda s: as_mapping(s.tags),
    absent=(
        "storage-tier",
        "transfer-type",
    ),
)


@use_case("ec2.DescribeVolumes")
async def describe_volumes(
    cloud: Cloud, call: Call, request: volume_pb2.DescribeVolumesRequest
) -> volume_pb2.DescribeVolumesResult:
    matches, limit = _VOLUME_FILTERS.matcher(request.filters), max_results_of(request)
    end_dry_run(request)
    _find_none(VOLUME, request.volume_ids)
    there: list[volume_pb2.Volume] = []
    shown, token = page(filter(matches, there), key=lambda v: v.volume_id, max_results=limit, request=request)
    return volume_pb2.DescribeVolumesResult(volumes=shown, next_token=token)


@use_case("ec2.DescribeSnapshots")
async def describe_snapshots(
    cloud: Cloud, call: Call, request: snapshot_pb2.DescribeSnapshotsRequest
) -> snapshot_pb2.DescribeSnapshotsResult:
    matches, limit = _SNAPSHOT_FILTERS.matcher(request.filters), max_results_of(request)
    check_accounts(request.owner_ids, words=("self", "amazon", "aws-marketplace"))
    check_accounts(request.restorable_by_user_ids, words=("self", "all"))
    end_dry_run(request)
    _find_none(SNAPSHOT, request.snapshot_ids)
    there: list[snapshot_pb2.Snapshot] = []
    shown, token = page(filter(matches, there), key=lambda s: s.snapshot_id, max_results=limit, request=request)
    return snapshot_pb2.DescribeSnapshotsResult(snapshots=shown, next_token=token)


def _find_none(kind: Kind, ids: Sequence[str]) -> None:
    for given in ids:
        kind.check(given)
    if ids:
        raise kind.missing(ids)

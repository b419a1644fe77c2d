"""DescribeSnapshots: the caller's own, those that are shared with it, and public ones."""

from __future__ import annotations

from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import snapshot_pb2 as ec2
from services.clc.clock import written
from services.clc.filters import FilterTable
from services.clc.listing import max_results_of, shown_page
from services.clc.lookup import check_accounts
from services.clc.paging import refuse_pages_of_named
from services.clc.snapshot.find import visible, visible_snapshots
from services.clc.snapshot.view import view
from services.clc.store import sorted_by_creation
from services.clc.tag.view import as_mapping
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_FILTERS = FilterTable[ec2.Snapshot](
    "ec2.DescribeSnapshots",
    {
        "description": lambda s: s.description,
        "encrypted": lambda s: s.encrypted,
        "owner-alias": lambda s: s.owner_alias or None,
        "owner-id": lambda s: s.owner_id,
        "progress": lambda s: s.progress,
        "snapshot-id": lambda s: s.snapshot_id,
        "start-time": lambda s: written(s.start_time),
        "status": lambda s: s.state,
        "storage-tier": lambda s: s.storage_tier,
        "transfer-type": lambda s: s.transfer_type or None,
        "volume-id": lambda s: s.volume_id,
        "volume-size": lambda s: s.volume_size,
    },
    tags=lambda s: as_mapping(s.tags),
)


@use_case("ec2.DescribeSnapshots")
async def describe_snapshots(
    cloud: Cloud, call: Call, request: ec2.DescribeSnapshotsRequest
) -> ec2.DescribeSnapshotsResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request, or_less=True)
    check_accounts(request.owner_ids, words=("self", "amazon", "aws-marketplace"))
    check_accounts(request.restorable_by_user_ids, words=("self", "all"))
    refuse_pages_of_named(request, request.snapshot_ids, "SnapshotIds")
    end_dry_run(request)
    if request.snapshot_ids:
        found = visible_snapshots(cloud.store, call.account_id, request.snapshot_ids)
    else:
        found = [s for s in cloud.store.all(record_pb2.SnapshotRecord) if visible(s.record, call.account_id)]
    wanted = (s for s in sorted_by_creation(found) if _asked_for(s.record, call, request))
    pairs = ((snapshot, view(snapshot.record, call.account_id)) for snapshot in wanted)
    views, token = shown_page(pairs, matches, request=request, limit=limit)
    return ec2.DescribeSnapshotsResult(snapshots=views, next_token=token)


def _asked_for(snapshot: record_pb2.SnapshotRecord, call: Call, request: ec2.DescribeSnapshotsRequest) -> bool:
    owners = {call.account_id if owner == "self" else owner for owner in request.owner_ids}
    users = {call.account_id if user == "self" else user for user in request.restorable_by_user_ids}
    if owners and snapshot.account_id not in owners:
        return False
    may = {*snapshot.create_account_ids, snapshot.account_id} | ({"all"} if snapshot.public else set())
    return not users or bool(users & may)

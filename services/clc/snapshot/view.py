"""Snapshots as EC2 shows them."""

from __future__ import annotations

from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import snapshot_pb2 as ec2
from services.clc.snapshot import rules
from services.clc.tag.view import shown


def view(record: record_pb2.SnapshotRecord, account_id: str) -> ec2.Snapshot:
    """Tags are the owner's own, and are not shared with the snapshot."""
    completed = record.state == rules.COMPLETED
    return ec2.Snapshot(
        snapshot_id=record.snapshot_id,
        volume_id=record.volume_id,
        volume_size=record.volume_size_gib,
        owner_id=record.account_id,
        state=rules.SHOWN[record.state],
        state_message=record.reason_message or None,
        progress=f"{record.progress_percent}%",
        start_time=record.started,
        completion_time=record.completed if completed else None,
        full_snapshot_size_in_bytes=record.full_bytes if completed else None,
        description=record.description,
        encrypted=False,
        storage_tier="standard",
        transfer_type="standard" if record.source_snapshot_id else None,
        tags=shown(record.tags) if record.account_id == account_id else [],
    )


def info(record: record_pb2.SnapshotRecord) -> ec2.SnapshotInfo:
    return ec2.SnapshotInfo(
        snapshot_id=record.snapshot_id,
        volume_id=record.volume_id,
        volume_size=record.volume_size_gib,
        owner_id=record.account_id,
        state=rules.SHOWN[record.state],
        progress=f"{record.progress_percent}%" if record.progress_percent else "",
        start_time=record.started,
        description=record.description,
        encrypted=False,
        tags=shown(record.tags),
    )

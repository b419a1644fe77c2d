"""What all tasks begin with: their records, and how many an account may have at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from common.errors import InvalidArgument, NoCapacity, Unavailable
from common.ids import SnapshotId
from mallee.clc.v1 import record_pb2
from services.clc.clock import timestamp
from services.clc.snapshot import rules as snapshots
from services.clc.store import Store
from services.clc.task import rules
from services.clc.use_case import Call, Cloud

# EC2 endpoints and quotas, VM Import/Export: of each kind, per account.
_MOST: Final = 20


def new_task(
    cloud: Cloud, call: Call, task_id: str, *, description: str, token: str, tags: Mapping[str, str]
) -> record_pb2.TaskRecord:
    """Raises NoCapacity (ResourceCountLimitExceeded), Unavailable when no zone could do it."""
    check_room(cloud.store, call.account_id, task_id)
    return record_pb2.TaskRecord(
        task_id=task_id,
        account_id=call.account_id,
        description=description,
        status=rules.ACTIVE,
        status_message="pending",
        created=timestamp(call.now),
        tags=tags,
        zone=zone_that_answers(cloud),
        client_token=token,
        request_id=call.request_id,
    )


def imported_snapshots(
    call: Call, task: record_pb2.TaskRecord, disks: Sequence[record_pb2.ImportDiskRecord]
) -> list[record_pb2.SnapshotRecord]:
    """What becomes of the disks of an import, in their order. None is seen before it is whole."""
    return [
        record_pb2.SnapshotRecord(
            snapshot_id=SnapshotId.new(),
            account_id=call.account_id,
            state=snapshots.PENDING,
            volume_id=snapshots.NO_VOLUME,
            description=disk.description or task.description or f"Created by AWS-VMImport service for {task.task_id}",
            started=timestamp(call.now),
            zone=task.zone,
            import_task_id=task.task_id,
            request_id=call.request_id,
        )
        for disk in disks
    ]


def check_role(role_name: str) -> None:
    """The one that AWS names by default; here nothing has to be permitted to it."""
    if role_name not in ("", "vmimport"):
        raise InvalidArgument(
            f"The service role {role_name} provided does not exist or does not have sufficient permissions"
        )


def check_room(store: Store, account_id: str, task_id: str) -> None:
    kind = task_id.rpartition("-")[0]
    under_way = sum(
        task.record.status in rules.UNDER_WAY and task.record.task_id.rpartition("-")[0] == kind
        for task in store.owned(record_pb2.TaskRecord, account_id)
    )
    if under_way >= _MOST:
        raise NoCapacity(
            f"You have {under_way} tasks of this kind under way; at most {_MOST} are done at once.",
            code="ResourceCountLimitExceeded",
        )


def zone_that_answers(cloud: Cloud) -> str:
    """The one with most room, which the work itself takes for a while."""
    connected = [zone for zone in cloud.storage if zone.connected]
    if not connected:
        raise Unavailable("No storage controller answers now; try again in a moment.")
    return max(connected, key=lambda zone: (zone.capacity.free_bytes if zone.capacity else 0, zone.zone)).zone

"""Whose snapshot is whose: the owner's own, and those that others may make volumes of."""

from __future__ import annotations

from collections.abc import Iterable

from common.errors import InvalidArgument, Unauthenticated, WrongState
from mallee.clc.v1 import record_pb2
from services.clc.lookup import SNAPSHOT, own, visible_all
from services.clc.snapshot import rules
from services.clc.store import Store, Stored

Snapshot = Stored[record_pb2.SnapshotRecord]


def visible(record: record_pb2.SnapshotRecord, account_id: str) -> bool:
    """Of an import it is seen when it is there: until then its task is."""
    if record.state not in rules.SHOWN or (record.import_task_id and record.state != rules.COMPLETED):
        return False
    return record.public or account_id == record.account_id or account_id in record.create_account_ids


def visible_snapshots(store: Store, account_id: str, ids: Iterable[str]) -> list[Snapshot]:
    """In the order asked. Raises NotFound, InvalidArgument."""
    return visible_all(store, SNAPSHOT, ids, lambda record: visible(record, account_id))


def own_snapshot(store: Store, account_id: str, snapshot_id: str) -> Snapshot:
    """Raises Unauthenticated (AuthFailure) for one that the account may use but does not own, else as `own`."""
    if not snapshot_id:
        raise InvalidArgument("The request must contain the parameter SnapshotId", code="MissingParameter")
    snapshot = store.get(record_pb2.SnapshotRecord, snapshot_id)
    if snapshot is not None and visible(snapshot.record, account_id):
        if snapshot.record.account_id != account_id:
            raise Unauthenticated(f"Not authorized for snapshot:{snapshot_id}", code="AuthFailure")
        return own(store, SNAPSHOT, account_id, snapshot_id)
    SNAPSHOT.check(snapshot_id)
    raise SNAPSHOT.missing([snapshot_id])


def completed_snapshot(store: Store, account_id: str, snapshot_id: str) -> Snapshot:
    """One that the account may make a volume or a copy of. Raises NotFound, InvalidArgument, WrongState."""
    (snapshot,) = visible_snapshots(store, account_id, [snapshot_id])
    if snapshot.record.state != rules.COMPLETED:
        raise WrongState(f"Snapshot is in invalid state - {rules.SHOWN[snapshot.record.state]}", code="IncorrectState")
    return snapshot


def use_of(snapshot_id: str) -> str:
    """What images bump when they are made of it, so that it is not deleted meanwhile."""
    return f"snapshot-use/{snapshot_id}"

"""The tasks and snapshots of an account that is being deleted: marked, so that their reconcilers take them away."""

from __future__ import annotations

from typing import Final

from mallee.clc.v1 import record_pb2
from services.clc.clock import timestamp
from services.clc.snapshot import rules
from services.clc.store import Changes
from services.clc.task import rules as tasks
from services.clc.task.cancel import cancel
from services.clc.use_case import Cloud

_BATCH: Final = 16


async def clear_snapshots(cloud: Cloud, account_id: str) -> int:
    """One pass; how many are still there. Its images may still name them: they are never launched again."""
    store = cloud.store
    owned = list(store.owned(record_pb2.TaskRecord, account_id))
    changes = Changes()
    for task in owned[:_BATCH]:
        if task.record.status == tasks.ACTIVE:
            cancel(store, changes, task, "Account deleted")
        elif task.record.status not in tasks.UNDER_WAY and task.record.ended.seconds:
            # Its time is over: it is forgotten now.
            draft = task.draft()
            draft.ended.CopyFrom(timestamp(0))
            changes.update(task, draft)
    if owned:
        if changes:
            await store.commit(changes)
        return len(owned)
    snapshots = list(store.owned(record_pb2.SnapshotRecord, account_id))
    marked = [snapshot for snapshot in snapshots if snapshot.record.state != rules.DELETING]
    for snapshot in marked[: _BATCH * 3]:
        draft_snapshot = snapshot.draft()
        draft_snapshot.state = rules.DELETING
        changes.update(snapshot, draft_snapshot)
    if changes:
        await store.commit(changes)
    return len(snapshots)

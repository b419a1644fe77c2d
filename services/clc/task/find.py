"""Tasks by their ids, and all of a kind: three kinds of ids name records of one type."""

from __future__ import annotations

from collections.abc import Sequence

from mallee.clc.v1 import record_pb2
from services.clc.lookup import Noun, own, own_all
from services.clc.store import Stored, sorted_by_creation
from services.clc.use_case import Call, Cloud

Task = Stored[record_pb2.TaskRecord]
TaskNoun = Noun[record_pb2.TaskRecord]


def tasks_asked_for(cloud: Cloud, call: Call, noun: TaskNoun, ids: Sequence[str]) -> list[Task]:
    """The account's own of the kind, those of `ids` if any are named, oldest first."""
    if ids:
        return sorted_by_creation(own_all(cloud.store, noun, call.account_id, ids))
    its = cloud.store.owned(record_pb2.TaskRecord, call.account_id)
    return sorted_by_creation(task for task in its if noun.fits(task.record.task_id))


def own_task(cloud: Cloud, call: Call, noun: TaskNoun, task_id: str) -> Task:
    return own(cloud.store, noun, call.account_id, task_id)

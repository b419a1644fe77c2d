"""A leader that dies at any write of a snapshot's, an image's or a task's life: the next one ends what it began."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from common.etcd.election import Leadership
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2, import_task_pb2, snapshot_pb2
from services.clc.reconcile import Leader
from services.clc.snapshot import rules
from services.clc.store import Changes
from services.clc.task import rules as tasks
from tests.eventually import eventually
from tests.service.clc.snapshot_requests import (
    export_an_image,
    image_of_a_snapshot,
    import_an_image,
    import_snapshot_task,
    snapshot,
)
from tests.service.clc.stage import Stage

# More than a leader needs for all that is asked of it here.
WRITES = 14


@asynccontextmanager
async def leading(stage: Stage) -> AsyncIterator[None]:
    task = asyncio.ensure_future(Leader(stage.cloud, b"t" * 32).lead(Leadership("/key", 1, asyncio.Event())))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def everything(stage: Stage) -> None:
    """An import, one that is cancelled, an export, a copy of an image, a snapshot that goes, and one with its image."""
    await stage.run("ImportImage", import_an_image())
    cancelled = await import_snapshot_task(stage)
    await stage.run("CancelImportTask", import_task_pb2.CancelImportTaskRequest(import_task_id=cancelled))
    export = await export_an_image(stage)
    await stage.run("ExportImage", export)
    copy = image_pb2.CopyImageRequest(source_image_id=export.image_id, name="copied", source_region="us-east-1")
    await stage.run("CopyImage", copy)
    await stage.run("DeleteSnapshot", snapshot_pb2.DeleteSnapshotRequest(snapshot_id=await snapshot(stage)))
    gone = image_pb2.DeregisterImageRequest(
        image_id=await image_of_a_snapshot(stage, "goes"), delete_associated_snapshots=True
    )
    await stage.run("DeregisterImage", gone)


def settled(stage: Stage) -> bool:
    store = stage.cloud.store
    return (
        sorted(task.record.status for task in store.all(record_pb2.TaskRecord))
        == [tasks.COMPLETED, tasks.COMPLETED, tasks.DELETED]
        and [image.record.state for image in store.all(record_pb2.ImageRecord)]
        == [record_pb2.IMAGE_STATE_AVAILABLE] * 3
        # The exported image's, its copy's, and two that were imported.
        and [its.record.state for its in store.all(record_pb2.SnapshotRecord)] == [rules.COMPLETED] * 4
    )


@pytest.mark.parametrize("dies", ["before it", "after it"])
@pytest.mark.parametrize("at", range(1, WRITES + 1))
async def test_the_next_leader_ends_what_one_began(stage: Stage, at: int, dies: str) -> None:
    await everything(stage)
    commit, written, dead = stage.cloud.store.commit, 0, asyncio.Event()

    async def dying_commit(changes: Changes) -> int:
        nonlocal written
        written += 1
        revision = await commit(changes) if dies == "after it" or written < at else 0
        if written >= at:
            dead.set()
            await asyncio.Event().wait()
        return revision

    stage.cloud.store.commit = dying_commit  # type: ignore[method-assign]
    async with leading(stage):
        await eventually(lambda: dead.is_set() or settled(stage))
    stage.cloud.store.commit = commit  # type: ignore[method-assign]
    async with leading(stage):
        await eventually(lambda: settled(stage))
    assert len(stage.images.copies) == 1
    held = {its.record.snapshot_id for its in stage.cloud.store.all(record_pb2.SnapshotRecord)}
    told = {snapshot_id for zone in stage.storage.values() for snapshot_id in zone.snapshots}
    assert told <= held
    assert held.isdisjoint(stage.images.forgotten)
    uses = set(stage.cloud.store.claims("snapshot-use/"))
    assert uses <= held

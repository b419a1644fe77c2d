"""What the leader does with snapshots and tasks: their loops, and what nudges them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from google.protobuf.message import Message

from common.reconcile import Reconciler
from mallee.clc.v1 import record_pb2
from mallee.sc.v1 import snapshot_pb2 as sc
from services.clc.snapshot import rules
from services.clc.snapshot.reconcile import SnapshotReconciler
from services.clc.storage import Observation
from services.clc.task.reconcile import TaskReconciler
from services.clc.use_case import Cloud

# Most of them wait for a storage controller.
_CONCURRENCY: Final = 64


class SnapshotWork:
    def __init__(self, cloud: Cloud, nudge_image: Callable[[str], None]) -> None:
        self._cloud = cloud
        self._nudge_image = nudge_image
        self._snapshots = Reconciler("snapshots", SnapshotReconciler(cloud).step, concurrency=_CONCURRENCY)
        self._tasks = Reconciler("tasks", TaskReconciler(cloud).step, concurrency=_CONCURRENCY)
        self.loops: Final = (self._snapshots, self._tasks)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """To the zones' storage; what there is already is looked at once."""
        self._cloud.storage.listen(self._observed)
        try:
            for kind in (record_pb2.SnapshotRecord, record_pb2.TaskRecord):
                for stored in self._cloud.store.all(kind):
                    self.heard(stored.record)
            for zone in self._cloud.storage:
                self._look_at_all(zone.zone)
            yield
        finally:
            self._cloud.storage.unlisten(self._observed)

    def heard(self, record: Message) -> None:
        """It changed, or is gone."""
        match record:
            case record_pb2.SnapshotRecord():
                self._snapshots.nudge(record.snapshot_id)
                if record.import_task_id:
                    self._tasks.nudge(record.import_task_id)
                if record.state != rules.PENDING:
                    self._nudge_images_of(record.snapshot_id)
            case record_pb2.TaskRecord():
                self._tasks.nudge(record.task_id)
            case _:
                pass

    def _nudge_images_of(self, snapshot_id: str) -> None:
        for image in self._cloud.store.all(record_pb2.ImageRecord):
            if image.record.state == record_pb2.IMAGE_STATE_PENDING and any(
                device.snapshot_id == snapshot_id for device in image.record.block_devices
            ):
                self._nudge_image(image.record.image_id)

    def _observed(self, zone: str, observation: Observation | None) -> None:
        match observation:
            case sc.SnapshotObservation():
                self._snapshots.nudge(observation.snapshot_id)
            case sc.ExportObservation():
                self._tasks.nudge(observation.task_id)
            case None:
                self._look_at_all(zone)
            case _:
                pass

    def _look_at_all(self, zone: str) -> None:
        for snapshot in self._cloud.store.all(record_pb2.SnapshotRecord):
            record = snapshot.record
            if record.zone == zone and record.state in (rules.PENDING, rules.DELETING):
                self._snapshots.nudge(record.snapshot_id)
        # Ended ones may have to be settled, those that no record owns to go.
        for snapshot_id in self._cloud.storage[zone].snapshots:
            self._snapshots.nudge(snapshot_id)
        for task in self._cloud.store.all(record_pb2.TaskRecord):
            if task.record.zone == zone:
                self._tasks.nudge(task.record.task_id)

"""What a played storage controller does with snapshots, imports and exports: all at once, unless it is slow."""

from __future__ import annotations

import asyncio

from mallee.sc.v1 import service_pb2 as sc
from mallee.sc.v1 import snapshot_pb2 as snapshots


class PlayedSnapshots:
    """`snapshots` and `exports` are what it tells of; every order is in `asked`."""

    def __init__(self) -> None:
        self.snapshots: dict[str, snapshots.SnapshotObservation] = {}
        self.exports: dict[str, snapshots.ExportObservation] = {}
        self.imports: dict[str, snapshots.ImportSpec] = {}
        self.settled: list[str] = []
        # Calls of CreateSnapshots, as they came.
        self.points: list[list[str]] = []
        # Snapshots and exports stay pending until `completes`.
        self.busy = False
        # Raised instead of fixing a point in time, or of taking an order.
        self.broken: Exception | None = None
        self._streams: list[asyncio.Queue[sc.WatchStorageResponse]] = []

    async def CreateSnapshots(self, request: sc.CreateSnapshotsRequest) -> sc.CreateSnapshotsResponse:
        if self.broken is not None:
            raise self.broken
        self.points.append([spec.snapshot_id for spec in request.specs])
        return sc.CreateSnapshotsResponse(observations=[self._begin(spec.snapshot_id) for spec in request.specs])

    async def ImportSnapshot(self, request: sc.ImportSnapshotRequest) -> sc.ImportSnapshotResponse:
        if self.broken is not None:
            raise self.broken
        self.imports[request.spec.snapshot_id] = request.spec
        self._begin(request.spec.snapshot_id)
        return sc.ImportSnapshotResponse()

    async def SettleSnapshot(self, request: sc.SettleSnapshotRequest) -> sc.SettleSnapshotResponse:
        """It builds nothing on it."""
        self.settled.append(request.snapshot_id)
        self.snapshots.pop(request.snapshot_id, None)
        self._say_snapshot(request.snapshot_id, snapshots.SNAPSHOT_STATE_GONE)
        return sc.SettleSnapshotResponse()

    async def DeleteSnapshot(self, request: sc.DeleteSnapshotRequest) -> sc.DeleteSnapshotResponse:
        self.snapshots.pop(request.snapshot_id, None)
        self._say_snapshot(request.snapshot_id, snapshots.SNAPSHOT_STATE_GONE)
        return sc.DeleteSnapshotResponse(gone=True)

    async def ExportSnapshot(self, request: sc.ExportSnapshotRequest) -> sc.ExportSnapshotResponse:
        if self.broken is not None:
            raise self.broken
        self.exported(request.spec.task_id, snapshots.SNAPSHOT_STATE_PENDING)
        if not self.busy:
            self.exported(request.spec.task_id, snapshots.SNAPSHOT_STATE_COMPLETED)
        return sc.ExportSnapshotResponse()

    async def CancelExport(self, request: sc.CancelExportRequest) -> sc.CancelExportResponse:
        self.exports.pop(request.task_id, None)
        return sc.CancelExportResponse()

    def progresses(self, snapshot_id: str, percent: int) -> None:
        self._say_snapshot(snapshot_id, snapshots.SNAPSHOT_STATE_PENDING, progress_percent=percent)

    def completes(self, snapshot_id: str) -> None:
        self._say_snapshot(snapshot_id, snapshots.SNAPSHOT_STATE_COMPLETED, size_bytes=3 << 30, full_bytes=1 << 20)

    def loses(self, snapshot_id: str, code: str, message: str) -> None:
        self._say_snapshot(snapshot_id, snapshots.SNAPSHOT_STATE_FAILED, reason_code=code, message=message)

    def exported(self, task_id: str, state: snapshots.SnapshotState.ValueType, **more: object) -> None:
        seen = snapshots.ExportObservation(task_id=task_id, state=state, **more)  # type: ignore[arg-type]
        self.exports[task_id] = seen
        self.send(sc.WatchStorageResponse(export=seen))

    def send(self, news: sc.WatchStorageResponse) -> None:
        for queue in self._streams:
            queue.put_nowait(news)

    def _begin(self, snapshot_id: str) -> snapshots.SnapshotObservation:
        if snapshot_id not in self.snapshots:
            self.progresses(snapshot_id, 0)
            if not self.busy:
                self.completes(snapshot_id)
        return self.snapshots[snapshot_id]

    def _say_snapshot(self, snapshot_id: str, state: snapshots.SnapshotState.ValueType, **more: object) -> None:
        seen = snapshots.SnapshotObservation(snapshot_id=snapshot_id, state=state, **more)  # type: ignore[arg-type]
        if state != snapshots.SNAPSHOT_STATE_GONE:
            self.snapshots[snapshot_id] = seen
        self.send(sc.WatchStorageResponse(snapshot=seen))

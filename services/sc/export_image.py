"""A snapshot becomes a disk image in a bucket: read as a disk, written as a file of its format, stored as an object."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from common import qemu_img
from common.errors import CloudError, InvalidArgument, NoCapacity, Unavailable
from common.ids import AccountId, SnapshotId
from common.log import get_logger
from common.patience import RoomPatience
from common.reconcile import Reconciler
from mallee.sc.v1 import snapshot_pb2
from mallee.sc.v1.record_pb2 import ExportRecord
from mallee.sc.v1.snapshot_pb2 import ExportObservation, ExportSpec
from services.sc.clients import Objects, Sources
from services.sc.image_content import FORMATS
from services.sc.jobs import Jobs
from services.sc.room import Room, settle
from services.sc.snapshot import NEXT, Phase, state_of
from services.sc.storage_feed import StorageFeed
from services.sc.store import Records

_log = get_logger(__name__)

_AT_ONCE: Final = 2
# When the file is written.
_WRITTEN_PERCENT: Final = 50


class ExportTasks:
    """`reserve_bytes`: of its disk, that no file takes."""

    def __init__(
        self,
        exports: Records[ExportRecord],
        sources: Sources,
        objects: Objects,
        feed: StorageFeed,
        *,
        folder: Path,
        reserve_bytes: int,
        room: RoomPatience,
    ) -> None:
        self._disk = Room("write the image", reserve_bytes=reserve_bytes)
        self._room = room
        self._exports = exports
        self._sources = sources
        self._objects = objects
        self._feed = feed
        self._folder = folder
        self._jobs = Jobs()
        self._percent: dict[str, int] = {}
        self._loop = Reconciler("sc-exports", self._step, concurrency=_AT_ONCE)
        # Called when one has ended.
        self.ended: Callable[[], None] = lambda: None

    def nudge(self, task_id: str) -> None:
        self._loop.nudge(task_id)

    async def run(self) -> None:
        for task_id in self._exports.all():
            self._loop.nudge(task_id)
        await self._loop.run()

    def reads(self) -> frozenset[str]:
        """Snapshots that are being read."""
        return frozenset(r.spec.snapshot_id for r in self._exports.all().values() if r.phase == Phase.UPLOADING.value)

    def observation(self, record: ExportRecord) -> ExportObservation:
        phase = Phase(record.phase)
        told = phase is Phase.FAILED
        return ExportObservation(
            task_id=record.spec.task_id,
            state=state_of(phase),
            reason_code=record.reason_code if told else "",
            message=record.message if told else "",
            progress_percent=100 if phase is Phase.COMPLETED else self._percent.get(record.spec.task_id, 0),
        )

    async def begin(self, spec: ExportSpec) -> None:
        """Durable when it returns. Raises InvalidArgument."""
        _check(spec)

        def change(record: ExportRecord | None) -> ExportRecord:
            return record or ExportRecord(spec=spec, phase=Phase.UPLOADING.value)

        await self._exports.update(spec.task_id, change)

    async def cancel(self, task_id: str) -> None:
        """Durable when it returns."""
        await self._move(task_id, Phase.DELETING)
        self._jobs.give_up(task_id)

    async def _step(self, task_id: str) -> None:
        record = self._exports.get(task_id)
        if record is None:
            return
        self._feed.export(self.observation(record))
        match Phase(record.phase):
            case Phase.UPLOADING:
                await self._jobs.run(task_id, self._export_or_fail(record))
            case Phase.FAILING:
                await self._clean(task_id)
                await self._move(task_id, Phase.FAILED, code=record.reason_code, message=record.message)
            case Phase.DELETING:
                await self._clean(task_id)
                await self._exports.update(task_id, lambda _: None)
                gone = ExportObservation(task_id=task_id, state=snapshot_pb2.SNAPSHOT_STATE_GONE)
                self._feed.export(gone)
            case _:
                pass

    async def _export_or_fail(self, record: ExportRecord) -> None:
        task_id = record.spec.task_id
        try:
            await self._export(record)
        except Unavailable:
            raise
        except CloudError as error:
            if isinstance(error, NoCapacity) and not self._room.is_over(task_id):
                raise
            _log.warning("an export failed", task=task_id, code=error.code, reason=error.message)
            await self._move(task_id, Phase.FAILING, code=error.code, message=error.message)
            return
        await self._clean(task_id)
        await self._move(task_id, Phase.COMPLETED)

    async def _export(self, record: ExportRecord) -> None:
        spec, folder = record.spec, self._folder / record.spec.task_id
        written = folder / "image"
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        if not written.exists():
            source = await self._sources.serve(SnapshotId(spec.snapshot_id))
            made = folder / "image.part"
            image_format = FORMATS[spec.format]
            await self._disk.within(
                made, lambda: qemu_img.convert_from_nbd(source.socket, source.name, image_format, made)
            )
            await asyncio.to_thread(settle, made, written)
        self._tell(record, _WRITTEN_PERCENT)

        def stored(done: int, total: int) -> None:
            self._tell(record, _WRITTEN_PERCENT + (99 - _WRITTEN_PERCENT) * done // max(1, total))

        target = spec.target
        await self._objects.store(AccountId(target.account_id), target.bucket, target.key, written, stored)

    def _tell(self, record: ExportRecord, percent: int) -> None:
        self._percent[record.spec.task_id] = percent
        self._feed.export(self.observation(record))

    async def _clean(self, task_id: str) -> None:
        await asyncio.to_thread(shutil.rmtree, self._folder / task_id, ignore_errors=True)
        self._percent.pop(task_id, None)
        self._room.end(task_id)

    async def _move(self, task_id: str, phase: Phase, *, code: str = "", message: str = "") -> None:
        def change(record: ExportRecord | None) -> ExportRecord | None:
            if record is not None and phase in NEXT[Phase(record.phase)]:
                record.phase, record.reason_code, record.message = phase.value, code, message
            return record

        await self._exports.update(task_id, change)
        self.ended()


def _check(spec: ExportSpec) -> None:
    try:
        SnapshotId(spec.snapshot_id)
        AccountId(spec.target.account_id)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
    if spec.format not in FORMATS or not spec.task_id or "/" in spec.task_id:
        raise InvalidArgument(f"an export {spec.task_id!r} of format {spec.format}")

"""Snapshots: a point in time is fixed while the caller waits; its blocks travel to Walrus afterwards, by themselves."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from common import metrics
from common.errors import CloudError, InvalidArgument, NoCapacity, NotFound, Unavailable, WrongState
from common.ids import AccountId, SnapshotId, VolumeId
from common.log import get_logger
from common.patience import RoomPatience
from common.reconcile import Reconciler
from mallee.sc.v1.record_pb2 import SnapshotRecord, VolumeRecord
from mallee.sc.v1.snapshot_pb2 import SNAPSHOT_STATE_GONE, ImportSpec, SnapshotObservation, SnapshotSpec
from mallee.sc.v1.volume_pb2 import VOLUME_STATE_AVAILABLE
from services.sc.clients import BaseMissing, Progress, Upload, Uploaded, Uploader
from services.sc.engine import Engine
from services.sc.jobs import Jobs
from services.sc.reconcile import SERVER_ERROR
from services.sc.snapshot import NEXT, Do, Phase, id_of, next_step, observation_of, percent
from services.sc.storage_feed import StorageFeed
from services.sc.store import BATCH, Records

_log = get_logger(__name__)

# At once: each keeps a core busy with digests and compression.
_UPLOADS: Final = 4
_SENT: Final = metrics.counter(
    "mallee_sc_snapshot_sent_bytes", "Bytes of snapshots that travelled to Walrus, compressed"
)
_SAVED: Final = metrics.counter(
    "mallee_sc_snapshot_saved_bytes", "Bytes of snapshots that had not to: unchanged, zero, or there before"
)
_ENDED: Final = metrics.counter(
    "mallee_sc_snapshots", "Snapshots and imports that ended: completed, failed", ("outcome",)
)
# Walrus may be full for so long, without any progress, before a snapshot is given up: its point in time keeps what the
# volume overwrites, on this host.
FULL_PATIENCE_S: Final = 600.0

# Makes the content of an import and uploads it, in a folder of its own.
Import = Callable[[ImportSpec, Path, Callable[[Progress], None]], Awaitable[tuple[Uploaded, int]]]


class Snapshots:
    def __init__(
        self,
        snapshots: Records[SnapshotRecord],
        volumes: Records[VolumeRecord],
        engine: Engine,
        uploader: Uploader,
        feed: StorageFeed,
        *,
        folder: Path,
        import_image: Import,
        room: RoomPatience,
        full_patience_s: float = FULL_PATIENCE_S,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._full_patience_s = full_patience_s
        self._now_s = now_s
        self._snapshots = snapshots
        self._volumes = volumes
        self._engine = engine
        self._uploader = uploader
        self._feed = feed
        self._folder = folder
        self._import_image = import_image
        self._room = room
        self._jobs = Jobs()
        self._progress: dict[str, Progress] = {}
        self._loop = Reconciler("sc-snapshots", self._step, concurrency=_UPLOADS)
        # Images of users, which may take hours to read: no point in time waits for them.
        self._imports = Reconciler("sc-imports", self._step, concurrency=_UPLOADS)
        # Called when one of this volume has ended.
        self.ended: Callable[[str], None] = lambda volume_id: None

    def nudge(self, snapshot_id: str) -> None:
        record = self._snapshots.get(snapshot_id)
        if record is not None:
            (self._loop if record.HasField("volume") else self._imports).nudge(snapshot_id)

    def nudge_volume(self, volume_id: str) -> None:
        for snapshot_id, record in self._snapshots.all().items():
            if record.volume.volume_id == volume_id:
                self._loop.nudge(snapshot_id)

    async def run(self) -> None:
        for snapshot_id in self._snapshots.all():
            self.nudge(snapshot_id)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._loop.run())
            tasks.create_task(self._imports.run())

    def reads(self, volume_id: VolumeId) -> bool:
        """A point in time of the volume is still needed."""
        on_the_way = (Phase.UPLOADING.value, Phase.FAILING.value, Phase.DELETING.value)
        return any(r.volume.volume_id == volume_id and r.phase in on_the_way for r in self._snapshots.all().values())

    def observation(self, record: SnapshotRecord) -> SnapshotObservation:
        return observation_of(record, self._progress.get(id_of(record)))

    async def create(self, specs: Sequence[SnapshotSpec]) -> list[SnapshotObservation]:
        """One point in time of all of them stands when it returns. Raises InvalidArgument, NotFound, WrongState."""
        _check(specs)
        ids = [spec.snapshot_id for spec in specs]
        async with self._engine.alone(*(VolumeId(spec.volume_id) for spec in specs)):
            if due := [spec for spec in specs if not self._is_frozen(spec.snapshot_id)]:
                await self._freeze(due)
        found = [self._snapshots.get(snapshot_id) for snapshot_id in ids]
        return [self.observation(record) for record in found if record is not None]

    async def import_snapshot(self, spec: ImportSpec) -> None:
        """Durable when it returns. Raises InvalidArgument."""
        _check_ids(spec.snapshot_id, spec.account_id, spec.source.account_id)

        def change(record: SnapshotRecord | None) -> SnapshotRecord:
            if record is not None:
                return record
            made = SnapshotRecord(phase=Phase.UPLOADING.value, number=self._next_number())
            getattr(made, "import").CopyFrom(spec)
            return made

        await self._snapshots.update(spec.snapshot_id, change)

    async def settle(self, snapshot_id: str) -> None:
        """Durable when it returns. Raises WrongState."""

        def change(record: SnapshotRecord | None) -> SnapshotRecord | None:
            if record is not None:
                if Phase(record.phase) not in (Phase.COMPLETED, Phase.FAILED, Phase.DELETING):
                    raise WrongState(f"{snapshot_id} has not ended")
                record.settled = True
            return record

        await self._snapshots.update(snapshot_id, change)

    async def delete(self, snapshot_id: str) -> bool:
        """Whether nothing of it is left. Durable when it returns."""

        def change(record: SnapshotRecord | None) -> SnapshotRecord | None:
            if record is not None:
                record.phase = Phase.DELETING.value
            return record

        gone = await self._snapshots.update(snapshot_id, change) is None
        self._jobs.give_up(snapshot_id)
        return gone

    async def _freeze(self, specs: Sequence[SnapshotSpec]) -> None:
        sizes = {}
        for spec in specs:
            volume = self._volumes.get(spec.volume_id)
            if volume is None:
                raise NotFound(f"{spec.volume_id} is not in this zone", code="InvalidVolume.NotFound")
            if volume.state != VOLUME_STATE_AVAILABLE:
                raise WrongState(f"{spec.volume_id} cannot be read now")
            seen = self._engine.seen.get(VolumeId(spec.volume_id))
            sizes[spec.snapshot_id] = seen.size_bytes if seen else volume.spec.size_bytes
        await self._note_freezing(specs, sizes)
        points = {SnapshotId(spec.snapshot_id): VolumeId(spec.volume_id) for spec in specs}
        try:
            await self._engine.driver.freeze(points)
        except (NotFound, WrongState):
            await self._snapshots.update_all({snapshot_id: lambda _: None for snapshot_id in points})
            raise
        await self._move(*points, to=Phase.UPLOADING)
        self._engine.look_again()

    def _is_frozen(self, snapshot_id: str) -> bool:
        record = self._snapshots.get(snapshot_id)
        return record is not None and record.phase != Phase.FREEZING.value

    async def _note_freezing(self, specs: Sequence[SnapshotSpec], sizes: dict[str, int]) -> None:
        number = self._next_number()

        def note(spec: SnapshotSpec) -> Callable[[SnapshotRecord | None], SnapshotRecord]:
            return lambda record: (
                record
                or SnapshotRecord(
                    volume=spec, phase=Phase.FREEZING.value, number=number, size_bytes=sizes[spec.snapshot_id]
                )
            )

        await self._snapshots.update_all({spec.snapshot_id: note(spec) for spec in specs})

    async def _step(self, snapshot_id: str) -> None:
        record = self._snapshots.get(snapshot_id)
        if record is None:
            return
        self._feed.snapshot(self.observation(record))
        stands, over = self._stands(record), record.settled and not self._is_base(record)
        match next_step(Phase(record.phase), first=self._is_first(record), stands=stands, over=over):
            case Do.UPLOAD:
                await self._jobs.run(snapshot_id, self._upload_or_fail(record))
            case Do.RELEASE:
                await self._engine.driver.release(SnapshotId(snapshot_id), keep_as_base=True)
                await asyncio.to_thread(shutil.rmtree, self._folder / snapshot_id, ignore_errors=True)
                self._ended(record)
            case Do.CLEAN:
                await self._clean(record)
            case Do.DROP:
                await self._drop(snapshot_id)
            case None:
                pass

    async def _upload_or_fail(self, record: SnapshotRecord) -> None:
        snapshot_id = id_of(record)
        try:
            uploaded, size_bytes = await self._upload(record)
        except Unavailable:
            # It may pass; anything else that is known by name will not.
            raise
        except CloudError as error:
            if isinstance(error, NoCapacity) and await self._may_find_room(record):
                raise
            _log.warning("a snapshot failed", snapshot=snapshot_id, code=error.code, reason=error.message)
            await self._move(snapshot_id, to=Phase.FAILING, code=error.code, message=error.message)
            return
        finally:
            self._progress.pop(snapshot_id, None)
        self._room.end(snapshot_id)
        await self._complete(snapshot_id, uploaded, size_bytes)

    async def _may_find_room(self, record: SnapshotRecord) -> bool:
        """There is none, but not for so long. What is of a point in time, which cannot be had again, is waited for in
        the record: anew whenever more of it than before is in Walrus.
        """
        snapshot_id = id_of(record)
        if not record.HasField("volume"):
            return not self._room.is_over(snapshot_id)
        sent = self._progress.get(snapshot_id, Progress()).sent_bytes
        now_ms = int(self._now_s() * 1000)

        def change(record: SnapshotRecord | None) -> SnapshotRecord | None:
            if record is not None and (not record.full_since_ms or sent > record.sent_bytes):
                record.full_since_ms, record.sent_bytes = now_ms, sent
            return record

        noted = await self._snapshots.update(snapshot_id, change)
        return noted is not None and now_ms < noted.full_since_ms + self._full_patience_s * 1000

    async def _upload(self, record: SnapshotRecord) -> tuple[Uploaded, int]:
        snapshot_id = SnapshotId(id_of(record))
        notes = self._folder / snapshot_id
        await asyncio.to_thread(notes.mkdir, parents=True, exist_ok=True)

        def tell(progress: Progress) -> None:
            before, self._progress[snapshot_id] = self._progress.get(snapshot_id, Progress()), progress
            if percent(before) != percent(progress):
                self._feed.snapshot(observation_of(record, progress))

        if not record.HasField("volume"):
            return await self._import_image(getattr(record, "import"), notes, tell)
        base = self._base_of(record)
        try:
            return await self._upload_point(record, base, notes, tell)
        except BaseMissing:
            return await self._upload_point(record, None, notes, tell)

    async def _upload_point(
        self, record: SnapshotRecord, base: SnapshotId | None, notes: Path, tell: Callable[[Progress], None]
    ) -> tuple[Uploaded, int]:
        snapshot_id, account_id = SnapshotId(record.volume.snapshot_id), AccountId(record.volume.account_id)
        try:
            async with self._engine.driver.frozen(snapshot_id, base=base) as content:
                upload = Upload(snapshot_id=snapshot_id, account_id=account_id, base=base, content=content, notes=notes)
                return await self._uploader.upload(upload, tell), content.size_bytes
        except NotFound as error:
            raise CloudError(f"The volume's state at that time was lost: {error.message}", code=SERVER_ERROR) from error

    async def _complete(self, snapshot_id: str, uploaded: Uploaded, size_bytes: int) -> None:
        progress = uploaded.progress

        def change(record: SnapshotRecord | None) -> SnapshotRecord | None:
            if record is None or Phase.COMPLETED not in NEXT[Phase(record.phase)]:
                return record
            record.phase, record.size_bytes = Phase.COMPLETED.value, size_bytes
            record.looked_at_bytes, record.to_look_at_bytes = progress.looked_at_bytes, progress.to_look_at_bytes
            record.sent_bytes, record.saved_bytes = progress.sent_bytes, progress.saved_bytes
            record.full_bytes = uploaded.full_bytes
            return record

        await self._snapshots.update(snapshot_id, change)
        _SENT.inc(progress.sent_bytes)
        _SAVED.inc(progress.saved_bytes)
        _ENDED.labels("completed").inc()

    async def _clean(self, record: SnapshotRecord) -> None:
        snapshot_id = SnapshotId(id_of(record))
        self._room.end(snapshot_id)
        await self._uploader.forget(snapshot_id)
        await self._engine.driver.release(snapshot_id, keep_as_base=False)
        await asyncio.to_thread(shutil.rmtree, self._folder / snapshot_id, ignore_errors=True)
        if record.phase == Phase.FAILING.value:
            await self._move(snapshot_id, to=Phase.FAILED, code=record.reason_code, message=record.message)
            _ENDED.labels("failed").inc()
        else:
            await self._drop(snapshot_id)
        self._ended(record)

    async def _drop(self, snapshot_id: str) -> None:
        await self._snapshots.update(snapshot_id, lambda _: None)
        self._feed.snapshot(SnapshotObservation(snapshot_id=snapshot_id, state=SNAPSHOT_STATE_GONE))

    def _ended(self, record: SnapshotRecord) -> None:
        self._engine.look_again()
        if record.HasField("volume"):
            self.nudge_volume(record.volume.volume_id)
            self.ended(record.volume.volume_id)

    async def _move(self, *snapshot_ids: str, to: Phase, code: str = "", message: str = "") -> None:
        def change(record: SnapshotRecord | None) -> SnapshotRecord | None:
            if record is not None and to in NEXT[Phase(record.phase)]:
                record.phase, record.reason_code, record.message = to.value, code, message
            return record

        await self._snapshots.update_all(dict.fromkeys(snapshot_ids, change))

    def _is_first(self, record: SnapshotRecord) -> bool:
        return not any(r.number < record.number and r.phase == Phase.UPLOADING.value for r in self._kin(record))

    def _is_base(self, record: SnapshotRecord) -> bool:
        """The next snapshot of its volume will build on it."""
        return (
            record.phase == Phase.COMPLETED.value
            and self._volumes.get(record.volume.volume_id) is not None
            and not any(r.number > record.number and r.phase == Phase.COMPLETED.value for r in self._kin(record))
        )

    def _base_of(self, record: SnapshotRecord) -> SnapshotId | None:
        done = [r for r in self._kin(record) if r.number < record.number and r.phase == Phase.COMPLETED.value]
        newest = max(done, key=lambda r: r.number, default=None)
        return SnapshotId(id_of(newest)) if newest is not None else None

    def _kin(self, record: SnapshotRecord) -> list[SnapshotRecord]:
        """Those of the same volume."""
        volume_id = record.volume.volume_id
        return [r for r in self._snapshots.all().values() if volume_id and r.volume.volume_id == volume_id]

    def _stands(self, record: SnapshotRecord) -> bool:
        snapshot_id = id_of(record)
        return (self._folder / snapshot_id).exists() or any(
            snapshot_id in volume.frozen for volume in self._engine.seen.values()
        )

    def _next_number(self) -> int:
        return max((record.number for record in self._snapshots.all().values()), default=0) + 1


def _check(specs: Sequence[SnapshotSpec]) -> None:
    if not 0 < len(specs) <= BATCH:
        raise InvalidArgument(f"{len(specs)} snapshots at once: 1 to {BATCH} are possible")
    for spec in specs:
        _check_ids(spec.snapshot_id, spec.account_id)
        if not VolumeId.matches(spec.volume_id):
            raise InvalidArgument(f"not a volume id: {spec.volume_id!r}")
    if len({spec.volume_id for spec in specs}) < len(specs) or len({s.snapshot_id for s in specs}) < len(specs):
        raise InvalidArgument("a volume or a snapshot is named twice")


def _check_ids(snapshot_id: str, *account_ids: str) -> None:
    try:
        SnapshotId(snapshot_id)
        for account_id in account_ids:
            AccountId(account_id)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None

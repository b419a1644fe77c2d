"""One term of the zone's leader: everything it knows and does, from winning the election to losing it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.background import Background
from common.etcd.client import Etcd
from common.etcd.election import Leadership
from common.ids import VolumeId
from common.patience import RoomPatience
from services.sc.capacity import Capacity
from services.sc.clients import Objects, Sources, Uploader
from services.sc.drivers.base import VolumeDriver
from services.sc.engine import Engine
from services.sc.export_image import ExportTasks
from services.sc.exports import Exports
from services.sc.orders import Orders
from services.sc.reconcile import VolumeReconciler
from services.sc.snapshots import FULL_PATIENCE_S, Import, Snapshots
from services.sc.storage_feed import StorageFeed
from services.sc.store import StorageStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a term works with; it outlives the term."""

    driver: VolumeDriver
    uploader: Uploader
    sources: Sources
    objects: Objects
    import_image: Import
    # Scratch of snapshots, imports and exports.
    work: Path
    overcommit: float
    # Of the disk: other zones have the rest.
    share: float = 1.0
    # Of the disk that `work` is on: what files of exports never take.
    reserve_bytes: int = 0
    # In seconds, from any moment on.
    clock: Callable[[], float] = time.monotonic
    # Of a snapshot for which Walrus has no room.
    full_patience_s: float = FULL_PATIENCE_S


class Term:
    def __init__(self, store: StorageStore, engine: Engine, parts: Parts) -> None:
        self.store = store
        self.engine = engine
        self.feed = StorageFeed()
        self.capacity = Capacity(store.volumes, engine, overcommit=parts.overcommit, share=parts.share)
        self.orders = Orders(store.volumes, self.capacity)
        self.exports = Exports(store.volumes, engine)
        self.snapshots = Snapshots(
            store.snapshots,
            store.volumes,
            engine,
            parts.uploader,
            self.feed,
            folder=parts.work / "snapshots",
            import_image=parts.import_image,
            room=RoomPatience(parts.clock),
            full_patience_s=parts.full_patience_s,
        )
        self.tasks = ExportTasks(
            store.exports,
            parts.sources,
            parts.objects,
            self.feed,
            folder=parts.work / "exports",
            reserve_bytes=parts.reserve_bytes,
            room=RoomPatience(parts.clock),
        )
        self.volumes = VolumeReconciler(
            store.volumes,
            engine,
            parts.sources,
            self.feed,
            is_read=self.snapshots.reads,
            also_needed=self.tasks.reads,
            room=RoomPatience(parts.clock),
        )
        self.snapshots.ended = self.volumes.nudge
        self.tasks.ended = self.volumes.tidy
        store.volume_changed = self._volume_changed
        store.snapshot_changed = self.snapshots.nudge
        store.export_changed = self.tasks.nudge
        engine.looked = self._looked

    def end(self) -> None:
        """Watchers are told to look for the new leader."""
        self.feed.close()

    def publish_all(self) -> None:
        for volume in self.store.volumes.all().values():
            self.feed.volume(self.volumes.observation(volume))
        for snapshot in self.store.snapshots.all().values():
            self.feed.snapshot(self.snapshots.observation(snapshot))
        for export in self.store.exports.all().values():
            self.feed.export(self.tasks.observation(export))
        self.feed.capacity(self.capacity.describe())

    def _volume_changed(self, volume_id: str) -> None:
        self.exports.changed(volume_id)
        self.volumes.nudge(volume_id)
        if self.store.volumes.get(volume_id) is None:
            # None builds on its snapshots any more.
            self.snapshots.nudge_volume(volume_id)
        self.feed.capacity(self.capacity.describe())

    def _looked(self, volume_ids: Sequence[VolumeId]) -> None:
        for volume_id in volume_ids:
            self.volumes.nudge(volume_id)
        if volume_ids:
            self.volumes.tidy()
        self.feed.capacity(self.capacity.describe())


@contextlib.asynccontextmanager
async def leading(etcd: Etcd, parts: Parts, *, zone: str, leadership: Leadership) -> AsyncIterator[Term]:
    """Entered, every record is known, and the engine was asked what it has."""
    store = StorageStore(etcd, zone, leadership)
    await store.load()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(parts.driver.close)
        engine = Engine(parts.driver)
        await engine.open()
        stack.push_async_callback(parts.sources.close)
        await parts.sources.open()
        term = Term(store, engine, parts)
        term.publish_all()
        tasks = await stack.enter_async_context(Background())
        for work in (
            engine.run(),
            term.volumes.run_volumes(),
            term.volumes.run_sources(),
            term.snapshots.run(),
            term.tasks.run(),
        ):
            tasks.start(work)
        stack.callback(term.end)
        yield term

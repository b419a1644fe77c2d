"""services.sc.drivers.base.VolumeDriver with storage daemons: all volumes of a controller. Passes test_volumes.py."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from common.errors import CloudError, NoCapacity, NotFound, WrongState
from common.ids import SnapshotId, VolumeId
from common.log import get_logger
from common.pki import Identity
from common.reconcile import Reconciler
from common.threads import to_the_end
from services.sc.drivers import sparse
from services.sc.drivers.base import ExportGrant, ExportPlace, Frozen, Limits, ObservedVolume, Volume
from services.sc.drivers.feed import Feed
from services.sc.drivers.qsd import hydrate, points
from services.sc.drivers.qsd.daemon import Refused
from services.sc.drivers.qsd.disk import free_bytes, takes_direct, used_bytes
from services.sc.drivers.qsd.door import DoorKeys
from services.sc.drivers.qsd.engine import Around, VolumeEngine
from services.sc.drivers.qsd.graph import PointName
from services.sc.drivers.qsd.layout import Layout, Record

_log = get_logger(__name__)

# A daemon that does not come up is tried again at least this often.
_LAST_RETRY_S: Final = 2.0
# A daemon that ends this soon after its start is not started again at once.
_AT_ONCE_S: Final = 1.0
# How fast guests may fill the disk between two looks at it.
_FILL_BYTES_PER_S: Final = 2 << 30
_LOOK_S: Final = (0.05, 2.0)
# Key of the mender: how much there is; with a volume's id behind it, what follows for that one.
_SPACE: Final = "space/"


class QsdVolumes:
    """`folder`: on the file system of the volumes. `sockets`: short, and passable for the guests' engine.
    `address`: where clients of other hosts reach this one; `identity`: what it shows them."""

    def __init__(self, *, folder: Path, sockets: Path, address: str, identity: Identity, reserve_bytes: int) -> None:
        self._layout = Layout(folder, sockets)
        self._keys = DoorKeys(folder=folder / "tls", address=address)
        self._identity = identity
        self._reserve_bytes = reserve_bytes
        self._engines: dict[VolumeId, VolumeEngine] = {}
        self._troubles: dict[VolumeId, str] = {}
        self._feed = Feed()
        self._mender = Reconciler("qsd", self._mend, last_retry_s=_LAST_RETRY_S)
        self._mending: asyncio.Task[None] | None = None
        self._full = False

    async def open(self) -> None:
        self._layout.make()
        identity = self._identity
        self._keys.write(ca_pem=identity.ca_pem, certificate_pem=identity.certificate_pem, key_pem=identity.key_pem)
        self._direct = takes_direct(self._layout.folder)
        self._full = self._free_bytes() < self._reserve_bytes
        whole = self._layout.volumes()
        for volume_id in self._layout.begun():
            engine = self._engine(volume_id)
            if volume_id not in whole:
                await engine.end()
                engine.place.wipe()
                del self._engines[volume_id]
                continue
            engine.paused = self._full
            # One that does not come up now holds the others not up: it is tried again.
            trouble = await self._mended(volume_id)
            # A predecessor may have left it waiting for space, or not.
            try:
                if engine.daemon.runs:
                    await hydrate.rest(engine)
                    await points.tidy(engine)
                await engine.pause(self._full)
            except CloudError:
                self._mender.nudge(_SPACE + volume_id)
            if trouble or engine.record().source is not None:
                self._mender.nudge(volume_id)
        self._mender.nudge(_SPACE)
        self._mending = asyncio.get_running_loop().create_task(self._mender.run())

    async def close(self) -> None:
        await self._stop_mending()
        for engine in self._engines.values():
            async with engine.lock:
                await engine.let_go()
        self._engines.clear()

    async def create(self, volume: Volume) -> None:
        engine = self._engine(volume.volume_id)
        async with engine.lock:
            if engine.place.load() is None:
                if self._free_bytes() <= self._reserve_bytes:
                    raise _full()
                try:
                    await self._make(engine, volume)
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise _full() from error
                    raise
            if engine.record().source is not None:
                await engine.bring_up()
                self._mender.nudge(volume.volume_id)

    async def resize(self, volume_id: VolumeId, size_bytes: int) -> None:
        async with self._alone(volume_id) as engine:
            if size_bytes > engine.size_bytes:
                # What fills it keeps its nodes from growing, and goes on afterwards.
                await hydrate.rest(engine)
                self._mender.nudge(volume_id)
            await engine.resize(size_bytes)

    async def limit(self, volume_id: VolumeId, limits: Limits) -> None:
        async with self._alone(volume_id) as engine:
            await engine.limit(limits)

    async def remove(self, volume_id: VolumeId) -> None:
        if volume_id not in self._engines:
            return
        engine = self._engines[volume_id]
        async with engine.lock:
            record = engine.place.load()
            if record is not None and record.grant is not None:
                raise WrongState(f"{volume_id} is exported to {record.grant.node}", code="VolumeInUse")
            await engine.end()
            await to_the_end(engine.place.wipe)
            self._engines.pop(volume_id, None)
            self._troubles.pop(volume_id, None)

    async def export(self, volume_id: VolumeId, grant: ExportGrant) -> ExportPlace:
        async with self._alone(volume_id) as engine:
            place = await engine.export(grant)
            self._troubles.pop(volume_id, None)
            return place

    async def unexport(self, volume_id: VolumeId) -> None:
        if volume_id in self._engines:
            async with self._alone(volume_id) as engine:
                await engine.unexport()
                # Its client is out, whatever becomes of its daemon: one that was killed may wait for its source.
                with contextlib.suppress(CloudError):
                    if engine.daemon.runs:
                        await engine.look_after()
            self._mender.nudge(volume_id)

    async def freeze(self, points_of: Mapping[SnapshotId, VolumeId]) -> None:
        async with AsyncExitStack() as stack:
            engines = {
                volume_id: await stack.enter_async_context(self._alone(volume_id))
                for volume_id in sorted(set(points_of.values()))
            }
            begun: list[tuple[VolumeEngine, PointName]] = []
            try:
                if await _all_stand(points_of, engines):
                    return
                # Also of a caller who goes: what is half prepared would keep the next point, and its clients, waiting.
                async with AsyncExitStack() as unless_all:
                    for snapshot_id, volume_id in points_of.items():
                        engine = engines[volume_id]
                        await hydrate.rest(engine)
                        begun.append((engine, await points.name(engine, snapshot_id)))
                        unless_all.push_async_callback(_undone, *begun[-1])
                        await points.prepare(*begun[-1], closed=len(engines) > 1)
                    await _fix(begun)
                    unless_all.pop_all()
            except CloudError as error:
                if isinstance(error, (NoCapacity, NotFound)):
                    raise
                raise WrongState(f"the volumes cannot be frozen now: {error.message}") from error
            finally:
                for volume_id in engines:
                    self._mender.nudge(volume_id)

    @asynccontextmanager
    async def frozen(self, snapshot_id: SnapshotId, *, base: SnapshotId | None) -> AsyncIterator[Frozen]:
        engine = self._holder(snapshot_id)
        if engine is None:
            raise NotFound(f"{snapshot_id} is no point in time of a volume here")
        async with points.opened(engine, snapshot_id, base) as point:
            yield point

    async def release(self, snapshot_id: SnapshotId, *, keep_as_base: bool) -> None:
        engine = self._holder(snapshot_id) or await self._remembers(snapshot_id)
        if engine is None:
            return
        async with engine.lock:
            if engine.daemon.runs:
                await points.release(engine, snapshot_id, keep_as_base=keep_as_base)
            else:
                engine.place.point(snapshot_id).unlink(missing_ok=True)
        self._mender.nudge(engine.place.volume_id)

    async def observe(self) -> Mapping[VolumeId, ObservedVolume]:
        found = {}
        for volume_id in self._layout.volumes():
            engine = self._engine(volume_id)
            with contextlib.suppress(NotFound, FileNotFoundError):
                found[volume_id] = await self._observed(engine)
        return found

    def changes(self) -> AsyncIterator[VolumeId]:
        return self._feed.subscribe()

    async def capacity(self) -> tuple[int, int]:
        used = sum(used_bytes(self._layout.folder / volume_id) for volume_id in self._layout.volumes())
        return max(0, used + self._free_bytes() - self._reserve_bytes), used

    async def destroy(self) -> None:
        await self._stop_mending()
        for volume_id in self._layout.begun():
            engine = self._engine(volume_id)
            async with engine.lock:
                await engine.end()
                engine.place.wipe()
        self._engines.clear()
        self._layout.remove()

    async def _stop_mending(self) -> None:
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.gather(self._mending, return_exceptions=True)
            self._mending = None

    def _engine(self, volume_id: VolumeId) -> VolumeEngine:
        if volume_id not in self._engines:
            around = Around(keys=self._keys, direct=self._direct)
            engine = VolumeEngine(self._layout.place(volume_id), around, died=lambda: self._died(volume_id))
            engine.paused = self._full
            self._engines[volume_id] = engine
        return self._engines[volume_id]

    @asynccontextmanager
    async def _alone(self, volume_id: VolumeId) -> AsyncIterator[VolumeEngine]:
        engine = self._engines.get(volume_id)
        if engine is None:
            raise NotFound(f"There is no volume {volume_id} here.", code="InvalidVolume.NotFound")
        async with engine.lock:
            engine.record()
            yield engine

    def _holder(self, snapshot_id: SnapshotId) -> VolumeEngine | None:
        return next((one for one in self._engines.values() if one.place.point(snapshot_id).exists()), None)

    async def _remembers(self, snapshot_id: SnapshotId) -> VolumeEngine | None:
        """The volume whose changes since this point are known."""
        for engine in list(self._engines.values()):
            with contextlib.suppress(CloudError):
                if snapshot_id in {mark.snapshot_id for mark in await hydrate.marks(engine)}:
                    return engine
        return None

    async def _make(self, engine: VolumeEngine, volume: Volume) -> None:
        """The record last: it says that the volume is whole."""
        place = engine.place
        shutil.rmtree(place.folder, ignore_errors=True)
        place.folder.mkdir(mode=0o700)
        if volume.source is None:
            sparse.make(place.data, volume.size_bytes)
        else:
            await hydrate.make(place, volume.size_bytes, source_bytes=volume.source.size_bytes)
        await place.save(Record(limits=volume.limits, source=volume.source))

    async def _observed(self, engine: VolumeEngine) -> ObservedVolume:
        record = engine.record()
        trouble = self._troubles.get(engine.place.volume_id, "")
        try:
            frozen = frozenset(point.snapshot_id for point in await engine.points())
            served = await engine.served()
            missing = await hydrate.missing_bytes(engine)
        except CloudError as error:
            frozen, served, missing = frozenset(), False, record.source.size_bytes if record.source else 0
            trouble = trouble or error.message
        if not trouble and self._full:
            trouble = "the volumes' disk is full: writes wait"
        return ObservedVolume(
            size_bytes=engine.size_bytes,
            used_bytes=used_bytes(engine.place.folder),
            missing_bytes=missing,
            exported=record.grant if served else None,
            frozen=frozen,
            trouble=trouble,
        )

    def _died(self, volume_id: VolumeId) -> None:
        _log.warning("a storage daemon died", volume_id=volume_id)
        engine = self._engines.get(volume_id)
        if engine is not None and engine.daemon.age_s < _AT_ONCE_S:
            self._mender.nudge_later(volume_id, _AT_ONCE_S)
        else:
            self._mender.nudge(volume_id)
        self._feed.publish(volume_id)

    async def _mend(self, key: str) -> float | None:
        if key == _SPACE:
            return await self._look_at_space()
        if key.startswith(_SPACE):
            return await self._pause(VolumeId(key.removeprefix(_SPACE)))
        volume_id = VolumeId(key)
        trouble = await self._mended(volume_id)
        if trouble:
            raise CloudError(trouble)
        engine = self._engines.get(volume_id)
        if engine is None:
            return None
        async with engine.lock:
            again_s = await hydrate.step(engine)
        if again_s is None:
            self._feed.publish(volume_id)
        return again_s

    async def _mended(self, volume_id: VolumeId) -> str:
        """What is in the way, for a person."""
        engine = self._engines.get(volume_id)
        if engine is None:
            return ""
        before, trouble = self._troubles.get(volume_id, ""), ""
        async with engine.lock:
            if engine.place.load() is None:
                return ""
            try:
                await engine.look_after()
            except CloudError as error:
                trouble = error.message
                if isinstance(error, Refused):
                    # It cannot be what the record asks for: a new one can.
                    await engine.daemon.end()
        if trouble:
            self._troubles[volume_id] = trouble
        else:
            self._troubles.pop(volume_id, None)
        if trouble != before:
            self._feed.publish(volume_id)
        return trouble

    async def _look_at_space(self) -> float:
        spare = self._free_bytes() - self._reserve_bytes
        full = spare <= 0
        if full != self._full:
            self._full = full
            # Side by side, and each until its daemon has heard of it: one that hangs holds none of the others up.
            for volume_id in self._engines:
                self._mender.nudge(_SPACE + volume_id)
        return min(max(spare / _FILL_BYTES_PER_S, _LOOK_S[0]), _LOOK_S[1])

    async def _pause(self, volume_id: VolumeId) -> float | None:
        if (engine := self._engines.get(volume_id)) is None:
            return None
        async with engine.lock:
            if engine.place.load() is not None:
                await engine.pause(self._full)
        self._feed.publish(volume_id)
        return None

    def _free_bytes(self) -> int:
        return free_bytes(self._layout.folder)


async def _all_stand(points_of: Mapping[SnapshotId, VolumeId], engines: Mapping[VolumeId, VolumeEngine]) -> bool:
    """If some do, a controller was killed before the last, and nobody was told: none does on return."""
    standing = [
        (engine, point)
        for engine in engines.values()
        for point in await engine.points()
        if point.snapshot_id in points_of
    ]
    if len(standing) == len(points_of):
        return True
    for engine, point in standing:
        await hydrate.rest(engine)
        await points.undo(engine, point)
    return False


async def _undone(engine: VolumeEngine, point: PointName) -> None:
    with contextlib.suppress(CloudError):
        await points.undo(engine, point)


async def _fix(begun: Sequence[tuple[VolumeEngine, PointName]]) -> None:
    """Several volumes: from the first point to the last no client is told of a write that came after a point, so that
    none writes to one what it was told of another meanwhile."""
    async with AsyncExitStack() as gates:
        for engine, point in begun:
            gates.push_async_callback(points.let_on, engine, point)
        for engine, point in begun:
            await points.fix(engine, point)
    for engine, point in begun:
        await points.finish(engine, point)


def _full() -> NoCapacity:
    return NoCapacity("the volumes' disk is full", code="InsufficientVolumeCapacity")

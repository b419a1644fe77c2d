"""Brings every volume to where its record says it should be, woken by orders and by what the engine tells."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from common.errors import CloudError, InvalidArgument, NoCapacity, NotFound, Unavailable
from common.ids import SnapshotId, VolumeId
from common.log import get_logger
from common.patience import RoomPatience
from common.reconcile import Reconciler
from mallee.sc.v1.record_pb2 import VolumeRecord
from mallee.sc.v1.volume_pb2 import VOLUME_STATE_GONE, VolumeObservation
from services.sc.clients import Sources
from services.sc.drivers.base import ObservedVolume, Volume
from services.sc.engine import Engine
from services.sc.storage_feed import StorageFeed
from services.sc.store import Records
from services.sc.volume import NEXT, Do, EngineView, State, Wanted, limits_of, next_step

_log = get_logger(__name__)

SERVER_ERROR: Final = "Server.InternalError"
# Of an engine that fails without saying that it is no use.
_TRIES: Final = 5
_FOR_GOOD: Final = (NotFound, InvalidArgument)
_AT_ONCE: Final = 16


class VolumeReconciler:
    """`is_read` says whether a snapshot still reads the volume; `also_needed`, which sources others need."""

    def __init__(
        self,
        volumes: Records[VolumeRecord],
        engine: Engine,
        sources: Sources,
        feed: StorageFeed,
        *,
        is_read: Callable[[VolumeId], bool],
        also_needed: Callable[[], frozenset[str]],
        room: RoomPatience,
    ) -> None:
        self._volumes = volumes
        self._engine = engine
        self._sources = sources
        self._feed = feed
        self._is_read = is_read
        self._also_needed = also_needed
        self._loop = Reconciler("sc-volumes", self._step, concurrency=_AT_ONCE)
        self._tidier = Reconciler("sc-sources", self._tidy)
        self._tries: Counter[VolumeId] = Counter()
        self._room = room

    def nudge(self, volume_id: str) -> None:
        self._loop.nudge(volume_id)

    def tidy(self) -> None:
        """Sources that no volume needs any more are to end."""
        self._tidier.nudge()

    async def run_volumes(self) -> None:
        for volume_id in {*self._volumes.all(), *self._engine.seen}:
            self._loop.nudge(volume_id)
        await self._loop.run()

    async def run_sources(self) -> None:
        self._tidier.nudge()
        await self._tidier.run()

    def observation(self, record: VolumeRecord) -> VolumeObservation:
        volume_id = VolumeId(record.spec.volume_id)
        seen = self._engine.seen.get(volume_id)
        observation = VolumeObservation(
            volume_id=volume_id,
            generation=record.generation_in_force,
            state=record.state,
            reason_code=record.reason_code,
            message=record.message or (seen.trouble if seen else ""),
            size_bytes=seen.size_bytes if seen else 0,
            used_bytes=seen.used_bytes if seen else 0,
            missing_bytes=seen.missing_bytes if seen else 0,
        )
        if record.HasField("grant"):
            observation.grant.CopyFrom(record.grant)
        return observation

    async def _step(self, key: str) -> float | None:
        volume_id = VolumeId(key)
        record = self._volumes.get(volume_id)
        if record is None:
            if volume_id in self._engine.seen:
                # Nothing is made without a record, and what somebody may miss is not removed by a guess.
                _log.warning("the engine has a volume that nobody knows", volume=volume_id)
            return None
        self._feed.volume(self.observation(record))
        match next_step(State(record.state), self._wanted(record), _view(self._engine.seen.get(volume_id))):
            case Do.CREATE:
                await self._create(volume_id, record)
            case Do.RESIZE | Do.LIMIT:
                await self._bring_into_force(volume_id, record)
            case Do.CUT_OFF:
                await self._cut_off(volume_id)
            case Do.MISS:
                await self._miss(volume_id)
            case Do.REMOVE:
                await self._remove(volume_id)
            case None:
                pass
        return None

    def _wanted(self, record: VolumeRecord) -> Wanted:
        return Wanted(
            size_bytes=record.spec.size_bytes,
            granted=record.grant.generation,
            limits_in_force=record.generation_in_force == record.spec.generation,
            is_read=self._is_read(VolumeId(record.spec.volume_id)),
        )

    async def _create(self, volume_id: VolumeId, record: VolumeRecord) -> None:
        spec = record.spec
        try:
            source = await self._sources.serve(SnapshotId(spec.snapshot_id)) if spec.snapshot_id else None
            volume = Volume(volume_id=volume_id, size_bytes=spec.size_bytes, limits=limits_of(spec), source=source)
            async with self._engine.alone(volume_id):
                await self._engine.driver.create(volume)
        except Unavailable:
            raise
        except CloudError as error:
            if not self._is_final(volume_id, error):
                raise
            await self._fail(volume_id, error.code, error.message)
            return
        self._engine.made(volume_id, spec.size_bytes, missing_bytes=spec.size_bytes if source else 0)
        self._forget(volume_id)
        # What was wanted otherwise meanwhile is not in force yet.
        await self._move(volume_id, State.AVAILABLE, in_force=spec.generation)
        self._engine.look_again()

    def _is_final(self, volume_id: VolumeId, error: CloudError) -> bool:
        """It was admitted, and is not given up for what may pass."""
        if isinstance(error, NoCapacity):
            return self._room.is_over(volume_id)
        self._tries[volume_id] += 1
        return isinstance(error, _FOR_GOOD) or self._tries[volume_id] >= _TRIES

    def _forget(self, volume_id: VolumeId) -> None:
        self._tries.pop(volume_id, None)
        self._room.end(volume_id)

    async def _bring_into_force(self, volume_id: VolumeId, record: VolumeRecord) -> None:
        spec = record.spec

        def note(now: VolumeRecord | None) -> VolumeRecord | None:
            if now is not None:
                now.generation_in_force = max(now.generation_in_force, spec.generation)
            return now

        async with self._engine.alone(volume_id):
            await self._engine.driver.resize(volume_id, spec.size_bytes)
            await self._engine.driver.limit(volume_id, limits_of(spec))
        # Its size is seen before it is said to be in force.
        self._engine.resized(volume_id, spec.size_bytes)
        await self._volumes.update(volume_id, note)
        self._engine.look_again()

    async def _cut_off(self, volume_id: VolumeId) -> None:
        """Asked again, as it may have been told while a node redeemed its grant."""
        async with self._engine.alone(volume_id):
            seen, record = await self._engine.ask(volume_id), self._volumes.get(volume_id)
            granted = record.grant.generation if record is not None else 0
            if seen is not None and seen.exported is not None and seen.exported.generation != granted:
                _log.warning("a client without a grant is cut off", volume=volume_id, node=seen.exported.node)
                await self._engine.driver.unexport(volume_id)
        self._engine.look_again()

    async def _miss(self, volume_id: VolumeId) -> None:
        async with self._engine.alone(volume_id):
            there = await self._engine.ask(volume_id)
        if there is None:
            _log.error("a volume is lost", volume=volume_id)
            await self._move(volume_id, State.FAILED, code=SERVER_ERROR, message="The volume's data is not there.")
        self._engine.look_again()

    async def _remove(self, volume_id: VolumeId) -> None:
        async with self._engine.alone(volume_id):
            await self._engine.driver.unexport(volume_id)
            await self._engine.driver.remove(volume_id)
        self._engine.forget(volume_id)
        await self._volumes.update(volume_id, lambda _: None)
        self._feed.volume(VolumeObservation(volume_id=volume_id, state=VOLUME_STATE_GONE))
        self._forget(volume_id)
        self.tidy()

    async def _fail(self, volume_id: VolumeId, code: str, message: str) -> None:
        """It could not be made: nothing of it is left."""
        async with self._engine.alone(volume_id):
            with contextlib.suppress(NotFound):
                await self._engine.driver.remove(volume_id)
        self._forget(volume_id)
        await self._move(volume_id, State.FAILED, code=code, message=message)
        self._engine.look_again()
        self.tidy()

    async def _move(
        self, volume_id: VolumeId, state: State, *, in_force: int = 0, code: str = "", message: str = ""
    ) -> None:
        def change(record: VolumeRecord | None) -> VolumeRecord | None:
            if record is None or state not in NEXT[State(record.state)]:
                return record
            record.state, record.reason_code, record.message = state.value, code, message
            record.generation_in_force = max(record.generation_in_force, in_force)
            return record

        await self._volumes.update(volume_id, change)

    async def _tidy(self, key: str) -> None:
        """A source is needed until all of it was fetched."""
        for snapshot_id in await self._sources.serving() - self._needed():
            await self._sources.stop(snapshot_id, unless=partial(self._is_needed, snapshot_id))

    def _is_needed(self, snapshot_id: str) -> bool:
        return snapshot_id in self._needed()

    def _needed(self) -> frozenset[str]:
        needed = set(self._also_needed())
        for volume_id, record in self._volumes.all().items():
            seen = self._engine.seen.get(VolumeId(volume_id))
            wants = State(record.state) is not State.FAILED and (seen is None or seen.missing_bytes)
            if record.spec.snapshot_id and wants:
                needed.add(record.spec.snapshot_id)
        return frozenset(needed)


def _view(seen: ObservedVolume | None) -> EngineView | None:
    if seen is None:
        return None
    return EngineView(size_bytes=seen.size_bytes, exported=seen.exported.generation if seen.exported else 0)

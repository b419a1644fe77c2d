"""The volumes of running guests: what is attached is made what the plan says, disk by disk, whatever happened before.

What a guest has is asked of the engine each time. In memory is only what nobody is misled by when it is lost: since
when a guest has been asked for a disk, and what could not be attached.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from common.errors import CloudError, Unavailable, WrongState
from common.ids import InstanceId
from common.log import get_logger
from common.reconcile import Reconciler
from common.rpc import context
from mallee.nc.v1 import instance_pb2, record_pb2
from mallee.sc.v1 import volume_pb2
from services.nc.drivers import base
from services.nc.drivers.base import AttachedDisk, ExportSource, Hypervisor, Power
from services.nc.instance import Goal, Phase
from services.nc.store import InstanceStore

_log = get_logger(__name__)

# One per letter; a disk that is made of a machine image is a.
ROOT_SLOT: Final = 0
AT_ONCE: Final = 256
# A guest that has not let go of a disk for so long is busy with it, and asked again.
BUSY_S: Final = 5.0
# Of the reconcilers here: somebody waits for each disk.
_LAST_RETRY_S: Final = 3.0
# Its guest has let go of a disk, and the engine is about to.
_SOON_S: Final = 0.05
# Others are told of a disk that the engine refuses so often in a row. It is tried on all the same: what was in the way,
# a full disk of the host, may pass.
_TRIES: Final = 3

PLUGGING: Final = instance_pb2.DISK_STATE_PLUGGING
PLUGGED: Final = instance_pb2.DISK_STATE_PLUGGED
UNPLUGGING: Final = instance_pb2.DISK_STATE_UNPLUGGING
BUSY: Final = instance_pb2.DISK_STATE_BUSY
FAILED: Final = instance_pb2.DISK_STATE_FAILED


# Whether its guest is up, the plan's revision, and what it has.
_Standing = tuple[bool, int, frozenset[AttachedDisk]]


class Exports(Protocol):
    async def redeem(self, volume_id: str, generation: int) -> volume_pb2.Export:
        """Where the volume is, for this node alone. Waits a while for the grant.

        Raises Denied if the grant is another's or was revoked, Unavailable if there is none yet, or nobody answers.
        """


class Do(enum.Enum):
    ATTACH = "attach"
    DETACH = "detach"
    # The guest has it, but from another place, or in another size, than it should be.
    REFRESH = "refresh"


def next_step(wanted: instance_pb2.Disk | None, found: AttachedDisk | None, *, slot_is_free: bool = True) -> Do | None:
    """The one thing to do for one volume. `slot_is_free`: no other disk is where this one is to be."""
    match wanted, found:
        case None, None:
            return None
        case None, _:
            return Do.DETACH
        case _, None:
            return Do.ATTACH if slot_is_free else None
    assert wanted is not None
    assert found is not None
    if wanted.slot != found.slot:
        return Do.DETACH
    if wanted.grant_generation > found.generation or wanted.size_bytes > found.size_bytes:
        return Do.REFRESH
    return None


def told(
    wanted: instance_pb2.Disk | None, found: AttachedDisk | None, *, asked: bool, busy: bool, failure: str = ""
) -> instance_pb2.DiskObservation | None:
    """What others are told of one volume. `asked`: its guest was, to let go of it; `busy`: long ago."""
    seen = instance_pb2.DiskObservation()
    if found is not None:
        seen.volume_id, seen.grant_generation, seen.size_bytes = found.volume_id, found.generation, found.size_bytes
        seen.state = PLUGGED
        if wanted is None or wanted.slot != found.slot:
            seen.state = BUSY if asked and busy else UNPLUGGING
        elif wanted.grant_generation > found.generation:
            seen.state, seen.grant_generation = PLUGGING, wanted.grant_generation
        return seen
    if wanted is None:
        return None
    seen.volume_id, seen.grant_generation, seen.message = wanted.volume_id, wanted.grant_generation, failure
    seen.state = FAILED if failure else PLUGGING
    return seen


def volumes_of(plan: instance_pb2.DiskPlan) -> dict[str, instance_pb2.Disk]:
    return {disk.volume_id: disk for disk in plan.disks if disk.volume_id}


def engine_disk(disk: instance_pb2.Disk, export: volume_pb2.Export) -> base.Disk:
    """A volume of the plan, where its export is. The guest sees no more than is there."""
    return base.Disk(
        slot=disk.slot,
        source=_source(export),
        size_bytes=min(disk.size_bytes, export.size_bytes) if export.size_bytes else disk.size_bytes,
        boots=disk.root,
        volume_id=disk.volume_id,
        generation=disk.grant_generation,
    )


def _source(export: volume_pb2.Export) -> ExportSource:
    if export.WhichOneof("place") == "tls":
        tls = export.tls
        return ExportSource(name=export.name, address=tls.address, port=tls.port, server_name=tls.server_name)
    return ExportSource(name=export.name, socket=Path(export.unix_socket))


class DiskReconciler:
    """`nudge` when an order or the engine has changed anything; `run` works, without end."""

    def __init__(
        self,
        store: InstanceStore,
        hypervisor: Hypervisor,
        exports: Exports,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._hypervisor = hypervisor
        self._exports = exports
        self._now_s = now_s
        self._looks = Reconciler("nc-disks", self.look, concurrency=AT_ONCE, last_retry_s=_LAST_RETRY_S)
        self._acts = Reconciler("nc-disk", self.act, concurrency=AT_ONCE, last_retry_s=_LAST_RETRY_S)
        # (instance, volume) → since when its guest has been asked for it.
        self._asked: dict[tuple[InstanceId, str], float] = {}
        # Seen with a guest that is to let go of it.
        self._leaving: set[tuple[InstanceId, str]] = set()
        # → the plan's revision, how often it was refused, and the last words.
        self._refused: dict[tuple[InstanceId, str], tuple[int, int, str]] = {}
        # What stood when acts were last woken, and when: each repeats itself at its own pace.
        self._woken: dict[InstanceId, tuple[_Standing, float]] = {}
        # On their way in: whatever the plan says now, they may be attached any moment.
        self._on_the_way: set[tuple[InstanceId, str]] = set()

    def nudge(self, instance_id: InstanceId) -> None:
        self._looks.nudge(instance_id)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            # Before the first look, so that nothing falls in between.
            changes, disks = self._hypervisor.changes(), self._hypervisor.disk_changes()
            for instance_id in self._store.all():
                self.nudge(instance_id)
            tasks.create_task(self._looks.run())
            tasks.create_task(self._acts.run())

            async def follow() -> None:
                async for instance_id in disks:
                    self.nudge(instance_id)

            tasks.create_task(follow())
            async for change in changes:
                self.nudge(change.instance_id)

    async def look(self, key: str) -> float | None:
        """Tells what stands, and has done what is to be done."""
        instance_id = InstanceId(key)
        record = self._store.get(instance_id)
        if record is None:
            self._forget(self._asked, instance_id, but=())
            self._forget(self._refused, instance_id, but=())
            self._woken.pop(instance_id, None)
            return None
        wanted, found = volumes_of(record.spec.disks), await self._found(instance_id)
        steps = {v: next_step(wanted.get(v), found.get(v)) for v in wanted.keys() | found.keys()}
        self._forget(self._asked, instance_id, but=[v for v, step in steps.items() if step is Do.DETACH])
        self._forget(self._refused, instance_id, but=wanted)
        is_at_work = await self._is_at_work(instance_id, record)
        self._tell(instance_id, record, found, is_at_work=is_at_work)
        due = [volume_id for volume_id, step in steps.items() if is_at_work and step is not None]
        if self._is_news(instance_id, (is_at_work, record.spec.disks.revision, frozenset(found.values()))):
            for volume_id in due:
                if steps[volume_id] is Do.DETACH:
                    self._leaving.add((instance_id, volume_id))
                self._acts.nudge(f"{instance_id}/{volume_id}")
        if any(disk.slot < 0 for disk in found.values()):
            return _SOON_S
        return BUSY_S if due else None

    def _is_news(self, instance_id: InstanceId, standing: _Standing) -> bool:
        """Or nothing came of it for a while."""
        before, since_s = self._woken.get(instance_id, (None, 0.0))
        if standing == before and self._now_s() - since_s < BUSY_S:
            return False
        self._woken[instance_id] = standing, self._now_s()
        return True

    async def act(self, key: str) -> float | None:
        """The next step of one volume of one instance."""
        first, _, volume_id = key.partition("/")
        instance_id = InstanceId(first)
        record = self._store.get(instance_id)
        was_seen = (instance_id, volume_id) in self._leaving
        self._leaving.discard((instance_id, volume_id))
        if record is None or not await self._is_at_work(instance_id, record):
            return None
        wanted = volumes_of(record.spec.disks).get(volume_id)
        if wanted is None and was_seen:
            # A moment ago, and letting go of what is not there is nothing: the engine need not be asked again.
            with context.bind(request_id=record.request_id or None):
                return await self._take_off(instance_id, volume_id, record)
        found = await self._found(instance_id)
        has = found.get(volume_id)
        taken = {disk.slot for other, disk in found.items() if other != volume_id}
        step = next_step(wanted, has, slot_is_free=wanted is None or wanted.slot not in taken)
        with context.bind(request_id=record.request_id or None):
            match step:
                case Do.DETACH:
                    return await self._take_off(instance_id, volume_id, record)
                case Do.ATTACH | Do.REFRESH if wanted is not None:
                    self._on_the_way.add((instance_id, volume_id))
                    try:
                        return await self._bring(instance_id, wanted, has, revision=record.spec.disks.revision)
                    finally:
                        self._on_the_way.discard((instance_id, volume_id))
                        self.nudge(instance_id)
        return None

    async def _take_off(self, instance_id: InstanceId, volume_id: str, record: record_pb2.InstanceRecord) -> float:
        self._asked.setdefault((instance_id, volume_id), self._now_s())
        forced = volume_id in record.spec.disks.forced_volume_ids
        await self._hypervisor.detach_disk(instance_id, volume_id, forced=forced)
        self.nudge(instance_id)
        return BUSY_S

    async def _bring(
        self, instance_id: InstanceId, wanted: instance_pb2.Disk, has: AttachedDisk | None, *, revision: int
    ) -> float | None:
        """Seconds to the next try; None: it is done."""
        key = instance_id, wanted.volume_id
        known, tries, _ = self._refused.get(key, (0, 0, ""))
        export = await self._exports.redeem(wanted.volume_id, wanted.grant_generation)
        if (now := self._store.get(instance_id)) is None or now.spec.disks.revision != revision:
            # It may not be wanted any more.
            return 0.0
        disk = engine_disk(wanted, export)
        try:
            if has is None:
                await self._hypervisor.attach_disk(instance_id, disk)
            else:
                await self._hypervisor.refresh_disk(instance_id, disk)
        except (Unavailable, WrongState):
            raise
        except CloudError as error:
            if has is not None and has.generation < wanted.grant_generation and not wanted.root:
                # What it was told with was cut off while the guest wrote: it comes back when it has been let go.
                await self._hypervisor.detach_disk(instance_id, wanted.volume_id)
                return BUSY_S
            tries = tries + 1 if known == revision else 1
            self._refused[key] = revision, tries, error.message
            _log.warning("a disk is refused", instance_id=instance_id, volume_id=wanted.volume_id, error=error.message)
            return min(2.0 ** (tries - _TRIES), BUSY_S)
        self._refused.pop(key, None)
        _log.info("a disk is attached", instance_id=instance_id, volume_id=wanted.volume_id, size=disk.size_bytes)
        # One that the storage controller has yet to grow.
        return _LAST_RETRY_S if disk.size_bytes < wanted.size_bytes else None

    async def _is_at_work(self, instance_id: InstanceId, record: record_pb2.InstanceRecord) -> bool:
        """Its guest is up and to stay so."""
        if Goal(record.goal) is not Goal.RUN or Phase(record.phase) is Phase.CLEARING:
            return False
        return await self._hypervisor.power_of(instance_id) in (Power.RUNNING, Power.STALLED)

    async def _found(self, instance_id: InstanceId) -> dict[str, AttachedDisk]:
        return {disk.volume_id: disk for disk in await self._hypervisor.disks_of(instance_id)}

    def _tell(
        self,
        instance_id: InstanceId,
        record: record_pb2.InstanceRecord,
        found: Mapping[str, AttachedDisk],
        *,
        is_at_work: bool,
    ) -> None:
        revision, wanted = record.spec.disks.revision, volumes_of(record.spec.disks)
        # A launch under way may still bring what an older plan had.
        is_settled = is_at_work or not _comes_up(record)
        seen = []
        on_the_way = {volume_id for other, volume_id in self._on_the_way if other == instance_id}
        for volume_id in sorted(wanted.keys() | found.keys() | on_the_way):
            if volume_id not in found and not _comes_up(record):
                continue
            if volume_id not in found and volume_id not in wanted:
                seen.append(instance_pb2.DiskObservation(volume_id=volume_id, state=PLUGGING))
                continue
            known, tries, words = self._refused.get((instance_id, volume_id), (0, 0, ""))
            asked_s = self._asked.get((instance_id, volume_id))
            one = told(
                wanted.get(volume_id),
                found.get(volume_id),
                asked=asked_s is not None,
                busy=asked_s is not None and self._now_s() - asked_s >= BUSY_S,
                failure=words if known == revision and tries >= _TRIES else "",
            )
            if one is not None:
                seen.append(one)
        self._store.tell_disks(instance_id, revision if is_settled else 0, seen)

    def _forget(
        self, memory: dict[tuple[InstanceId, str], Any], instance_id: InstanceId, *, but: Container[str]
    ) -> None:
        for key in [key for key in memory if key[0] == instance_id and key[1] not in but]:
            del memory[key]


def _comes_up(record: record_pb2.InstanceRecord) -> bool:
    """It has no disks yet, but is about to get them."""
    up = (Phase.PREPARING, Phase.RUNNING, Phase.CLEARING)
    return Goal(record.goal) is Goal.RUN and Phase(record.phase) in up

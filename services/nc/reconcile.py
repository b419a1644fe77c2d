"""Brings every VM of the node to where its record says it should be, woken by orders and by the engine's events."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from common.errors import CloudError
from common.ids import InstanceId
from common.log import get_logger
from common.metrics import counter, histogram
from common.reconcile import Reconciler
from common.rpc import context
from mallee.nc.v1 import record_pb2
from services.nc.drivers.base import Power
from services.nc.host import Host
from services.nc.instance import (
    AFTER,
    SERVER_ERROR,
    Do,
    Goal,
    Patience,
    Phase,
    give_up,
    next_step,
    reason_words,
    rest_of,
)
from services.nc.store import InstanceStore

_log = get_logger(__name__)

_LAUNCHES: Final = counter("mallee_nc_launches", "Launches that ended: running, failed", ("outcome",))
_LAUNCH_SECONDS: Final = histogram("mallee_nc_launch_seconds", "From the order to the guest's first instruction")
_RESTARTS: Final = counter("mallee_nc_restarts", "VMs found not running and started again", ("was",))

# Many, for launches of one large image all wait for it, and nothing else should wait for them.
AT_ONCE: Final = 512
# A guest that the host's full disk has stopped is tried again after this long.
STALLED_S: Final = 10.0
# A guest that is to shut down is asked again after this long: it may have been too young to hear.
ASKED_AGAIN_S: Final = 10.0
# A guest that crashes again and again waits longer each time, up to this.
LONGEST_CRASH_WAIT_S: Final = 60.0


class InstanceReconciler:
    def __init__(
        self,
        store: InstanceStore,
        host: Host,
        *,
        now_s: Callable[[], float] = time.time,
        patience: Patience | None = None,
    ) -> None:
        self._store = store
        self._host = host
        self._now_s = now_s
        self._patience = patience or Patience()
        self._loop = Reconciler("nc-instances", self.step, concurrency=AT_ONCE)
        self._sweeper = Reconciler("nc-leftovers", self._sweep)
        self._tries: Counter[InstanceId] = Counter()
        self._failing_since_s: dict[InstanceId, float] = {}
        self._launching: dict[InstanceId, asyncio.Future[None]] = {}
        self._stalled: set[InstanceId] = set()
        # When its guest was last asked to shut down.
        self._asked_s: dict[InstanceId, float] = {}
        # Per instance: restarts in a row, and when the last one was.
        self._crashes: dict[InstanceId, tuple[int, float]] = {}

    def nudge(self, instance_id: InstanceId) -> None:
        """Its record has changed. A launch under way is cut short if the instance is not wanted any more."""
        self._loop.nudge(instance_id)
        launching = self._launching.get(instance_id)
        if launching is not None and not self._is_wanted(instance_id):
            launching.cancel()

    def _is_wanted(self, instance_id: InstanceId) -> bool:
        record = self._store.get(instance_id)
        return record is not None and Goal(record.goal) is not Goal.GONE

    async def run(self) -> None:
        """Without end."""
        async with asyncio.TaskGroup() as tasks:
            # Before the first look, so that nothing falls in between.
            changes = self._host.hypervisor.changes()
            for instance_id in {*self._store.all(), *self._store.folders_without_record()}:
                self._loop.nudge(instance_id)
            tasks.create_task(self._loop.run())
            self._sweeper.nudge()
            tasks.create_task(self._sweeper.run())
            async for change in changes:
                self._loop.nudge(change.instance_id)

    async def step(self, key: str) -> float | None:
        instance_id = InstanceId(key)
        while (record := self._store.get(instance_id)) is not None:
            with context.bind(request_id=record.request_id or None):
                power = await self._host.hypervisor.power_of(instance_id)
                grace_s = record.grace_until_ms / 1000 - self._now_s()
                rest = rest_of(record, self._now_s())
                step = next_step(
                    Goal(record.goal),
                    Phase(record.phase),
                    power,
                    held=record.held,
                    has_grace=grace_s > 0,
                    rest=rest,
                )
                if step is None:
                    return record.rest_until_ms / 1000 - self._now_s() if rest is not None else None
                if step is Do.SHUT_DOWN:
                    return await self._shut_down(instance_id, grace_s)
                if (wait_s := self._wait_s(instance_id, record, power, step)) is not None:
                    return wait_s
                if isinstance(step, Phase):
                    await self._enter(instance_id, record, step)
                    continue
                await self._perform(step, instance_id, record)
                if step is Do.REMOVE:
                    return None
        # No record: what is left of a removal that was cut short.
        await self._host.hypervisor.remove(instance_id)
        await self._store.remove(instance_id)
        return None

    async def _shut_down(self, instance_id: InstanceId, grace_s: float) -> float:
        """Seconds until the next look; that its guest is off wakes earlier."""
        since_s = self._now_s() - self._asked_s.get(instance_id, 0.0)
        if since_s >= ASKED_AGAIN_S:
            self._asked_s[instance_id] = self._now_s()
            await self._host.hypervisor.shut_down(instance_id)
            since_s = 0.0
        return min(grace_s, ASKED_AGAIN_S - since_s)

    async def _perform(self, act: Do, instance_id: InstanceId, record: record_pb2.InstanceRecord) -> None:
        match act:
            case Do.LAUNCH:
                with self._full_disk_is_no_try(instance_id):
                    await self._launch(instance_id, record)
            case Do.PLUG:
                await self._host.plug(record.spec)
            case Do.RESUME:
                await self._host.hypervisor.resume(instance_id)
            case Do.PULL_THE_PLUG:
                await self._host.hypervisor.power_off(instance_id, grace_s=0)
            case Do.NOTE_REST | Do.WAKE:
                await self._note_rest(instance_id, record, begins=act is Do.NOTE_REST)
            case Do.CLEAR:
                await self._host.hypervisor.remove(instance_id)
                self._begin_anew(instance_id)
            case Do.CLEAN:
                await self._host.clean(record.spec)
            case Do.REMOVE:
                await self._host.clean(record.spec)
                await self._store.remove(instance_id)
                self._host.tidy()
                self._forget(instance_id)
                _log.info("nothing of a VM is left", instance_id=instance_id)
        if (phase := AFTER.get(act)) is not None:
            await self._enter(instance_id, record, phase)

    async def _enter(self, instance_id: InstanceId, seen: record_pb2.InstanceRecord, phase: Phase) -> None:
        """Unless an order has come in between: then the next look decides."""

        def change(record: record_pb2.InstanceRecord | None) -> record_pb2.InstanceRecord | None:
            if record is None or record != seen:
                return None
            if phase is not Phase.FAILED:
                record.reason_code, record.message = reason_words(phase)
            record.phase = phase.value
            record.held = False
            return record

        await self._store.update(instance_id, change)
        if phase is Phase.RUNNING and Phase(seen.phase) is Phase.PREPARING:
            _LAUNCHES.labels("running").inc()
            _log.info("a VM runs", instance_id=instance_id)
            _LAUNCH_SECONDS.observe(max(0.0, self._now_s() - seen.ordered_at_ms / 1000))
            self._begin_anew(instance_id)

    async def _note_rest(self, instance_id: InstanceId, seen: record_pb2.InstanceRecord, *, begins: bool) -> None:
        """Unless an order has come in between."""

        def change(record: record_pb2.InstanceRecord | None) -> record_pb2.InstanceRecord | None:
            if record is None or record != seen:
                return None
            record.at_rest = begins
            if not begins:
                record.rest_until_ms = record.grace_until_ms = 0
            return record

        await self._store.update(instance_id, change)
        self._asked_s.pop(instance_id, None)
        _log.info("a VM rests" if begins else "the rest of a VM is over", instance_id=instance_id)

    async def _launch(self, instance_id: InstanceId, record: record_pb2.InstanceRecord) -> None:
        first = Phase(record.phase) is Phase.PREPARING
        # Counted before, so that an error nobody thought of is given up as well.
        is_failing = self._tries[instance_id] > self._patience.tries and record.failed_launches == 0
        if first and is_failing and self._failing_s(instance_id) >= self._patience.fault_s:
            await self._give_up(instance_id, SERVER_ERROR, f"{SERVER_ERROR}: the node failed to start it")
            return
        self._tries[instance_id] += 1
        launching = self._launching[instance_id] = asyncio.ensure_future(self._host.launch(record.spec))
        try:
            await asyncio.wait([launching])
            if launching.cancelled() and not self._is_wanted(instance_id):
                return
            launching.result()
        except CloudError as error:
            if not first:
                raise
            await self._failed(instance_id, record, error)
        finally:
            del self._launching[instance_id]
            # Here if this pass itself was cancelled: the launch goes with it.
            launching.cancel()

    @contextlib.contextmanager
    def _full_disk_is_no_try(self, instance_id: InstanceId) -> Iterator[None]:
        """Not even the failure could be written down: it is tried until there is space again."""
        try:
            yield
        except OSError as error:
            self._tries[instance_id] -= error.errno == errno.ENOSPC
            raise

    async def _failed(self, instance_id: InstanceId, record: record_pb2.InstanceRecord, error: CloudError) -> None:
        tries, failing_s = record.failed_launches + 1, self._failing_s(instance_id)

        def count(current: record_pb2.InstanceRecord | None) -> record_pb2.InstanceRecord | None:
            if current is None or current.spec.generation != record.spec.generation:
                return None
            current.failed_launches, current.message = tries, error.message
            return current

        await self._store.update(instance_id, count)
        verdict = give_up(error, tries=tries, failing_s=failing_s, patience=self._patience)
        if verdict is None:
            raise error
        await self._give_up(instance_id, *verdict)

    async def _give_up(self, instance_id: InstanceId, code: str, message: str) -> None:
        def fail(record: record_pb2.InstanceRecord | None) -> record_pb2.InstanceRecord | None:
            if record is None or Phase(record.phase) is not Phase.PREPARING:
                return None
            record.phase, record.reason_code, record.message = Phase.FAILING.value, code, message
            return record

        await self._store.update(instance_id, fail)
        _LAUNCHES.labels("failed").inc()
        _log.warning("a launch has failed for good", instance_id=instance_id, code=code, message=message)
        self._begin_anew(instance_id)

    def _failing_s(self, instance_id: InstanceId) -> float:
        """Of one that has failed: since the first time, as far as this process knows."""
        return self._now_s() - self._failing_since_s.setdefault(instance_id, self._now_s())

    def _begin_anew(self, instance_id: InstanceId) -> None:
        self._tries.pop(instance_id, None)
        self._failing_since_s.pop(instance_id, None)

    def _wait_s(
        self, instance_id: InstanceId, record: record_pb2.InstanceRecord, power: Power | None, step: Do | Phase
    ) -> float | None:
        """Seconds to let pass before the step, None to do it now."""
        if step is Do.RESUME and instance_id not in self._stalled:
            self._stalled.add(instance_id)
            return STALLED_S
        if step is Do.RESUME:
            self._stalled.discard(instance_id)
        if step is not Do.LAUNCH or Phase(record.phase) is not Phase.RUNNING or record.held:
            return None
        count, last_s = self._crashes.get(instance_id, (0, 0.0))
        since_s = self._now_s() - last_s
        if since_s > 2 * LONGEST_CRASH_WAIT_S:
            count = 0
        wait_s = min(LONGEST_CRASH_WAIT_S, 2.0 ** (count - 1)) if count else 0.0
        if since_s < wait_s:
            return wait_s - since_s
        self._crashes[instance_id] = (count + 1, self._now_s())
        was = power.value if power is not None else "lost"
        _RESTARTS.labels(was).inc()
        _log.info("a VM is started again", instance_id=instance_id, was=was)
        return None

    async def _sweep(self, _: str) -> None:
        """Once per start: what stands on the host without a record was left by a removal that was cut short."""
        for instance_id in await self._host.hypervisor.observe():
            self._loop.nudge(instance_id)
        recorded = {record.spec.interface.interface_id for record in self._store.all().values()}
        for interface_id, vpc_id in (await self._host.network.observe()).items():
            if interface_id not in recorded:
                _log.warning("an interface without an instance is taken away", interface_id=interface_id)
                await self._host.network.remove_interface(interface_id, vpc_id)

    def _forget(self, instance_id: InstanceId) -> None:
        self._asked_s.pop(instance_id, None)
        self._begin_anew(instance_id)
        self._crashes.pop(instance_id, None)
        self._stalled.discard(instance_id)

"""The reconciler's patience, by a clock of its own."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from common.errors import CloudError, NoCapacity, Unavailable
from common.ids import InstanceId
from mallee.nc.v1 import instance_pb2, record_pb2
from services.nc.drivers.base import Domain, Power
from services.nc.drivers.fake import FakeHypervisor
from services.nc.gone import KEPT_S
from services.nc.instance import Goal, Patience, Phase
from services.nc.paths import NodePaths
from services.nc.reconcile import LONGEST_CRASH_WAIT_S, STALLED_S, InstanceReconciler
from services.nc.store import InstanceStore
from tests.unit.nc.specs import spec

ID = InstanceId(spec().instance_id)


class Stand:
    """A host whose launches are the fake engine's alone, and a clock that is set by hand."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 1000.0
        self.paths = NodePaths(folder)
        self.hypervisor = FakeHypervisor(folder / "fake")
        self.error: BaseException | None = None
        self.store = InstanceStore(self.paths, now_s=lambda: self.now_s)
        self.store.open()
        self.reconciler = InstanceReconciler(self.store, self, now_s=lambda: self.now_s)  # type: ignore[arg-type]

    async def launch(self, made: instance_pb2.InstanceSpec) -> None:
        if self.error is not None:
            raise self.error
        facts: dict[str, Any] = dict.fromkeys(("kernel_arguments", "mac", "tap"), "")
        await self.hypervisor.prepare(
            Domain(
                instance_id=ID,
                vcpus=1,
                memory_bytes=1,
                disks=(),
                kernel=None,
                ramdisk=None,
                console_log=self.paths.console(ID),
                **facts,
            )
        )

    async def plug(self, made: instance_pb2.InstanceSpec) -> None:
        await self.hypervisor.resume(ID)

    async def clean(self, made: instance_pb2.InstanceSpec) -> None:
        await self.hypervisor.remove(ID)

    def tidy(self) -> None:
        """There is no cache."""

    async def order(self) -> None:
        record = record_pb2.InstanceRecord(
            spec=spec(), goal=Goal.RUN.value, phase=Phase.PREPARING.value, ordered_at_ms=int(self.now_s * 1000)
        )
        await self.store.update(ID, lambda _: record)

    async def step(self) -> float | None:
        return await self.reconciler.step(ID)

    def phase(self) -> Phase:
        record = self.store.get(ID)
        assert record is not None
        return Phase(record.phase)


@pytest.fixture
async def stand(tmp_path: Path) -> Any:
    made = Stand(tmp_path)
    await made.hypervisor.open()
    yield made
    await made.hypervisor.close()
    made.store.close()


async def test_a_guest_that_crashes_again_and_again_waits_longer_each_time(stand: Stand) -> None:
    await stand.order()
    assert await stand.step() is None
    waits = []
    for _ in range(9):
        stand.hypervisor.guest_crashes(ID)
        wait_s = await stand.step()
        waits.append(wait_s)
        stand.now_s += wait_s or 0.0
        if wait_s:
            assert await stand.step() is None
        assert await stand.hypervisor.power_of(ID) is Power.RUNNING
    assert waits == [None, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, LONGEST_CRASH_WAIT_S, LONGEST_CRASH_WAIT_S]
    stand.now_s += 3 * LONGEST_CRASH_WAIT_S
    stand.hypervisor.guest_crashes(ID)
    assert await stand.step() is None


async def test_a_launch_outlasts_a_full_disk(stand: Stand) -> None:
    await stand.order()
    for stand.error in [OSError(errno.ENOSPC, "full")] * 9 + [NoCapacity("full")] * 9:
        with pytest.raises(type(stand.error), match="full"):
            await stand.step()
    stand.error = None
    await stand.step()
    assert stand.phase() is Phase.RUNNING


async def test_a_guest_stopped_by_a_full_disk_is_resumed_after_a_while(stand: Stand) -> None:
    await stand.order()
    await stand.step()
    stand.hypervisor.guest_stalls(ID)
    assert await stand.step() == STALLED_S
    assert await stand.hypervisor.power_of(ID) is Power.STALLED
    assert await stand.step() is None
    assert await stand.hypervisor.power_of(ID) is Power.RUNNING
    assert stand.phase() is Phase.RUNNING


@pytest.mark.parametrize(
    "error", [CloudError("qemu does not like it"), KeyError("a bug"), asyncio.CancelledError("given up elsewhere")]
)
async def test_every_launch_ends_also_by_an_error_nobody_thought_of(stand: Stand, error: BaseException) -> None:
    stand.error = error
    await stand.order()
    for _ in range(9):
        with pytest.raises(type(error)):
            await stand.step()
    # What it needs may be coming up again.
    assert stand.phase() is Phase.PREPARING
    stand.now_s += Patience().fault_s
    await stand.step()
    assert stand.phase() is Phase.FAILED
    record = stand.store.get(ID)
    assert record is not None
    assert record.reason_code == "Server.InternalError"


async def test_what_took_long_and_breaks_off_is_tried_again(stand: Stand) -> None:
    """As the fetching of a large image does."""
    await stand.order()
    stand.now_s += 2 * Patience().wait_s
    stand.error = Unavailable("it broke off")
    with pytest.raises(Unavailable):
        await stand.step()
    stand.error = None
    await stand.step()
    assert stand.phase() is Phase.RUNNING


async def test_what_once_ran_is_never_given_up(stand: Stand) -> None:
    await stand.order()
    await stand.step()
    stand.hypervisor.host_reboots()
    stand.error = CloudError("no memory just now")
    for _ in range(10):
        stand.now_s += LONGEST_CRASH_WAIT_S
        with pytest.raises(CloudError):
            await stand.step()
    assert stand.phase() is Phase.RUNNING
    stand.error = None
    stand.now_s += LONGEST_CRASH_WAIT_S
    await stand.step()
    assert await stand.hypervisor.power_of(ID) is Power.RUNNING


async def test_who_is_gone_is_remembered_for_a_while_only(stand: Stand) -> None:
    await stand.order()
    await stand.step()

    def gone(record: record_pb2.InstanceRecord | None) -> record_pb2.InstanceRecord | None:
        assert record is not None
        record.goal = Goal.GONE.value
        return record

    await stand.store.update(ID, gone)
    await stand.step()
    assert stand.store.get(ID) is None
    assert stand.store.gone_generation(ID) == 1
    stand.store.close()
    later = InstanceStore(stand.paths, now_s=lambda: stand.paths.gone.stat().st_mtime + KEPT_S + 60)
    later.open()
    assert later.gone_generation(ID) == 0
    assert stand.paths.gone.read_text() == ""
    later.close()

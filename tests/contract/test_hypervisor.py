"""What every Hypervisor promises. The fake one always; libvirt's with `-m root`, on a libvirtd of its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from common.errors import CloudError, NotFound, Unavailable, WrongState
from common.ids import InstanceId
from services.nc.drivers.base import AttachedDisk, Disk, Domain, FileSource, Hypervisor, Power
from services.nc.drivers.fake import FakeHypervisor
from services.nc.screen import jpeg
from tests import processes
from tests.contract.nbd_export import VOLUME, NbdExport
from tests.eventually import becomes

if TYPE_CHECKING:
    from tests.contract.libvirt_host import LibvirtHost

DEADLINE_S = 30
MIB = 1 << 20
FIRST, SECOND = InstanceId("i-0123456789abcdef0"), InstanceId("i-0123456789abcdef1")


@dataclass(frozen=True)
class Bench:
    """A hypervisor and what a test does to it from outside."""

    hypervisor: Hypervisor
    # Another one on the same engine, as after a restart of the agent.
    again: Callable[[], Hypervisor]
    domain: Callable[[InstanceId], Domain]
    crash: Callable[[InstanceId], None]
    export: NbdExport


@pytest.fixture(scope="module")
def host() -> Iterator[LibvirtHost]:
    pytest.importorskip("libvirt")
    if os.geteuid() != 0:
        pytest.skip("needs root")
    from tests.contract.libvirt_host import libvirt_host

    with libvirt_host() as started:
        yield started


@pytest.fixture(params=["fake", pytest.param("libvirt", marks=pytest.mark.root)])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    make = _fake if request.param == "fake" else _real
    made = make(request, tmp_path)
    await made.hypervisor.open()
    try:
        yield made
    finally:
        for instance_id in list(await made.hypervisor.observe()):
            await made.hypervisor.remove(instance_id)
        await made.hypervisor.close()


def _fake(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    hypervisor = FakeHypervisor(tmp_path / "engine")
    return Bench(
        hypervisor=hypervisor,
        again=lambda: FakeHypervisor(tmp_path / "engine"),
        domain=lambda instance_id: _domain(instance_id, tmp_path / "disk", f"tap{instance_id[-1]}", tmp_path),
        crash=hypervisor.guest_crashes,
        # Nobody looks whether it is there.
        export=NbdExport(tmp_path, MIB),
    )


def _real(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    from services.nc.drivers.domain_xml import domain_name
    from services.nc.drivers.libvirt import LibvirtHypervisor

    host: LibvirtHost = request.getfixturevalue("host")

    def make() -> LibvirtHypervisor:
        return LibvirtHypervisor(uri=host.uri, cloud_id="c0de", kind="qemu")

    def crash(instance_id: InstanceId) -> None:
        processes.kill(host.qemu_pid(domain_name("c0de", instance_id)))

    export = NbdExport(host.folder, MIB)
    export.start()
    request.addfinalizer(export.kill)
    return Bench(
        hypervisor=make(),
        again=make,
        domain=lambda instance_id: _real_domain(host, instance_id),
        crash=crash,
        export=export,
    )


def _real_domain(host: LibvirtHost, instance_id: InstanceId) -> Domain:
    disk, tap = host.folder / f"{instance_id}.qcow2", f"tap{instance_id[-1]}"
    if not disk.exists():
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "16M"], check=True)
        os.chown(disk, *_qemu_user())
        host.add_tap(tap)
    return _domain(instance_id, disk, tap, host.folder)


def _qemu_user() -> tuple[int, int]:
    import pwd

    user = pwd.getpwnam("libvirt-qemu")
    return user.pw_uid, user.pw_gid


def _domain(instance_id: InstanceId, disk: Path, tap: str, folder: Path) -> Domain:
    return Domain(
        instance_id=instance_id,
        vcpus=1,
        memory_bytes=64 << 20,
        disks=(Disk(slot=0, source=FileSource(path=disk, format="qcow2"), size_bytes=16 << 20, boots=True),),
        kernel=None,
        ramdisk=None,
        kernel_arguments="",
        mac=f"d0:0d:00:00:00:0{instance_id[-1]}",
        tap=tap,
        console_log=folder / f"{instance_id}.log",
    )


@contextlib.asynccontextmanager
async def told(hypervisor: Hypervisor, instance_id: InstanceId, power: Power | None) -> AsyncIterator[None]:
    """What is done inside leads to an event that tells this."""
    changes = hypervisor.changes()

    async def heard() -> None:
        async for change in changes:
            if (change.instance_id, change.power) == (instance_id, power):
                return

    yield
    async with asyncio.timeout(DEADLINE_S):
        await heard()


async def test_a_prepared_domain_waits_paused_and_runs_when_resumed(bench: Bench) -> None:
    hypervisor = bench.hypervisor
    async with told(hypervisor, FIRST, Power.PAUSED):
        await hypervisor.prepare(bench.domain(FIRST))
    assert await hypervisor.power_of(FIRST) is Power.PAUSED
    async with told(hypervisor, FIRST, Power.RUNNING):
        await hypervisor.resume(FIRST)
    assert await hypervisor.observe() == {FIRST: Power.RUNNING}


async def test_repeating_prepare_and_resume_leaves_a_running_domain_alone(bench: Bench) -> None:
    for _ in range(2):
        await bench.hypervisor.prepare(bench.domain(FIRST))
        await bench.hypervisor.resume(FIRST)
    assert await bench.hypervisor.power_of(FIRST) is Power.RUNNING


async def test_a_removed_domain_is_forgotten_and_removing_again_is_nothing(bench: Bench) -> None:
    hypervisor = bench.hypervisor
    await hypervisor.prepare(bench.domain(FIRST))
    await hypervisor.prepare(bench.domain(SECOND))
    async with told(hypervisor, FIRST, None):
        await hypervisor.remove(FIRST)
    await hypervisor.remove(FIRST)
    assert await hypervisor.power_of(FIRST) is None
    assert set(await hypervisor.observe()) == {SECOND}


async def test_another_agent_finds_the_domains_of_its_predecessor(bench: Bench) -> None:
    await bench.hypervisor.prepare(bench.domain(FIRST))
    await bench.hypervisor.resume(FIRST)
    successor = bench.again()
    await successor.open()
    try:
        assert await successor.observe() == {FIRST: Power.RUNNING}
    finally:
        await successor.close()


async def test_a_crash_is_told_and_the_domain_can_be_brought_up_again(bench: Bench) -> None:
    hypervisor = bench.hypervisor
    await hypervisor.prepare(bench.domain(FIRST))
    await hypervisor.resume(FIRST)
    async with told(hypervisor, FIRST, Power.CRASHED):
        bench.crash(FIRST)
    assert await hypervisor.power_of(FIRST) is Power.CRASHED
    await hypervisor.prepare(bench.domain(FIRST))
    assert await hypervisor.power_of(FIRST) is Power.PAUSED


async def test_powering_off_ends_by_the_host_and_keeps_the_domain(bench: Bench) -> None:
    hypervisor = bench.hypervisor
    await hypervisor.prepare(bench.domain(FIRST))
    await hypervisor.resume(FIRST)
    async with told(hypervisor, FIRST, Power.OFF_BY_HOST):
        # No guest inside to answer the power button.
        await hypervisor.power_off(FIRST, grace_s=0.1)
    await hypervisor.power_off(FIRST, grace_s=0.1)
    assert await hypervisor.power_of(FIRST) is Power.OFF_BY_HOST
    await hypervisor.power_off(SECOND, grace_s=0.1)


async def test_reboot_needs_a_running_domain(bench: Bench) -> None:
    hypervisor = bench.hypervisor
    with pytest.raises(NotFound):
        await hypervisor.reboot(FIRST, grace_s=0.1)
    await hypervisor.prepare(bench.domain(FIRST))
    with pytest.raises(WrongState):
        await hypervisor.reboot(FIRST, grace_s=0.1)
    await hypervisor.resume(FIRST)
    # Told again as running: by the guest, or by the reset that follows when it does not react.
    async with told(hypervisor, FIRST, Power.RUNNING):
        await hypervisor.reboot(FIRST, grace_s=0.1)


async def test_the_screen_of_a_running_domain_is_a_picture(bench: Bench) -> None:
    hypervisor = bench.hypervisor
    with pytest.raises(NotFound):
        await hypervisor.screenshot(FIRST, wake_up=False)
    await hypervisor.prepare(bench.domain(FIRST))
    with pytest.raises(WrongState):
        await hypervisor.screenshot(FIRST, wake_up=False)
    await hypervisor.resume(FIRST)
    for wake_up in (False, True):
        with Image.open(io.BytesIO(jpeg(await hypervisor.screenshot(FIRST, wake_up=wake_up)))) as picture:
            assert picture.format == "JPEG"
            assert picture.width >= 640


async def test_a_volume_is_attached_once_and_found_by_another_agent(bench: Bench) -> None:
    hypervisor = bench.hypervisor
    with pytest.raises(NotFound):
        await hypervisor.attach_disk(FIRST, bench.export.disk())
    await hypervisor.prepare(bench.domain(FIRST))
    await hypervisor.resume(FIRST)
    assert await hypervisor.disks_of(FIRST) == []
    for generation in (1, 2):
        await hypervisor.attach_disk(FIRST, bench.export.disk(generation=generation))
    attached = AttachedDisk(volume_id=VOLUME, slot=5, generation=1, size_bytes=MIB)
    assert await hypervisor.disks_of(FIRST) == [attached]
    assert [(use.instance_id, use.slot) for use in await hypervisor.disk_uses() if use.slot] == [(FIRST, 5)]
    taken = dataclasses.replace(bench.export.disk(), volume_id="vol-0123456789abcdef1")
    with pytest.raises(CloudError):
        await hypervisor.attach_disk(FIRST, taken)
    successor = bench.again()
    await successor.open()
    try:
        assert await successor.disks_of(FIRST) == [attached]
    finally:
        await successor.close()
    await hypervisor.power_off(FIRST, grace_s=0.1)
    assert await hypervisor.disks_of(FIRST) == []
    with pytest.raises(WrongState):
        await hypervisor.attach_disk(FIRST, bench.export.disk())


async def test_a_volume_is_refreshed_in_place_and_in_its_new_size(bench: Bench) -> None:
    hypervisor, export = bench.hypervisor, bench.export
    domain = bench.domain(FIRST)
    await hypervisor.prepare(dataclasses.replace(domain, disks=(*domain.disks, export.disk())))
    attached = AttachedDisk(volume_id=VOLUME, slot=5, generation=1, size_bytes=MIB)
    assert await hypervisor.disks_of(FIRST) == [attached]
    await hypervisor.resume(FIRST)
    if hypervisor.kind != "fake":
        export.kill()
        export.size_bytes = 2 * MIB
        export.start()
    export.size_bytes = 2 * MIB
    for generation in (1, 2, 2):
        await hypervisor.refresh_disk(FIRST, export.disk(generation=generation))
        grown = dataclasses.replace(attached, generation=generation, size_bytes=2 * MIB)
        assert await hypervisor.disks_of(FIRST) == [grown]
    with pytest.raises(WrongState):
        await hypervisor.refresh_disk(FIRST, dataclasses.replace(export.disk(), volume_id="vol-0123456789abcdef1"))


async def test_detaching_and_shutting_down_what_is_not_there_is_nothing(bench: Bench) -> None:
    hypervisor = bench.hypervisor
    await hypervisor.detach_disk(FIRST, VOLUME)
    await hypervisor.shut_down(FIRST)
    assert await hypervisor.disks_of(FIRST) == []
    await hypervisor.prepare(bench.domain(FIRST))
    await hypervisor.detach_disk(FIRST, VOLUME)
    assert await hypervisor.power_of(FIRST) is Power.PAUSED


async def test_many_domains_at_once(bench: Bench) -> None:
    hypervisor = bench.hypervisor

    async def run(instance_id: InstanceId) -> None:
        await hypervisor.prepare(bench.domain(instance_id))
        await hypervisor.resume(instance_id)

    async with asyncio.TaskGroup() as tasks:
        for digit in "234":
            tasks.create_task(run(InstanceId(f"i-0123456789abcdef{digit}")))
    assert set((await hypervisor.observe()).values()) == {Power.RUNNING}
    assert len(await hypervisor.observe()) == 3


@pytest.mark.root
async def test_libvirtd_may_die_and_every_domain_is_told_again(host: LibvirtHost, tmp_path: Path) -> None:
    from services.nc.drivers.domain_xml import domain_name
    from services.nc.drivers.libvirt import LibvirtHypervisor

    hypervisor = LibvirtHypervisor(uri=host.uri, cloud_id="c0de", kind="qemu")
    await hypervisor.open()
    try:
        for instance_id in (FIRST, SECOND):
            await hypervisor.prepare(_real_domain(host, instance_id))
            await hypervisor.resume(instance_id)
        pid = host.qemu_pid(domain_name("c0de", FIRST))
        async with told(hypervisor, FIRST, Power.RUNNING):
            host.kill_libvirtd()
            processes.kill(host.qemu_pid(domain_name("c0de", SECOND)))
            host.start_libvirtd()
        assert host.qemu_pid(domain_name("c0de", FIRST)) == pid
        # It died while nobody looked.

        async def is_found_dead() -> bool:
            """A libvirtd that has just started takes a moment to find out which of its domains are."""
            return await hypervisor.power_of(SECOND) in (Power.CRASHED, Power.OFF_UNKNOWN)

        await becomes(is_found_dead)
    finally:
        for instance_id in list(await hypervisor.observe()):
            await hypervisor.remove(instance_id)
        await hypervisor.close()


@pytest.mark.root
async def test_a_libvirtd_that_is_stopped_is_given_up_and_found_again(host: LibvirtHost) -> None:
    from services.nc.drivers.libvirt import LibvirtHypervisor

    hypervisor = LibvirtHypervisor(uri=host.uri, cloud_id="c0de", kind="qemu", keepalive_interval_s=1)
    await hypervisor.open()
    try:
        await hypervisor.prepare(_real_domain(host, FIRST))
        await hypervisor.resume(FIRST)
        processes.kill(host.libvirtd_pid(), signal.SIGSTOP)
        try:
            with pytest.raises(Unavailable):
                await hypervisor.power_of(FIRST)
        finally:
            changes = hypervisor.changes()
            processes.kill(host.libvirtd_pid(), signal.SIGCONT)
        async with asyncio.timeout(DEADLINE_S):
            while (await anext(changes)).instance_id != FIRST:
                pass

        async def runs() -> bool:
            # On a busy machine it may be given up once more.
            with contextlib.suppress(Unavailable):
                return await hypervisor.power_of(FIRST) is Power.RUNNING
            return False

        await becomes(runs, within_s=DEADLINE_S)
    finally:
        await hypervisor.remove(FIRST)
        await hypervisor.close()

"""Volumes of a real guest through the libvirt driver alone: attached, killed under it, moved, grown, asked back."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gzip
import os
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.cores import core_of
from common.disk_names import slot_of_letters
from common.ids import InstanceId
from images import cpio
from images.packages import BOOT_LOADER_PACKAGES, KERNEL, ROOT_PACKAGES, fetch, unpack
from images.trees import make_ramdisk_tree
from services.nc.drivers.base import AttachedDisk, Disk, Domain
from services.nc.drivers.domain_xml import domain_name
from services.nc.drivers.libvirt import LibvirtHypervisor
from services.nc.drivers.libvirt_disks import RECONNECT_S
from tests import processes
from tests.contract.libvirt_host import LibvirtHost, libvirt_host
from tests.contract.nbd_export import VOLUME, NbdExport
from tests.eventually import becomes, eventually

pytestmark = [pytest.mark.root, pytest.mark.e2e]

ROOT = Path(__file__).parents[2]
ID = InstanceId("i-0123456789abcdef0")
DEADLINE_S = 60
MIB = 1 << 20

# It tells each disk that comes, goes or changes, and writes numbers to each that has a serial, one sector after the
# other, telling those that are on disk.
INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read -r module; do insmod /lib/modules/$module.ko; done < /lib/modules/order
write() {
    n=0
    while [ -b /dev/$1 ] && [ $n -lt 1900 ]; do
        n=$((n + 1))
        printf '%511s\\n' $n | dd of=/dev/$1 bs=512 seek=$n conv=notrunc,fsync 2>/dev/null && echo "acked $n"
    done
}
echo guest-is-up
before=
while :; do
    now=$(cd /sys/block; for d in vd*; do
        [ ! -e $d/serial ] || echo "disk $(basename $(readlink -f $d/device/..)) $(cat $d/size) $(cat $d/serial)"
    done)
    if [ "$now" != "$before" ]; then
        echo "${now:-no disk}"
        before=$now
        case "$now" in *0b.0*) [ -n "$writes" ] || { writes=1; write $(cd /sys/block; echo vd* | tail -c 4) & } ;; esac
    fi
    usleep 50000
done
"""


@dataclass(frozen=True)
class Bench:
    host: LibvirtHost
    hypervisor: LibvirtHypervisor
    export: NbdExport
    stack: contextlib.ExitStack

    @property
    def console(self) -> str:
        file = self.host.folder / "console.log"
        return file.read_text() if file.exists() else ""

    @property
    def threads(self) -> dict[str, set[int]]:
        """Of the guest's QEMU for its volumes, by number, and where they may run."""
        return processes.named_threads(self.host.qemu_pid(domain_name("c0de", ID)), "IO iothread")

    @property
    def acked(self) -> int:
        return max(map(int, re.findall(r"acked (\d+)\r?\n", self.console)), default=0)

    async def boot(self, *disks: Disk) -> None:
        (self.host.folder / "console.log").unlink(missing_ok=True)
        domain = Domain(
            instance_id=ID,
            vcpus=1,
            memory_bytes=128 * MIB,
            disks=disks,
            kernel=self.host.folder / "vmlinuz",
            ramdisk=self.host.folder / "ramdisk",
            kernel_arguments="console=ttyS0 quiet",
            mac="d0:0d:00:00:00:01",
            tap="tap0",
            console_log=self.host.folder / "console.log",
        )
        await self.hypervisor.prepare(domain)
        await self.hypervisor.resume(ID)
        await self.until_told("guest-is-up")

    def add_thread(self, number: int) -> None:
        self.host.run("virsh", "-c", self.host.uri, "iothreadadd", domain_name("c0de", ID), str(number), "--live")

    async def until_told(self, words: str) -> None:
        await eventually(lambda: words in self.console, within_s=DEADLINE_S, every_s=0.05)

    async def until_acked(self, number: int) -> None:
        await eventually(lambda: self.acked >= number, within_s=DEADLINE_S, every_s=0.05)

    def check_acked(self) -> None:
        acked, content = self.acked, self.export.file.read_bytes()
        for number in range(1, acked + 1):
            assert content[number * 512 : (number + 1) * 512].split() == [str(number).encode()]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LibvirtHost]:
    unpacked, tree = tmp_path_factory.mktemp("unpacked"), tmp_path_factory.mktemp("ramdisk")
    wanted = (KERNEL, *ROOT_PACKAGES, *BOOT_LOADER_PACKAGES)
    unpack(fetch(ROOT / "build" / "guest-image" / "packages", wanted), unpacked)
    make_ramdisk_tree(unpacked, tree)
    (tree / "init").write_text(INIT)
    with libvirt_host() as started:
        (started.folder / "ramdisk").write_bytes(gzip.compress(cpio.pack(tree), 1))
        (started.folder / "vmlinuz").write_bytes(next((unpacked / "boot").glob("vmlinuz-*")).read_bytes())
        started.add_tap("tap0")
        yield started


@pytest.fixture
async def bench(host: LibvirtHost) -> AsyncIterator[Bench]:
    hypervisor = LibvirtHypervisor(uri=host.uri, cloud_id="c0de", kind="qemu")
    await hypervisor.open()
    export = NbdExport(host.folder, MIB)
    export.file.unlink(missing_ok=True)
    export.start()
    with contextlib.ExitStack() as stack:
        stack.callback(export.kill)
        try:
            yield Bench(host, hypervisor, export, stack)
        finally:
            await hypervisor.remove(ID)
            await hypervisor.close()


async def test_a_volume_comes_survives_its_daemon_moves_grows_and_goes(bench: Bench) -> None:
    hypervisor, export, stack = bench.hypervisor, bench.export, bench.stack
    await bench.boot()
    assert await hypervisor.disks_of(ID) == []

    await hypervisor.attach_disk(ID, export.disk())
    await bench.until_told(f"disk 0000:00:0b.0 2048 {VOLUME.replace('-', '')}")
    attached = AttachedDisk(volume_id=VOLUME, slot=5, generation=1, size_bytes=MIB)
    assert await hypervisor.disks_of(ID) == [attached]
    thread = {"6": {core_of(VOLUME, os.sched_getaffinity(0))}}
    assert bench.threads == thread

    await bench.until_acked(5)
    export.kill()
    bench.check_acked()
    before = bench.acked
    export.start()
    await bench.until_acked(before + 5)

    # Grown by its storage controller, at the same place.
    export.kill()
    before = bench.acked
    export.size_bytes = 2 * MIB
    export.start()
    await hypervisor.refresh_disk(ID, export.disk())
    await bench.until_told(f"disk 0000:00:0b.0 4096 {VOLUME.replace('-', '')}")
    assert await hypervisor.disks_of(ID) == [dataclasses.replace(attached, size_bytes=2 * MIB)]
    await bench.until_acked(before + 5)

    moved = NbdExport(export.folder, 2 * MIB, place=1)
    moved.start()
    stack.callback(moved.kill)
    await hypervisor.refresh_disk(ID, moved.disk(generation=2))
    export.kill()
    before = bench.acked
    await bench.until_acked(before + 5)
    assert await hypervisor.disks_of(ID) == [dataclasses.replace(attached, size_bytes=2 * MIB, generation=2)]
    assert bench.threads == thread

    bench.check_acked()
    changes = hypervisor.disk_changes()
    await hypervisor.detach_disk(ID, VOLUME)
    async with asyncio.timeout(DEADLINE_S):
        assert await anext(changes) == ID
    assert await hypervisor.disks_of(ID) == []
    assert bench.threads == {}
    await bench.until_told("no disk")


@pytest.mark.parametrize(("letters", "place"), [("aa", "0000:01:01.0"), ("dx", "0000:04:18.0")])
async def test_a_volume_with_a_name_of_two_letters_has_a_place_of_its_own(
    bench: Bench, letters: str, place: str
) -> None:
    hypervisor, slot = bench.hypervisor, slot_of_letters(letters)
    assert slot is not None
    await bench.boot()
    await hypervisor.attach_disk(ID, dataclasses.replace(bench.export.disk(), slot=slot))
    await bench.until_told(f"disk {place} 2048 {VOLUME.replace('-', '')}")
    (found,) = await hypervisor.disks_of(ID)
    (use,) = await hypervisor.disk_uses()
    assert (found.slot, use.slot) == (slot, slot)
    changes = hypervisor.disk_changes()
    await hypervisor.detach_disk(ID, VOLUME)
    async with asyncio.timeout(DEADLINE_S):
        assert await anext(changes) == ID
    await bench.until_told("no disk")


async def test_a_guest_does_not_wait_for_a_volume_that_is_taken_by_force(bench: Bench) -> None:
    hypervisor, export = bench.hypervisor, bench.export
    await bench.boot()
    # As an agent leaves it that is killed before it attaches the disk.
    bench.add_thread(6)
    await hypervisor.attach_disk(ID, export.disk())
    await bench.until_acked(5)
    # Something is under way from here on.
    export.hang()
    await hypervisor.detach_disk(ID, VOLUME, forced=True)
    export.kill()
    bench.check_acked()

    async def let_go() -> bool:
        return not await hypervisor.disks_of(ID)

    # Sooner than it would wait for its storage daemon; QEMU would answer nobody until then.
    async with asyncio.timeout(RECONNECT_S - 8):
        await becomes(let_go)
    await bench.until_told("no disk")


async def test_a_guest_has_its_volumes_from_its_first_moment_and_another_agent_finds_them(bench: Bench) -> None:
    hypervisor, export = bench.hypervisor, bench.export
    await bench.boot(export.disk(boots=True))
    await bench.until_acked(3)
    attached = AttachedDisk(volume_id=VOLUME, slot=5, generation=1, size_bytes=MIB)
    successor = LibvirtHypervisor(uri=bench.host.uri, cloud_id="c0de", kind="qemu")
    await successor.open()
    try:
        assert await successor.disks_of(ID) == [attached]
        await successor.attach_disk(ID, export.disk(generation=7))
        bench.add_thread(9)
        assert await successor.disks_of(ID) == [attached]
        assert bench.threads == {"6": {core_of(VOLUME, os.sched_getaffinity(0))}}
    finally:
        await successor.close()
    (use,) = await hypervisor.disk_uses()
    assert (use.instance_id, use.slot) == (ID, 5)
    assert use.writes >= 3
    assert use.written_bytes >= 3 * 512

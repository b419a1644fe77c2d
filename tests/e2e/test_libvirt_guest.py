"""A real guest through the libvirt driver alone: what it is told of itself, and every way it can end."""

from __future__ import annotations

import asyncio
import gzip
import pwd
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.ids import InstanceId
from images import cpio
from images.packages import BOOT_LOADER_PACKAGES, KERNEL, ROOT_PACKAGES, fetch, unpack
from images.trees import make_ramdisk_tree
from services.nc.drivers.base import Disk, Domain, FileSource, Power
from services.nc.drivers.domain_xml import domain_name, smbios_uuid
from services.nc.drivers.libvirt import LibvirtHypervisor
from services.nc.overlay import Overlay, QemuOverlays
from tests import processes
from tests.contract.libvirt_host import LibvirtHost, libvirt_host
from tests.eventually import eventually

pytestmark = [pytest.mark.root, pytest.mark.e2e]

ROOT = Path(__file__).parents[2]
ID = InstanceId("i-0123456789abcdef0")
DEADLINE_S = 60

# What it does is told on the kernel's command line: then=off, then=wait.
INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read -r module; do insmod /lib/modules/$module.ko; done < /lib/modules/order
mkdir -p /etc/acpi/PWRF
printf '#!/bin/sh\\npoweroff -f\\n' > /etc/acpi/PWRF/00000080; chmod 755 /etc/acpi/PWRF/00000080
acpid -l /dev/null
echo "uuid $(cat /sys/class/dmi/id/product_uuid) serial $(cat /sys/class/dmi/id/product_serial)"
echo "vendor $(cat /sys/class/dmi/id/sys_vendor)"
echo "disk $(cat /sys/block/vda/size) card $(cat /sys/class/net/eth0/address)"
echo "content $(dd if=/dev/vda bs=7 count=1 2>/dev/null)"
echo written | dd of=/dev/vda bs=512 seek=4 conv=notrunc 2>/dev/null; sync
echo guest-is-up
case "$(cat /proc/cmdline)" in *then=off*) poweroff -f ;; esac
while :; do sleep 1000; done
"""


@dataclass(frozen=True)
class Bench:
    host: LibvirtHost
    hypervisor: LibvirtHypervisor

    @property
    def console(self) -> Path:
        return self.host.folder / "console.log"

    async def boot(self, then: str) -> None:
        self.console.unlink(missing_ok=True)
        (self.host.folder / "disk.qcow2").unlink(missing_ok=True)
        user = pwd.getpwnam("libvirt-qemu")
        overlay = Overlay(
            path=self.host.folder / "disk.qcow2",
            backing=self.host.folder / "machine",
            backing_format="raw",
            size_bytes=64 << 20,
            owner=(user.pw_uid, user.pw_gid),
        )
        await QemuOverlays()(overlay)
        await self.hypervisor.prepare(self._domain(overlay, then))
        await self.hypervisor.resume(ID)

    async def until_up(self, times: int = 1) -> str:
        await eventually(lambda: self._console().count("guest-is-up") >= times, within_s=DEADLINE_S, every_s=0.05)
        return self._console()

    async def until(self, power: Power) -> None:
        changes = self.hypervisor.changes()
        async with asyncio.timeout(DEADLINE_S):
            while await self.hypervisor.power_of(ID) is not power:
                await anext(changes)

    def qemu_pid(self) -> int:
        return self.host.qemu_pid(domain_name("c0de", ID))

    def _console(self) -> str:
        return self.console.read_text() if self.console.exists() else ""

    def _domain(self, overlay: Overlay, then: str) -> Domain:
        root = FileSource(
            path=overlay.path, format="qcow2", backing=overlay.backing, backing_format=overlay.backing_format
        )
        return Domain(
            instance_id=ID,
            vcpus=1,
            memory_bytes=128 << 20,
            disks=(Disk(slot=0, source=root, size_bytes=overlay.size_bytes, boots=True),),
            kernel=self.host.folder / "vmlinuz",
            ramdisk=self.host.folder / "ramdisk",
            kernel_arguments=f"console=ttyS0 quiet then={then}",
            mac="d0:0d:00:00:00:01",
            tap="tap0",
            console_log=self.console,
        )


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
        (started.folder / "machine").write_bytes(b"machine".ljust(1 << 20, b"\0"))
        started.add_tap("tap0")
        yield started


@pytest.fixture
async def bench(host: LibvirtHost) -> AsyncIterator[Bench]:
    hypervisor = LibvirtHypervisor(uri=host.uri, cloud_id="c0de", kind="qemu")
    await hypervisor.open()
    try:
        yield Bench(host, hypervisor)
    finally:
        await hypervisor.remove(ID)
        await hypervisor.close()


async def test_a_guest_knows_itself_writes_its_own_disk_and_powers_off(bench: Bench) -> None:
    await bench.boot(then="off")
    console = await bench.until_up()
    uuid = smbios_uuid(ID)
    assert f"uuid {uuid} serial {uuid}" in console
    assert "vendor Amazon EC2" in console
    assert "disk 131072 card d0:0d:00:00:00:01" in console
    assert "content machine" in console
    await bench.until(Power.OFF_BY_GUEST)
    assert b"written" not in (bench.host.folder / "machine").read_bytes()


async def test_the_power_button_reaches_the_guest(bench: Bench) -> None:
    await bench.boot(then="wait")
    await bench.until_up()
    await bench.hypervisor.power_off(ID, grace_s=DEADLINE_S)
    # The guest did it; that it was asked to is in the node's own record.
    assert await bench.hypervisor.power_of(ID) is Power.OFF_BY_GUEST


async def test_a_reboot_goes_through_the_guest_and_keeps_the_domain(bench: Bench) -> None:
    await bench.boot(then="wait")
    await bench.until_up()
    pid = bench.qemu_pid()
    await bench.hypervisor.reboot(ID, grace_s=DEADLINE_S)
    await bench.until_up(times=2)
    assert bench.qemu_pid() == pid
    assert await bench.hypervisor.power_of(ID) is Power.RUNNING


async def test_qemu_ended_from_outside_is_nobodys_wish(bench: Bench) -> None:
    await bench.boot(then="wait")
    await bench.until_up()
    processes.kill(bench.qemu_pid(), signal.SIGTERM)
    await bench.until(Power.OFF_UNKNOWN)


async def test_qemu_runs_without_privileges(bench: Bench) -> None:
    await bench.boot(then="wait")
    facts = _status(bench.qemu_pid())
    assert set(facts["Uid"].split()) == {str(pwd.getpwnam("libvirt-qemu").pw_uid)}
    assert int(facts["CapEff"], 16) == 0
    assert facts["Seccomp"] == "2"


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)

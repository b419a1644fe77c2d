"""How a domain is told to libvirt: its name, its identity towards the guest and its XML. Pure.

Nothing is left to guess: formats, the backing chain and the bus of each device are written out.
https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

from common.ids import InstanceId
from services.nc.drivers.base import Domain, ExportSource
from services.nc.drivers.disk_xml import add_bridges, add_disk, thread_of_slot
from services.nc.drivers.element import Element, add_pci_slot

VENDOR: Final = "Amazon EC2"
# Translated code per TCG guest. QEMU's own default, an eighth of the host, outweighs a small guest.
TCG_CODE_MIB: Final = 128
SCREEN_KIB: Final = 4096
# Below those of the disks; the chipset has 0 and 1, the screen 2, a bridge of the disks 5.
_INTERFACE_SLOT: Final = 3
_RNG_SLOT: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What holds for every domain of a node."""

    cloud_id: str
    # kvm or qemu (TCG).
    kind: str
    # Who QEMU runs as. The node gives it its files; libvirt relabels nothing.
    uid: int
    gid: int


def domain_name(cloud_id: str, instance_id: InstanceId) -> str:
    """`m<cloud id>-<instance id>`: two clouds may share an engine."""
    return f"m{cloud_id}-{instance_id}"


def instance_of(cloud_id: str, name: str) -> InstanceId | None:
    """The instance behind a domain's name, None if it is not of this cloud."""
    found = re.fullmatch(rf"m{re.escape(cloud_id)}-(i-[0-9a-f]{{17}})", name)
    return InstanceId(found.group(1)) if found else None


def smbios_uuid(instance_id: InstanceId) -> str:
    """Starts with `ec2`, by which guests know that they are on EC2.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/identify_ec2_instances.html
    """
    h = hashlib.sha256(instance_id.encode()).hexdigest()
    return f"ec2{h[:5]}-{h[5:9]}-4{h[9:12]}-a{h[12:15]}-{h[15:27]}"


def domain_xml(domain: Domain, engine: Engine) -> str:
    root = Element("domain", type=engine.kind)
    root.add("name", domain_name(engine.cloud_id, domain.instance_id))
    root.add("uuid", smbios_uuid(domain.instance_id))
    root.add("memory", str(domain.memory_bytes // 1024), unit="KiB")
    _vcpus(root, domain, engine)
    _threads(root, domain)
    _boot(root, domain)
    _identity(root, domain)
    _machine(root, engine)
    devices = root.add("devices")
    add_bridges(devices)
    for disk in domain.disks:
        add_disk(devices, disk)
    _interface(devices, domain)
    _console(devices, domain)
    devices.add("controller", type="usb", model="none")
    devices.add("memballoon", model="none")
    # A screen that nobody watches, for GetConsoleScreenshot alone; the memory of a text mode and small graphics modes.
    devices.add("video").add("model", type="vga", vram=str(SCREEN_KIB), heads="1", primary="yes")
    rng = devices.add("rng", model="virtio")
    rng.add("backend", "/dev/urandom", model="random")
    add_pci_slot(rng, _RNG_SLOT)
    label = root.add("seclabel", type="static", model="dac", relabel="no")
    label.add("label", f"+{engine.uid}:+{engine.gid}")
    return ElementTree.tostring(root.element, encoding="unicode")


def _vcpus(root: Element, domain: Domain, engine: Engine) -> None:
    """TCG leaves the locks of instructions out where a guest can never have a second processor, and with them the
    barrier between a guest's ring and the threads that serve it: a virtio device then misses a call and hangs for good.
    """
    present = str(domain.vcpus)
    if engine.kind == "qemu" and domain.vcpus == 1:
        root.add("vcpu", "2", current=present)
    else:
        root.add("vcpu", present)


def _threads(root: Element, domain: Domain) -> None:
    """One for each volume. Where they run is decided when they do."""
    numbers = [str(thread_of_slot(disk.slot)) for disk in domain.disks if isinstance(disk.source, ExportSource)]
    if numbers:
        root.add("iothreads", str(len(numbers)))
        ids = root.add("iothreadids")
        for number in numbers:
            ids.add("iothread", id=number)


def _boot(root: Element, domain: Domain) -> None:
    os = root.add("os")
    os.add("type", "hvm", arch="x86_64", machine="pc")
    if domain.kernel is not None:
        os.add("kernel", str(domain.kernel))
        if domain.ramdisk is not None:
            os.add("initrd", str(domain.ramdisk))
        os.add("cmdline", domain.kernel_arguments)
    os.add("bios", rebootTimeout="0")
    os.add("smbios", mode="sysinfo")


def _identity(root: Element, domain: Domain) -> None:
    """cloud-init takes a guest for AWS only if the serial equals the UUID."""
    uuid = smbios_uuid(domain.instance_id)
    sysinfo = root.add("sysinfo", type="smbios")
    bios = sysinfo.add("bios")
    bios.add("entry", VENDOR, name="vendor")
    system = sysinfo.add("system")
    for name, text in (("manufacturer", VENDOR), ("product", "Mallee"), ("serial", uuid), ("uuid", uuid)):
        system.add("entry", text, name=name)
    chassis = sysinfo.add("chassis")
    chassis.add("entry", VENDOR, name="asset")


def _machine(root: Element, engine: Engine) -> None:
    features = root.add("features")
    features.add("acpi")
    features.add("apic")
    if engine.kind == "kvm":
        root.add("cpu", mode="host-passthrough", migratable="on")
    else:
        features.add("tcg").add("tb-cache", str(TCG_CODE_MIB), unit="MiB")
        root.add("cpu", mode="maximum")
    clock = root.add("clock", offset="utc")
    clock.add("timer", name="rtc", tickpolicy="catchup")
    clock.add("timer", name="hpet", present="no")
    # A guest that sleeps can only be woken from outside, which EC2 has no call for.
    pm = root.add("pm")
    pm.add("suspend-to-mem", enabled="no")
    pm.add("suspend-to-disk", enabled="no")
    root.add("on_poweroff", "destroy")
    root.add("on_reboot", "restart")
    # Left as it fell, so that the node sees a crash and starts it again by its own rules.
    root.add("on_crash", "destroy")


def _interface(devices: Element, domain: Domain) -> None:
    interface = devices.add("interface", type="ethernet")
    interface.add("mac", address=domain.mac)
    interface.add("target", dev=domain.tap, managed="no")
    interface.add("model", type="virtio")
    # No network boot: nothing in a VPC answers it, and waiting for it costs seconds.
    interface.add("rom", enabled="no")
    add_pci_slot(interface, _INTERFACE_SLOT)


def _console(devices: Element, domain: Domain) -> None:
    """To a file that virtlogd holds within bounds (max_size, max_backups)."""
    serial = devices.add("serial", type="file")
    serial.add("source", path=str(domain.console_log), append="on")
    serial.add("target", type="isa-serial", port="0")

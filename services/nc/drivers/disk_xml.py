"""How a disk is told to libvirt, and what libvirt says of those that a domain has. Pure.

https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

from common.disk_names import ROW, SLOTS, letters_of, row_of, slot_of_letters
from services.nc.drivers.base import Disk, ExportSource, FileSource
from services.nc.drivers.element import Element, add_pci_slot

# Guests tell names by PCI slots (images/). The letter a is here, z has the last slot of the bus.
FIRST_PCI_SLOT: Final = 6
# Names of two letters have a bus for each first one, behind bridges that every guest has from the start: a bridge
# cannot be plugged in. The second letter a is here on each. The first bus has one slot left, for the bridge of a's row;
# those of the other rows stand behind the disks of that one.
_BRIDGE_PCI_SLOT: Final = 5
_FIRST_BEHIND_BRIDGE: Final = 1
_FURTHER_BRIDGES: Final = _FIRST_BEHIND_BRIDGE + ROW
_ALIAS: Final = re.compile(r"ua-(vol-[0-9a-f]+)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinedDisk:
    """A volume as a domain's XML has it."""

    volume_id: str
    slot: int
    alias: str
    # That serves it in the guest's QEMU. None: the one that serves all that has none of its own.
    thread: int | None = None


def serial_of(volume_id: str) -> str:
    """As the guest reads it: the 20 bytes that a virtio disk may have."""
    return volume_id.replace("-", "")


def volume_of(node: str) -> str:
    """Whose block node it is, by its name: the serial and more."""
    return f"vol-{node.split('.')[0].removeprefix('vol')}"


def alias_of(volume_id: str) -> str:
    """libvirt keeps it as long as the disk is attached, so it tells a later node controller what it has found."""
    return f"ua-{volume_id}"


def thread_of_slot(slot: int) -> int:
    """A volume has a thread of its own in its guest's QEMU; libvirt counts from 1 on."""
    return slot + 1


def disk_xml(disk: Disk) -> str:
    root = Element("devices")
    add_disk(root, disk)
    return ElementTree.tostring(root.element[0], encoding="unicode")


def add_disk(devices: Element, disk: Disk) -> None:
    match disk.source:
        case FileSource():
            told = _file(devices, disk.source)
        case ExportSource():
            told = _export(devices, disk.source, thread=thread_of_slot(disk.slot))
    told.add("target", dev=f"vd{letters_of(disk.slot)}", bus="virtio")
    if disk.boots:
        told.add("boot", order="1")
    if disk.volume_id:
        told.add("serial", serial_of(disk.volume_id))
        told.add("alias", name=alias_of(disk.volume_id))
    bus, slot = _place_of(disk.slot)
    add_pci_slot(told, slot, bus=bus)


def add_bridges(devices: Element) -> None:
    """https://libvirt.org/formatdomain.html#controllers"""
    for number in range(1, 5):
        bridge = devices.add("controller", type="pci", index=str(number), model="pci-bridge")
        if number == 1:
            add_pci_slot(bridge, _BRIDGE_PCI_SLOT)
        else:
            add_pci_slot(bridge, _FURTHER_BRIDGES + number - 2, bus=1)


def _place_of(slot: int) -> tuple[int, int]:
    """Bus and slot."""
    row, place = row_of(slot)
    return (0, FIRST_PCI_SLOT + place) if row is None else (row + 1, _FIRST_BEHIND_BRIDGE + place)


_SLOT_AT: Final = {_place_of(slot): slot for slot in range(SLOTS)}


def volumes_in(domain_xml: str) -> list[DefinedDisk]:
    found = []
    for disk in ElementTree.fromstring(domain_xml).iterfind("devices/disk"):
        alias, address = disk.find("alias"), disk.find("address")
        named = _ALIAS.match(alias.get("name", "")) if alias is not None else None
        if alias is not None and named is not None and address is not None:
            slot = _SLOT_AT[int(address.get("bus", "0"), 0), int(address.get("slot", "0"), 0)]
            thread = _thread_of(disk)
            found.append(DefinedDisk(volume_id=named[1], slot=slot, alias=alias.get("name", ""), thread=thread))
    return found


def threads_in(domain_xml: str) -> set[int]:
    """Those that disks may have for themselves."""
    return _threads(ElementTree.fromstring(domain_xml))


def idle_threads_in(domain_xml: str) -> set[int]:
    """Of disks that are gone."""
    root = ElementTree.fromstring(domain_xml)
    return _threads(root) - {_thread_of(disk) for disk in root.iterfind("devices/disk")}


def _threads(root: ElementTree.Element) -> set[int]:
    return {int(found.get("id", "0")) for found in root.iterfind("iothreadids/iothread")}


def _thread_of(disk: ElementTree.Element) -> int | None:
    driver = disk.find("driver")
    number = driver.get("iothread") if driver is not None else None
    return int(number) if number else None


def slot_of_target(target: str) -> int | None:
    """vdc: 2. None: not one of ours."""
    return slot_of_letters(target.removeprefix("vd")) if target.startswith("vd") else None


def _file(devices: Element, source: FileSource) -> Element:
    disk = devices.add("disk", type="file", device="disk")
    # The host's page cache, flushed when the guest flushes. A full host stops the guest instead of failing its writes.
    disk.add("driver", name="qemu", type=source.format, cache="writeback", discard="unmap", error_policy="enospace")
    disk.add("source", file=str(source.path))
    if source.backing is None:
        disk.add("backingStore")
    else:
        backing = disk.add("backingStore", type="file")
        backing.add("format", type=source.backing_format)
        backing.add("source", file=str(source.backing))
        backing.add("backingStore")
    return disk


def _export(devices: Element, export: ExportSource, *, thread: int) -> Element:
    disk = devices.add("disk", type="network", device="disk")
    # Its cache is the storage controller's to decide. Errors are the guest's: were it stopped instead, it could never
    # let go of a volume that is away for good.
    behaviour = {"cache": "none", "discard": "unmap", "error_policy": "report"}
    disk.add("driver", name="qemu", type="raw", iothread=str(thread), **behaviour)
    if export.socket is not None:
        source = disk.add("source", protocol="nbd", name=export.name)
        source.add("host", transport="unix", socket=str(export.socket))
    else:
        server = {"tlsHostname": export.server_name} if export.server_name else {}
        source = disk.add("source", protocol="nbd", name=export.name, tls="yes", **server)
        source.add("host", name=export.address, port=str(export.port))
    return disk

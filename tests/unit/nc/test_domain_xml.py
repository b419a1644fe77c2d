from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from common.disk_names import SLOTS
from common.ids import InstanceId
from services.nc.drivers.base import Disk, Domain, ExportSource, FileSource
from services.nc.drivers.disk_xml import idle_threads_in, slot_of_target, threads_in, volumes_in
from services.nc.drivers.domain_xml import Engine, domain_name, domain_xml, instance_of, smbios_uuid

ID = InstanceId("i-0123456789abcdef0")
ENGINE = Engine(cloud_id="c0de", kind="qemu", uid=64055, gid=109)
OVERLAY = FileSource(path=Path("/n/disk.qcow2"), format="qcow2", backing=Path("/n/cache/abc"), backing_format="raw")
DOMAIN = Domain(
    instance_id=ID,
    vcpus=2,
    memory_bytes=256 << 20,
    disks=(Disk(slot=0, source=OVERLAY, size_bytes=1 << 30, boots=True),),
    kernel=Path("/n/cache/k"),
    ramdisk=Path("/n/cache/r"),
    kernel_arguments='root=/dev/vda quote="<&>"',
    mac="d0:0d:00:00:00:01",
    tap="tap1",
    console_log=Path("/n/console.log"),
)


def tree(domain: Domain = DOMAIN, engine: Engine = ENGINE) -> ElementTree.Element:
    return ElementTree.fromstring(domain_xml(domain, engine))


def test_the_guest_is_told_that_it_is_on_ec2() -> None:
    root = tree()
    uuid = root.findtext("uuid")
    assert uuid == smbios_uuid(ID)
    assert re.fullmatch(r"ec2[0-9a-f]{5}-[0-9a-f]{4}-4[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}", uuid)
    entries = {entry.get("name"): entry.text for entry in root.findall("sysinfo/system/entry")}
    assert entries["serial"] == entries["uuid"] == uuid
    assert smbios_uuid(InstanceId("i-0123456789abcdef1")) != uuid


def test_no_format_is_left_to_guess() -> None:
    disk = tree().find("devices/disk")
    assert disk is not None
    driver, chain = disk.find("driver"), disk.find("backingStore")
    assert driver is not None
    assert chain is not None
    assert driver.get("type") == "qcow2"
    assert [child.tag for child in chain] == ["format", "source", "backingStore"]
    assert chain[0].get("type") == "raw"
    # Written out as empty: nothing below the image is looked for.
    assert list(chain[2]) == []


def test_a_disk_that_stands_alone_says_so() -> None:
    alone = Disk(slot=0, source=FileSource(path=Path("/n/a"), format="raw"), size_bytes=1 << 30)
    chain = tree(dataclasses.replace(DOMAIN, disks=(alone,))).find("devices/disk/backingStore")
    assert chain is not None
    assert list(chain) == []


def test_a_disk_is_found_at_the_place_that_it_was_given() -> None:
    disks = [Disk(slot=slot, source=OVERLAY, size_bytes=1, volume_id=f"vol-{slot:017x}") for slot in range(1, SLOTS)]
    xml = domain_xml(dataclasses.replace(DOMAIN, disks=(*DOMAIN.disks, *disks)), ENGINE)
    assert [disk.slot for disk in volumes_in(xml)] == list(range(1, SLOTS))
    targets = [target.get("dev", "") for target in ElementTree.fromstring(xml).iterfind("devices/disk/target")]
    assert [slot_of_target(target) for target in targets] == list(range(SLOTS))
    places = [tuple(sorted(found.attrib.items())) for found in ElementTree.fromstring(xml).iterfind("devices//address")]
    assert len(set(places)) == len(places)


def test_each_volume_has_a_thread_of_its_own() -> None:
    volumes = [f"vol-0123456789abcdef{number}" for number in (0, 1)]
    disks = [
        Disk(slot=slot, source=ExportSource(name="e", socket=Path("/s")), size_bytes=1 << 30, volume_id=volume_id)
        for slot, volume_id in zip((5, 25), volumes, strict=True)
    ]
    xml = domain_xml(dataclasses.replace(DOMAIN, disks=(*DOMAIN.disks, *disks)), ENGINE)
    assert [(disk.volume_id, disk.thread) for disk in volumes_in(xml)] == list(zip(volumes, (6, 26), strict=True))
    assert threads_in(xml) == {6, 26}
    assert idle_threads_in(xml) == set()
    assert idle_threads_in(xml.replace('iothread="26"', "")) == {26}
    # A node's own file is served by the thread that serves all the rest.
    assert threads_in(domain_xml(DOMAIN, ENGINE)) == set()


def test_it_boots_the_kernel_if_there_is_one_and_its_own_loader_if_not() -> None:
    assert tree().findtext("os/cmdline") == DOMAIN.kernel_arguments
    alone = tree(dataclasses.replace(DOMAIN, kernel=None, ramdisk=None))
    assert alone.find("os/kernel") is None
    assert alone.find("os/initrd") is None


def test_there_is_nothing_in_it_that_a_server_has_no_use_for() -> None:
    root = tree()
    assert root.find("devices/graphics") is None
    controllers = [(c.get("type"), c.get("model")) for c in root.findall("devices/controller")]
    assert controllers == [*[("pci", "pci-bridge")] * 4, ("usb", "none")]


@pytest.mark.parametrize(("kind", "mode"), [("kvm", "host-passthrough"), ("qemu", "maximum")])
def test_the_engine_decides_the_cpu(kind: str, mode: str) -> None:
    root = tree(engine=dataclasses.replace(ENGINE, kind=kind))
    cpu = root.find("cpu")
    assert root.get("type") == kind
    assert cpu is not None
    assert cpu.get("mode") == mode


@pytest.mark.parametrize(
    ("kind", "vcpus", "most", "current"), [("kvm", 1, "1", None), ("qemu", 2, "2", None), ("qemu", 1, "2", "1")]
)
def test_tcg_is_never_told_that_there_can_be_one_processor_alone(
    kind: str, vcpus: int, most: str, current: str | None
) -> None:
    root = tree(dataclasses.replace(DOMAIN, vcpus=vcpus), dataclasses.replace(ENGINE, kind=kind))
    told = root.find("vcpu")
    assert told is not None
    assert (told.text, told.get("current")) == (most, current)


def test_names_tell_clouds_apart() -> None:
    assert instance_of("c0de", domain_name("c0de", ID)) == ID
    assert instance_of("c0de", domain_name("beef", ID)) is None
    assert instance_of("c0de", "debian12") is None

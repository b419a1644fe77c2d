"""Volumes of libvirt's domains: attached, asked back, and moved to another source while the guest goes on.

What a domain has stands in its XML, by alias; where a disk reads from after it was moved only QEMU knows, by the names
of its block nodes. https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import libvirt
import libvirt_qemu

from common.errors import CloudError, WrongState
from common.ids import InstanceId
from services.nc.drivers.base import AttachedDisk, Disk, DiskUse, ExportSource, PowerChange
from services.nc.drivers.disk_xml import (
    DefinedDisk,
    alias_of,
    disk_xml,
    serial_of,
    slot_of_target,
    volume_of,
    volumes_in,
)
from services.nc.drivers.feed import PowerFeed, instances_of
from services.nc.drivers.libvirt_threads import drop_idle_threads, ensure_thread, settle_thread

# What QEMU says when a guest has been asked before and has not answered yet.
_ASKED_ALREADY: Final = "in the process of unplug"

# How long a write waits for a storage daemon that went away before its guest sees it fail. A daemon is back in seconds,
# and so long, at most, a guest hangs whose volume is cut off while it writes and nobody told its node before.
RECONNECT_S: Final = 30
# Of a disk that its guest has let go of already: it is nowhere.
_GOING_SLOT: Final = -1

T = TypeVar("T")
Ask = Callable[[libvirt.virConnect], T]


class LibvirtDisks:
    """The disks' half of Hypervisor. `find` and `call` are the other half's."""

    def __init__(
        self,
        find: Callable[[libvirt.virConnect, InstanceId], libvirt.virDomain | None],
        get: Callable[[libvirt.virConnect, InstanceId], libvirt.virDomain],
        call: Callable[[InstanceId | None, Ask[Any]], Awaitable[Any]],
        instance_of: Callable[[str], InstanceId | None],
    ) -> None:
        self._find = find
        self._get = get
        self._call = call
        self._instance_of = instance_of
        self._feed = PowerFeed()

    async def attach(self, instance_id: InstanceId, disk: Disk) -> None:
        xml = disk_xml(disk)

        def ask(connection: libvirt.virConnect) -> None:
            domain = self._get(connection, instance_id)
            if not domain.isActive():
                raise WrongState(f"{instance_id} does not run")
            if _defined(domain, disk.volume_id) is None:
                ensure_thread(domain, disk.slot)
                domain.attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)
                bring_up_to_date(domain, [disk])

        await self._call(instance_id, ask)

    async def detach(self, instance_id: InstanceId, volume_id: str, *, forced: bool) -> None:
        def ask(connection: libvirt.virConnect) -> None:
            domain = self._find(connection, instance_id)
            if domain is None or not domain.isActive():
                return
            found = _defined(domain, volume_id)
            if found is None:
                return
            if forced:
                _give_up(_Monitor(domain), volume_id)
            try:
                domain.detachDeviceAlias(found.alias, libvirt.VIR_DOMAIN_AFFECT_LIVE)
            except libvirt.libvirtError as error:
                gone = error.get_error_code() == libvirt.VIR_ERR_DEVICE_MISSING
                if not gone and _ASKED_ALREADY not in str(error):
                    raise

        await self._call(instance_id, ask)

    async def refresh(self, instance_id: InstanceId, disk: Disk) -> None:
        def ask(connection: libvirt.virConnect) -> None:
            domain = self._get(connection, instance_id)
            found = _defined(domain, disk.volume_id) if domain.isActive() else None
            if found is None:
                raise WrongState(f"{instance_id} has no {disk.volume_id}")
            _settle(domain, _Monitor(domain), found, disk)

        await self._call(instance_id, ask)

    async def of(self, instance_id: InstanceId) -> Sequence[AttachedDisk]:
        def look(connection: libvirt.virConnect) -> list[AttachedDisk]:
            domain = self._find(connection, instance_id)
            if domain is None or not domain.isActive():
                return []
            xml = domain.XMLDesc()
            attached = _attached(_Monitor(domain), volumes_in(xml))
            if all(disk.slot != _GOING_SLOT for disk in attached):
                drop_idle_threads(domain, xml)
            return attached

        found: list[AttachedDisk] = await self._call(instance_id, look)
        return found

    async def uses(self) -> Sequence[DiskUse]:
        def look(connection: libvirt.virConnect) -> list[DiskUse]:
            told = connection.getAllDomainStats(
                libvirt.VIR_DOMAIN_STATS_BLOCK,
                libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT,
            )
            return [
                use
                for domain, stats in told
                if (instance_id := self._instance_of(domain.name())) is not None
                for use in _uses(instance_id, stats)
            ]

        found: list[DiskUse] = await self._call(None, look)
        return found

    def changes(self) -> AsyncIterator[InstanceId]:
        return instances_of(self._feed.subscribe())

    def told_removed(self, instance_id: InstanceId) -> None:
        """On the event loop: the guest of this one has let go of a device."""
        self._feed.publish(PowerChange(instance_id=instance_id, power=None))


class _Monitor:
    """QEMU's own, through libvirt."""

    def __init__(self, domain: libvirt.virDomain) -> None:
        self._domain = domain

    def __call__(self, command: str, **arguments: Any) -> Any:
        order = json.dumps({"execute": command, "arguments": arguments})
        answer = json.loads(libvirt_qemu.qemuMonitorCommand(self._domain, order, 0))
        if "error" in answer:
            raise CloudError(f"QEMU: {command}: {answer['error']['desc']}")
        return answer["return"]


def _defined(domain: libvirt.virDomain, volume_id: str) -> DefinedDisk | None:
    return next((disk for disk in volumes_in(domain.XMLDesc()) if disk.volume_id == volume_id), None)


def bring_up_to_date(domain: libvirt.virDomain, disks: Sequence[Disk]) -> None:
    """Of a domain that has just come up, paused: its volumes' sources are made to wait for a storage daemon."""
    monitor = _Monitor(domain)
    for defined in volumes_in(domain.XMLDesc()):
        for disk in disks:
            if disk.volume_id == defined.volume_id:
                _settle(domain, monitor, defined, disk)


def _settle(domain: libvirt.virDomain, monitor: _Monitor, defined: DefinedDisk, disk: Disk) -> None:
    _move(monitor, defined, disk)
    settle_thread(domain, defined, disk)


def _attached(monitor: _Monitor, defined: Sequence[DefinedDisk]) -> list[AttachedDisk]:
    """Also one that its guest has let go of, as long as QEMU has it open: it would hang on one that was revoked."""
    slots = {disk.volume_id: disk.slot for disk in defined}
    for layer, source in _Graph(monitor).sources.items():
        if _is_ours(source) and volume_of(source) not in slots:
            # libvirt asks once, and QEMU tells of a device before it has let go of its disk.
            with contextlib.suppress(CloudError):
                monitor("blockdev-del", **{"node-name": layer})
    for name in _Graph(monitor).unused:
        monitor("blockdev-del", **{"node-name": name})
    blocks, graph = _blocks(monitor), _Graph(monitor)
    found = dict.fromkeys(map(volume_of, graph.used), _GOING_SLOT) | slots
    return [_look_at(volume_id, slot, blocks, graph) for volume_id, slot in found.items()]


def _look_at(volume_id: str, slot: int, blocks: Mapping[str, Any], graph: _Graph) -> AttachedDisk:
    block = blocks.get(alias_of(volume_id))
    if block is None:
        return AttachedDisk(volume_id=volume_id, slot=_GOING_SLOT, generation=0, size_bytes=0)
    source = graph.sources.get(block["node-name"], "")
    # One that is not ours would not wait for a storage daemon.
    generation = int(source.split(".")[1]) if source in graph.ours else 0
    return AttachedDisk(
        volume_id=volume_id, slot=slot, generation=generation, size_bytes=block["image"]["virtual-size"]
    )


def _blocks(monitor: _Monitor) -> dict[str, Any]:
    """What each device reads from, by alias: its format node."""
    return {
        entry["qdev"].split("/")[3]: entry["inserted"]
        for entry in monitor("query-block")
        if entry.get("qdev", "").startswith("/machine/peripheral/") and "inserted" in entry
    }


class _Graph:
    """Which node reads from which. Ours are `vol<17 digits>.<generation of the grant>.<number>`."""

    def __init__(self, monitor: _Monitor) -> None:
        graph = monitor("x-debug-query-block-graph")
        names = {node["id"]: node["name"] for node in graph["nodes"]}
        self.sources = {
            names[edge["parent"]]: names[edge["child"]] for edge in graph["edges"] if edge["name"] == "file"
        }
        self.used = [name for name in self.sources.values() if _is_ours(name)]
        self.ours = [name for name in names.values() if _is_ours(name)]

    @property
    def unused(self) -> list[str]:
        """Of a move that was cut short, or of a disk that is gone."""
        return [name for name in self.ours if name not in self.used]


def _is_ours(node: str) -> bool:
    return node.startswith("vol") and node.count(".") == 2


def _move(monitor: _Monitor, found: DefinedDisk, disk: Disk) -> None:
    """To a node of our own: libvirt 9 knows of no reconnect-delay, and none knows of another place."""
    assert isinstance(disk.source, ExportSource)
    block, graph, serial = _blocks(monitor)[found.alias], _Graph(monitor), serial_of(disk.volume_id)
    layer = block["node-name"]
    used = graph.sources.get(layer, "")
    numbers = [int(name.rpartition(".")[2]) for name in graph.ours if name.startswith(f"{serial}.")]
    fresh = f"{serial}.{disk.generation}.{1 + max(numbers, default=0)}"
    behaviour = {"cache": {"direct": True, "no-flush": False}, "discard": "unmap", "read-only": False}
    monitor("blockdev-add", **{"node-name": fresh}, **behaviour, **_node(monitor, disk.source))
    try:
        monitor("blockdev-reopen", options=[{"driver": "raw", "node-name": layer, "file": fresh, **behaviour}])
    except CloudError:
        monitor("blockdev-del", **{"node-name": fresh})
        raise
    if disk.size_bytes > block["image"]["virtual-size"]:
        monitor("block_resize", **{"node-name": layer, "size": disk.size_bytes})
    if used:
        # libvirt's own, too: it would be missed only when the disk goes, and then not much.
        monitor("blockdev-del", **{"node-name": used})


def _give_up(monitor: _Monitor, volume_id: str) -> None:
    """What is under way fails, and nothing waits for the volume any more. It must be there still: QEMU 7.2 cannot end a
    wait that has begun."""
    for node in _Graph(monitor).ours:
        if volume_of(node) == volume_id:
            monitor("yank", instances=[{"type": "block-node", "node-name": node}])


def _node(monitor: _Monitor, export: ExportSource) -> dict[str, Any]:
    node: dict[str, Any] = {"driver": "nbd", "export": export.name, "reconnect-delay": RECONNECT_S}
    if export.socket is not None:
        return {**node, "server": {"type": "unix", "path": str(export.socket)}}
    credentials = [o["name"] for o in monitor("qom-list", path="/objects") if o["type"] == "child<tls-creds-x509>"]
    if not credentials:
        raise CloudError("QEMU has no certificate to reach the volume with")
    server = {"type": "inet", "host": export.address, "port": str(export.port)}
    name = {"tls-hostname": export.server_name} if export.server_name else {}
    return {**node, "server": server, "tls-creds": credentials[0], **name}


def _uses(instance_id: InstanceId, stats: Mapping[str, Any]) -> list[DiskUse]:
    found = []
    for number in range(stats.get("block.count", 0)):
        told = {key: stats.get(f"block.{number}.{key}", 0) for key in _TOLD}
        slot = slot_of_target(stats.get(f"block.{number}.name", ""))
        if slot is not None:
            found.append(
                DiskUse(
                    instance_id=instance_id,
                    slot=slot,
                    reads=told["rd.reqs"],
                    writes=told["wr.reqs"],
                    read_bytes=told["rd.bytes"],
                    written_bytes=told["wr.bytes"],
                    read_s=told["rd.times"] / 1e9,
                    write_s=told["wr.times"] / 1e9,
                )
            )
    return found


_TOLD: Final = ("rd.reqs", "wr.reqs", "rd.bytes", "wr.bytes", "rd.times", "wr.times")

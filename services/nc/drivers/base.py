"""What a node controller needs of its host: a hypervisor and a network, each behind a Protocol with promises.

Every method is idempotent and safe to cancel and call again. `observe` asks the host, never a memory of our own, so a
restarted agent finds its predecessor's VMs and taps. Implementations pass tests/contract/test_hypervisor.py and
tests/contract/test_network.py.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.ids import InstanceId, InterfaceId, VpcId
from mallee.nc.v1 import instance_pb2, network_pb2


class Power(enum.Enum):
    """A domain as the engine sees it."""

    # Known to the engine, its vCPUs never started since it was prepared: plug its network, then resume it.
    PAUSED = "paused"
    RUNNING = "running"
    # The guest shut itself down.
    OFF_BY_GUEST = "off-by-guest"
    # Off because we asked (power_off), e.g. `mallee down --vms`.
    OFF_BY_HOST = "off-by-host"
    # The engine stopped it because the host's disk failed or is full: resume it when that is over.
    STALLED = "stalled"
    # The engine process died or the guest crashed.
    CRASHED = "crashed"
    # Off, and nobody can say why (host reboot, libvirtd was away): it is started again, never terminated.
    OFF_UNKNOWN = "off-unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """A disk in a file of the node's own, with its format told, never guessed."""

    path: Path
    format: str
    # What an overlay stands on, told as well, and nothing below it. None: the disk stands alone.
    backing: Path | None = None
    backing_format: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSource:
    """A volume where the storage controller exports it: NBD, raw blocks."""

    # NBD export name.
    name: str
    # On this host; None: over TLS at the address, with the node's certificate.
    socket: Path | None = None
    address: str = ""
    port: int = 0
    # Name in the server's certificate.
    server_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    # Where it is plugged in (common/disk_names.py): the guest finds it by that.
    slot: int
    source: FileSource | ExportSource
    # What the guest is to see.
    size_bytes: int
    boots: bool = False
    # Empty: it is the node's own, and stays as long as the domain.
    volume_id: str = ""
    # Of the volume's grant.
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedDisk:
    """A volume that a domain has, as its engine says."""

    volume_id: str
    # -1: its guest has let go of it, and the engine is about to.
    slot: int
    # Of the grant that its source was told with. 0: it is not yet as it should be, refresh it.
    generation: int
    # As the guest sees it.
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUse:
    """What a guest did with one disk since its domain came up."""

    instance_id: InstanceId
    slot: int
    reads: int
    writes: int
    read_bytes: int
    written_bytes: int
    read_s: float
    write_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """What the hypervisor runs: everything is local and checked by now."""

    instance_id: InstanceId
    vcpus: int
    memory_bytes: int
    # One of them boots.
    disks: tuple[Disk, ...]
    # None: the disk that boots has its own loader.
    kernel: Path | None
    ramdisk: Path | None
    kernel_arguments: str
    mac: str
    tap: str
    console_log: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerChange:
    instance_id: InstanceId
    power: Power | None  # None: the engine does not know the domain any more


class Hypervisor(Protocol):
    kind: str
    """kvm, qemu or fake."""

    async def open(self) -> None:
        """Connects to the engine; returns when it answers. It reconnects by itself when the engine restarts."""

    async def close(self) -> None: ...

    async def prepare(self, domain: Domain) -> None:
        """Brings the domain up, paused, its tap opened. One that already runs, or is paused, is left alone.

        Raises NoCapacity if the host cannot hold it, Unavailable if the engine does not answer, CloudError if it fails
        to start for a reason of its own; then nothing runs.
        """

    async def resume(self, instance_id: InstanceId) -> None:
        """Starts the vCPUs of a prepared domain; a running one is left alone."""

    async def shut_down(self, instance_id: InstanceId) -> None:
        """Asks the guest (ACPI) and returns. Unknown or not running: nothing."""

    async def power_off(self, instance_id: InstanceId, *, grace_s: float) -> None:
        """Asks the guest (ACPI), then pulls the plug after `grace_s`. The definition stays. Unknown or off: nothing."""

    async def remove(self, instance_id: InstanceId) -> None:
        """Stops it at once and forgets it: no domain, no engine process is left. Unknown: nothing."""

    async def reboot(self, instance_id: InstanceId, *, grace_s: float) -> None:
        """Asks the guest (ACPI reboot), resets it after `grace_s` if it has not. Returns at once.

        Raises WrongState if it does not run, NotFound if there is none.
        """

    async def screenshot(self, instance_id: InstanceId, *, wake_up: bool) -> bytes:
        """What its screen shows now, as a PNG or PPM picture. `wake_up`: after a key was pressed.

        Raises WrongState if it does not run, NotFound if there is none.
        """

    async def copy_root(self, instance_id: InstanceId, target: Path) -> None:
        """Its root disk, raw, as it is at one moment, into a file that is there and as large; its guest goes on.

        Cancelling ends the copy. Raises WrongState if it does not run, NotFound if there is none.
        """

    async def observe(self) -> Mapping[InstanceId, Power]:
        """Every domain of this cloud and node that the engine knows."""

    async def power_of(self, instance_id: InstanceId) -> Power | None:
        """One domain, asked of the engine. None: it does not know it. Raises Unavailable if it does not answer."""

    async def attach_disk(self, instance_id: InstanceId, disk: Disk) -> None:
        """Plugs a volume into a domain that is up; one that is attached is left alone, whatever its source.

        Raises WrongState if the domain is not up, NotFound if there is none, CloudError if the engine refuses (the slot
        is taken, the export cannot be reached).
        """

    async def detach_disk(self, instance_id: InstanceId, volume_id: str, *, forced: bool = False) -> None:
        """Asks the guest to let go of it and returns; `disks_of` says when it has. Repeating asks again. Nothing if it
        is not attached, or the domain is not up. `forced`: what the guest is at with it fails at once."""

    async def refresh_disk(self, instance_id: InstanceId, disk: Disk) -> None:
        """The guest goes on with the same disk at its new source, in its new size. What it has written before is
        written. Raises WrongState if it is not attached, NotFound if there is no domain, CloudError if the engine
        refuses; then the old source stays."""

    async def disks_of(self, instance_id: InstanceId) -> Sequence[AttachedDisk]:
        """The volumes it has, asked of the engine. None if the domain is not up or not known."""

    async def disk_uses(self) -> Sequence[DiskUse]:
        """Of all disks of all domains that are up."""

    def disk_changes(self) -> AsyncIterator[InstanceId]:
        """Whose guest has let go of a disk, from this call on, pushed by the engine."""

    def changes(self) -> AsyncIterator[PowerChange]:
        """Changes from this call on, pushed by the engine. After a reconnect to it every domain is told again."""


class Network(Protocol):
    async def open(self) -> None:
        """Readies the node: forwarding, base rules. What stands from before is kept and no flow is cut."""

    async def close(self) -> None:
        """Lets go of sockets and helpers' pipes. Packets of running VMs go on."""

    async def prepare_interface(self, interface: instance_pb2.NetworkInterface) -> str:
        """Makes the VPC's namespace and a tap for the VM, down and outside of it, and returns the tap's name."""

    async def plug_interface(self, interface: instance_pb2.NetworkInterface) -> None:
        """With the tap held by the engine: moves it into the VPC, addresses, routes, DHCP and anti-spoofing rules.

        No packet passes before the VPC's plan names the interface: what no plan allows is dropped.
        """

    async def remove_interface(self, interface_id: InterfaceId, vpc_id: VpcId) -> None:
        """Takes tap, routes, DHCP entry and rules away; with the VPC's last interface the namespace goes too."""

    async def apply_plan(self, plan: network_pb2.VpcPlan) -> None:
        """Groups, remote members, public addresses. In force for every packet when it returns; flows that are no
        longer allowed are cut, allowed ones go on. A VPC without a local interface is not made."""

    async def observe(self) -> Mapping[InterfaceId, VpcId]:
        """Every interface that has anything left on this node."""

    async def answering(self, interfaces: Iterable[instance_pb2.NetworkInterface]) -> set[InterfaceId]:
        """Those whose guests answer for their address now. Takes as long as a guest is given to, a second, if one does
        not. Raises Unavailable if it cannot ask."""

    async def metadata_socket(self, vpc_id: VpcId) -> socket.socket:
        """A listening TCP socket on 169.254.169.254:80 inside the VPC. Raises NotFound if the VPC is not here."""

    async def destroy(self) -> None:
        """Removes everything this cloud made on this node: namespaces, links, rules, dnsmasq processes."""

"""A network laboratory: a fabric with virtual nodes, the real driver on each, and bare namespaces as guests.

A guest's eth0 is the other end of a veth pair whose near end has the tap's name, so the driver treats it as a tap. The
laboratory has an own cloud id and own ranges, begins by removing what a killed run left, and runs once at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common import netns
from common.config import CloudConfig, FacadeConfig, NetworkConfig, NodeConfig, ZoneConfig
from common.ids import InterfaceId, VpcId, mac_of
from deploy import fabric
from mallee.nc.v1 import instance_pb2, network_pb2
from services.nc.drivers.network import HostNetwork, state_folder
from services.nc.net import names
from tests.contract.traffic import Server, dial, pings, reaches

CLOUD = "7e51"
MANAGEMENT = "100.64.201.1"
# RFC 2544. The documentation ranges may be what the machine that tests reaches its registries by.
POOL = "198.18.201.0/24"
FACADE_PORT = 8773
ANYWHERE = "0.0.0.0/0"

_UDHCPC_SCRIPT = """#!/bin/sh
set > "$LEASE_FILE.$1"
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip link set "$interface" mtu "$mtu"
set -- $staticroutes
while [ $# -ge 2 ]; do ip route replace "$1" via "$2" dev "$interface"; shift 2; done
"""


def config(nodes: int = 2, *, uplink: str = "", resolvers: tuple[str, ...] = ()) -> CloudConfig:
    return CloudConfig(
        cloud_id=CLOUD,
        home="/nonexistent",
        management_address=MANAGEMENT,
        facade=FacadeConfig(port=FACADE_PORT),
        network=NetworkConfig(underlay_cidr="100.64.201.0/24", public_pool=POOL, uplink=uplink, resolvers=resolvers),
        zones=(
            ZoneConfig(
                name="us-east-1a",
                cc_port=1,
                cc_metrics_port=2,
                nodes=tuple(
                    NodeConfig(name=f"nc-{n}", address=f"100.64.201.{10 + n}", namespace=f"m{CLOUD}-{n}")
                    for n in range(1, nodes + 1)
                ),
            ),
        ),
    )


@dataclass
class Guest:
    """A namespace with one interface, that knows only what DHCP told it."""

    interface: instance_pb2.NetworkInterface
    node: NodeConfig
    namespace: str
    lease: dict[str, str] = field(default_factory=dict)

    @property
    def interface_id(self) -> InterfaceId:
        return InterfaceId(self.interface.interface_id)

    @property
    def public(self) -> str:
        return self.interface.public_ipv4

    @property
    def private(self) -> str:
        return self.interface.private_ipv4

    def run(self, *command: str) -> str:
        return netns.run(command, namespace=self.namespace)

    def ask_dhcp(self) -> dict[str, str]:
        """Runs busybox's udhcpc once and applies the lease."""
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder, "script")
            script.write_text(_UDHCPC_SCRIPT)
            script.chmod(0o755)
            lease = Path(folder, "lease")
            line = ["busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "8", "-T", "1", "-s", str(script)]
            line += ["-O", "mtu", "-O", "staticroutes", "-O", "dns", "-O", "domain"]
            done = subprocess.run(
                ["nsenter", f"--net=/run/netns/{self.namespace}", *line],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LEASE_FILE": str(lease)},
                capture_output=True,
                text=True,
                check=False,
                timeout=30,
            )
            if done.returncode != 0:
                raise TimeoutError(done.stderr)
            said = Path(f"{lease}.bound").read_text()
        self.lease = {k: v.strip("'") for k, v in re.findall(r"^([a-z_0-9]+)=(.*)$", said, re.MULTILINE)}
        return self.lease

    def udp(self) -> socket.socket:
        return netns.inside(self.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    def raw(self) -> socket.socket:
        """For whole Ethernet frames on eth0."""

        def make() -> socket.socket:
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            wire.bind(("eth0", 0))
            return wire

        return netns.inside(self.namespace, make)

    def listen(self, port: int, address: str = "0.0.0.0") -> Server:
        return Server(self.namespace, port, address)

    def dial(self, address: str, port: int, *, within_s: float = 2.0) -> socket.socket:
        return dial(self.namespace, address, port, within_s=within_s)

    def reaches(self, address: str, port: int, *, within_s: float = 0.7) -> bool:
        return reaches(self.namespace, address, port, within_s=within_s)

    def pings(self, address: str) -> bool:
        return pings(self.namespace, address)


@contextlib.contextmanager
def hold_tap(namespace: str, tap: str) -> Iterator[None]:
    """As an engine does: the tap has carrier meanwhile."""

    def attach() -> int:
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
        # TUNSETIFF with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR (linux/if_tun.h).
        fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", tap.encode(), 0x0002 | 0x1000 | 0x4000))
        return descriptor

    descriptor = netns.inside(namespace, attach)
    try:
        yield
    finally:
        os.close(descriptor)


def dnsmasq_processes() -> list[int]:
    """Those of the laboratory, asked of the host."""
    prefix = f"--conf-file={state_folder(config())}/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"dnsmasq") and any(word.startswith(prefix) for word in words):
                    found.append(int(entry.name))
    return found


class Lab:
    """Two nodes (or as many as the configuration has) and the guests on them."""

    def __init__(self, cloud: CloudConfig) -> None:
        self.cloud = cloud
        self.nodes = [node for zone in cloud.zones for node in zone.nodes]
        self.networks = {node.name: HostNetwork(cloud, node) for node in self.nodes}
        self.guests: list[Guest] = []
        self._count = 0
        self._published = 0

    def network(self, guest: Guest) -> HostNetwork:
        return self.networks[guest.node.name]

    async def restart(self, node: NodeConfig) -> None:
        """A new node controller in place of a killed one: nothing is told to it but the configuration."""
        # Its timers and threads must not outlive it, as they would not in a process of its own.
        await self.networks[node.name].close()
        self.networks[node.name] = HostNetwork(self.cloud, node)
        await self.networks[node.name].open()

    async def guest(
        self,
        vpc: VpcId,
        private: str,
        *,
        node: int = 0,
        public: str = "",
        groups: tuple[str, ...] = (),
        vpc_cidr: str = "172.31.0.0/16",
        subnet: str = "172.31.0.0/20",
        ask: bool = True,
    ) -> Guest:
        interface_id = InterfaceId.new()
        spec = instance_pb2.NetworkInterface(
            interface_id=interface_id,
            vpc_id=vpc,
            mac=mac_of(interface_id),
            private_ipv4=private,
            subnet_cidr=subnet,
            vpc_cidr=vpc_cidr,
            public_ipv4=self.public() if public == "new" else public,
            security_group_ids=groups,
        )
        guest = await self.plug(spec, node=node)
        if ask:
            guest.ask_dhcp()
        return guest

    async def plug(self, spec: instance_pb2.NetworkInterface, *, node: int = 0) -> Guest:
        """A guest that has not asked for its address yet."""
        self._count += 1
        guest = Guest(spec, self.nodes[node], f"m{CLOUD}-guest-{self._count}")
        self.add_cable(guest)
        await self.network(guest).prepare_interface(spec)
        await self.network(guest).plug_interface(spec)
        self.guests.append(guest)
        return guest

    def add_cable(self, guest: Guest) -> None:
        netns.ensure_namespace(guest.namespace)
        netns.links(
            [
                f"link add {names.tap_name(guest.interface_id)} type veth peer name eth0 address {guest.interface.mac} "
                f"netns {guest.namespace}"
            ],
            namespace=guest.node.namespace,
        )
        netns.links(["link set lo up", "link set eth0 up"], namespace=guest.namespace)

    def public(self) -> str:
        """A public address nobody has had yet."""
        self._published += 1
        return f"{POOL.rsplit('.', 1)[0]}.{self._published}"

    async def clear(self) -> None:
        for guest in list(self.guests):
            await self.remove(guest)

    async def remove(self, guest: Guest) -> None:
        await self.network(guest).remove_interface(guest.interface_id, VpcId(guest.interface.vpc_id))
        self.guests.remove(guest)
        netns.delete_namespace(guest.namespace)

    def plan(
        self,
        vpc: VpcId,
        revision: int,
        groups: dict[str, network_pb2.PlanGroup],
        *,
        vni: int = 0,
        public: dict[str, str] | None = None,
    ) -> network_pb2.VpcPlan:
        """The plan that the CLC would make of the guests that stand; `public` overrides by private address."""
        return network_pb2.VpcPlan(
            vpc_id=vpc,
            revision=revision,
            vni=vni or 1000 + int(vpc[-4:], 16),
            cidr="172.31.0.0/16",
            interfaces=[
                network_pb2.PlanInterface(
                    interface_id=g.interface_id,
                    mac=g.interface.mac,
                    private_ipv4=g.private,
                    public_ipv4=(public or {}).get(g.private, g.interface.public_ipv4),
                    node_address=g.node.address,
                    group_ids=g.interface.security_group_ids,
                )
                for g in self.guests
                if g.interface.vpc_id == vpc
            ],
            groups=groups.values(),
        )

    async def apply(self, plan: network_pb2.VpcPlan) -> None:
        for network in self.networks.values():
            await network.apply_plan(plan)


def rule(protocol: str, first: int = -1, last: int | None = None, peer: str = ANYWHERE) -> network_pb2.PlanRule:
    made = network_pb2.PlanRule(protocol=protocol, from_port=first, to_port=first if last is None else last)
    if peer.startswith("sg-"):
        made.group_id = peer
    else:
        made.cidr_ipv4 = peer
    return made


def group(
    group_id: str, *ingress: network_pb2.PlanRule, egress: tuple[network_pb2.PlanRule, ...] | None = None
) -> network_pb2.PlanGroup:
    """Everything may leave unless `egress` says otherwise, as in a new group of AWS."""
    return network_pb2.PlanGroup(group_id=group_id, ingress=ingress, egress=[rule("-1")] if egress is None else egress)


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Two runs on one machine wait for each other."""
    with open(f"/tmp/mallee-test-{CLOUD}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.asynccontextmanager
async def laboratory(nodes: int = 2, *, uplink: str = "", resolvers: tuple[str, ...] = ()) -> AsyncIterator[Lab]:
    cloud = config(nodes, uplink=uplink, resolvers=resolvers)
    with only_one():
        fabric.destroy(cloud)
        fabric.ensure(cloud)
        lab = Lab(cloud)
        try:
            for network in lab.networks.values():
                await network.open()
            yield lab
        finally:
            for network in lab.networks.values():
                await network.close()
            fabric.destroy(cloud)

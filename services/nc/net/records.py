"""What is written down of a VPC on a node, beside dnsmasq's files: its interfaces and the plan last given.

An interface is recorded before anything is made for it, so that no crash hides a leftover. The folder lies under /run:
a reboot takes it together with the namespaces it tells of.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import InvalidArgument
from common.ids import InterfaceId, VpcId
from mallee.nc.v1 import instance_pb2, network_pb2
from services.nc.net import names, policy
from services.nc.net.ruleset import Card


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    interface_id: str
    mac: str
    private_ipv4: str
    subnet_cidr: str
    vpc_cidr: str

    @property
    def card(self) -> Card:
        return Card(tap=names.tap_name(InterfaceId(self.interface_id)), mac=self.mac, private=self.private_ipv4)


def record_of(interface: instance_pb2.NetworkInterface) -> Record:
    """Raises InvalidArgument: nothing malformed may reach a ruleset or a configuration file."""
    try:
        return Record(
            interface_id=InterfaceId(interface.interface_id),
            mac=_mac(interface.mac),
            private_ipv4=str(ipaddress.IPv4Address(interface.private_ipv4)),
            subnet_cidr=str(ipaddress.IPv4Network(interface.subnet_cidr)),
            vpc_cidr=str(ipaddress.IPv4Network(interface.vpc_cidr)),
        )
    except ValueError as error:
        raise InvalidArgument(f"interface {interface.interface_id!r}: {error}") from error


class Records:
    def __init__(self, folder: Path, vpc_id: VpcId, node_address: str) -> None:
        self._interfaces = folder / "interfaces"
        self._plan = folder / "plan"
        self._vpc_id = vpc_id
        self._node = node_address

    def all(self) -> list[Record]:
        """In the order of their addresses, and of those with one address the latest last."""
        paths = sorted((self._path(i) for i in self.ids()), key=lambda path: path.stat().st_mtime_ns)
        found = [Record(**json.loads(path.read_text())) for path in paths]
        return sorted(found, key=lambda record: ipaddress.IPv4Address(record.private_ipv4))

    def ids(self) -> set[InterfaceId]:
        try:
            return {InterfaceId(p.name) for p in self._interfaces.iterdir() if InterfaceId.matches(p.name)}
        except FileNotFoundError:
            return set()

    def has(self, interface_id: InterfaceId) -> bool:
        return self._path(interface_id).exists()

    def is_empty(self) -> bool:
        """No interface is recorded."""
        try:
            return not any(InterfaceId.matches(path.name) for path in self._interfaces.iterdir())
        except FileNotFoundError:
            return True

    def write(self, record: Record) -> None:
        _replace(self._path(InterfaceId(record.interface_id)), json.dumps(asdict(record)).encode())

    def drop(self, interface_id: InterfaceId) -> None:
        self._path(interface_id).unlink(missing_ok=True)

    def view(self) -> policy.View:
        """The plan last given, whether or not a crash kept it from being enforced."""
        try:
            plan = network_pb2.VpcPlan.FromString(self._plan.read_bytes())
        except FileNotFoundError:
            return policy.empty_view(self._vpc_id, self._node)
        return policy.view_of(plan, self._node)

    def has_plan(self) -> bool:
        return self._plan.exists()

    def plan_revision(self) -> int:
        """Of the plan last given; 0: none was."""
        try:
            return network_pb2.VpcPlan.FromString(self._plan.read_bytes()).revision
        except FileNotFoundError:
            return 0

    def write_plan(self, plan: network_pb2.VpcPlan) -> None:
        _replace(self._plan, plan.SerializeToString())

    def _path(self, interface_id: InterfaceId) -> Path:
        return self._interfaces / interface_id


def _mac(value: str) -> str:
    octets = value.lower().split(":")
    if len(octets) != 6 or any(len(o) != 2 or int(o, 16) < 0 for o in octets) or int(octets[0], 16) & 1:
        raise ValueError(f"not a card's address: {value!r}")
    return ":".join(octets)


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o755)
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    new.replace(path)

"""A VPC's plan as one node sees it, and the question whether a packet may pass. Pure.

The ruleset is rendered from this model and the cutting of revoked flows asks it, so that both mean the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from common.errors import InvalidArgument
from common.ids import InterfaceId, VpcId
from mallee.nc.v1 import network_pb2

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
_NAMES: Final = {"icmp": ICMP, "tcp": TCP, "udp": UDP, "icmpv6": 58}


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """The first packet of a flow. For ICMP `port` is the type and `code` its code."""

    protocol: int
    port: int = 0
    code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    # None: every protocol.
    protocol: int | None
    # Ports for TCP and UDP; type and code for ICMP. -1: any.
    first: int
    last: int
    # A range of addresses, or the members of a group.
    peer: IPv4Network | str

    def covers(self, packet: Packet) -> bool:
        if self.protocol is None:
            return True
        if packet.protocol != self.protocol:
            return False
        match self.protocol:
            case 1:
                return self.first in (-1, packet.port) and (self.first == -1 or self.last in (-1, packet.code))
            case 6 | 17:
                return self.first == -1 or self.first <= packet.port <= self.last
            case _:
                return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    ingress: tuple[Rule, ...]
    egress: tuple[Rule, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    interface_id: InterfaceId
    private: str
    # Empty: none.
    public: str
    # Underlay address of its node. Empty: not placed yet.
    node: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    vpc_id: VpcId
    revision: int
    vni: int
    # This node's underlay address.
    node: str
    # By private address.
    members: Mapping[str, Member]
    groups: Mapping[str, Group]

    @property
    def local(self) -> list[Member]:
        return [member for member in self.members.values() if member.node == self.node]

    @property
    def remote(self) -> list[Member]:
        return [member for member in self.members.values() if member.node not in ("", self.node)]

    def is_local(self, address: str) -> bool:
        member = self.members.get(address)
        return member is not None and member.node == self.node

    def in_group(self, group_id: str) -> Iterator[str]:
        return (member.private for member in self.members.values() if group_id in member.groups)

    def ingress_of(self, groups: tuple[str, ...]) -> tuple[Rule, ...]:
        return tuple(rule for group in groups if group in self.groups for rule in self.groups[group].ingress)

    def egress_of(self, groups: tuple[str, ...]) -> tuple[Rule, ...]:
        return tuple(rule for group in groups if group in self.groups for rule in self.groups[group].egress)

    def may_enter(self, member: Member, source: str, packet: Packet) -> bool:
        return any(rule.covers(packet) and self._is_peer(rule, source) for rule in self.ingress_of(member.groups))

    def may_leave(self, member: Member, destination: str, packet: Packet) -> bool:
        return any(rule.covers(packet) and self._is_peer(rule, destination) for rule in self.egress_of(member.groups))

    def _is_peer(self, rule: Rule, address: str) -> bool:
        if isinstance(rule.peer, IPv4Network):
            return IPv4Address(address) in rule.peer
        member = self.members.get(address)
        return member is not None and rule.peer in member.groups


def view_of(plan: network_pb2.VpcPlan, node: str) -> View:
    """Raises InvalidArgument if the plan is malformed: nothing of it may reach a ruleset."""
    try:
        members = [_member(interface) for interface in plan.interfaces]
        return View(
            vpc_id=VpcId(plan.vpc_id),
            revision=plan.revision,
            vni=plan.vni,
            node=node,
            members={member.private: member for member in members},
            groups={_group_id(group.group_id): _group(group) for group in plan.groups},
        )
    except ValueError as error:
        raise InvalidArgument(f"plan of {plan.vpc_id!r}: {error}") from error


def empty_view(vpc_id: VpcId, node: str) -> View:
    """No member, no rule: nothing passes."""
    return View(vpc_id=vpc_id, revision=0, vni=0, node=node, members={}, groups={})


def _member(interface: network_pb2.PlanInterface) -> Member:
    return _checked_member(
        interface.interface_id,
        interface.private_ipv4,
        interface.public_ipv4,
        interface.node_address,
        tuple(interface.group_ids),
    )


# A plan is told as a whole whenever a part of it changes.
@lru_cache(maxsize=1 << 16)
def _checked_member(interface_id: str, private: str, public: str, node: str, groups: tuple[str, ...]) -> Member:
    return Member(
        interface_id=InterfaceId(interface_id),
        private=str(IPv4Address(private)),
        public=str(IPv4Address(public)) if public else "",
        node=str(IPv4Address(node)) if node else "",
        groups=tuple(sorted({_group_id(group) for group in groups})),
    )


def _group(group: network_pb2.PlanGroup) -> Group:
    return Group(
        ingress=tuple(_rule(rule) for rule in group.ingress),
        egress=tuple(_rule(rule) for rule in group.egress),
    )


def _rule(rule: network_pb2.PlanRule) -> Rule:
    peer = (
        _group_id(rule.group_id) if rule.WhichOneof("peer") == "group_id" else IPv4Network(rule.cidr_ipv4, strict=False)
    )
    protocol = None if rule.protocol in ("-1", "all") else _NAMES.get(rule.protocol)
    if protocol is None and rule.protocol not in ("-1", "all"):
        protocol = int(rule.protocol)
        if not 0 <= protocol <= 255:
            raise ValueError(f"protocol {rule.protocol!r}")
    first, last = rule.from_port, rule.to_port
    if not (-1 <= first <= 65535 and -1 <= last <= 65535):
        raise ValueError(f"ports {first} to {last}")
    if protocol in (TCP, UDP) and ((first == -1) != (last == -1) or first > last):
        raise ValueError(f"ports {first} to {last}")
    if protocol == ICMP and (first > 255 or last > 255):
        raise ValueError(f"ICMP type {first} code {last}")
    return Rule(protocol=protocol, first=first, last=last, peer=peer)


def _group_id(value: str) -> str:
    """Group ids become names in the ruleset, so they are checked like all that comes from outside."""
    head, _, tail = value.partition("-")
    if head != "sg" or not tail or not tail.isalnum() or not tail.isascii():
        raise ValueError(f"group id {value!r}")
    return value

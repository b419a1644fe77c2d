"""Plans, flows and names of the network: the pure rules."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidArgument
from common.ids import InterfaceId, VpcId
from mallee.nc.v1 import network_pb2
from services.nc.net import names, policy
from services.nc.net.flows import Flow, is_allowed, parse
from services.nc.net.policy import ICMP, TCP, UDP, Packet, View

HERE, THERE = "100.64.77.11", "100.64.77.12"
FACADE = "169.254.169.250"
VPC = VpcId("vpc-0123456789abcdef0")
WEB, APP = "sg-0000000000000000a", "sg-0000000000000000b"

hex_ids = st.integers(min_value=0, max_value=(1 << 68) - 1).map(lambda n: f"{n:017x}")


@given(hex_ids)
def test_a_links_name_fits_and_leads_back_to_its_id(tail: str) -> None:
    interface, vpc = InterfaceId(f"eni-{tail}"), VpcId(f"vpc-{tail}")
    assert len(names.tap_name(interface)) == len(names.uplink_name(vpc)) == 15
    assert names.interface_of(names.tap_name(interface)) == interface
    assert names.vpc_of_uplink(names.uplink_name(vpc)) == vpc
    assert names.vpc_of_namespace("m18dc-1", names.vpc_namespace("m18dc-1", vpc)) == vpc


@pytest.mark.parametrize("link", ["lo", "tap0", "t", "underlay0", "tvvvvvvvvvvvvvv", "t0123456789ABCD", "eth0", "p2p1"])
def test_other_peoples_links_are_not_ours(link: str) -> None:
    assert names.interface_of(link) is None
    assert names.vpc_of_uplink(link) is None


def test_one_nodes_name_is_no_prefix_of_anothers() -> None:
    assert names.vpc_of_namespace("m18dc-1", f"m18dc-11-{VPC}") is None
    assert names.vpc_of_namespace("m18dc-1", "m18dc-1") is None


def rule(protocol: str, first: int = -1, last: int = -1, peer: str = "0.0.0.0/0") -> network_pb2.PlanRule:
    made = network_pb2.PlanRule(protocol=protocol, from_port=first, to_port=last)
    if peer.startswith("sg-"):
        made.group_id = peer
    else:
        made.cidr_ipv4 = peer
    return made


def member(private: str, *groups: str, node: str = HERE, public: str = "") -> network_pb2.PlanInterface:
    return network_pb2.PlanInterface(
        interface_id=f"eni-{int(IPv4Address(private)):017x}",
        private_ipv4=private,
        public_ipv4=public,
        node_address=node,
        group_ids=groups,
    )


def view(*members: network_pb2.PlanInterface, ingress: list[network_pb2.PlanRule]) -> View:
    """WEB lets in what `ingress` says, APP nothing; both let everything out."""
    return policy.view_of(
        network_pb2.VpcPlan(
            vpc_id=VPC,
            revision=1,
            interfaces=members,
            groups=[
                network_pb2.PlanGroup(group_id=WEB, ingress=ingress, egress=[rule("-1")]),
                network_pb2.PlanGroup(group_id=APP, egress=[rule("-1")]),
            ],
        ),
        HERE,
    )


@pytest.mark.parametrize(
    ("allowed", "packet", "passes"),
    [
        (rule("tcp", 80, 90), Packet(protocol=TCP, port=85), True),
        (rule("tcp", 80, 90), Packet(protocol=TCP, port=91), False),
        (rule("tcp", 80, 90), Packet(protocol=UDP, port=85), False),
        (rule("tcp"), Packet(protocol=TCP, port=1), True),
        (rule("-1"), Packet(protocol=47), True),
        (rule("47"), Packet(protocol=47), True),
        (rule("6", 22, 22), Packet(protocol=TCP, port=22), True),
        (rule("icmp"), Packet(protocol=ICMP, port=8), True),
        (rule("icmp", 8, -1), Packet(protocol=ICMP, port=8, code=3), True),
        (rule("icmp", 8, 0), Packet(protocol=ICMP, port=8, code=3), False),
        (rule("icmp", 0, -1), Packet(protocol=ICMP, port=8), False),
        (rule("tcp", 80, 80, "172.31.0.0/28"), Packet(protocol=TCP, port=80), True),
        (rule("tcp", 80, 80, "10.0.0.0/8"), Packet(protocol=TCP, port=80), False),
        (rule("tcp", 80, 80, APP), Packet(protocol=TCP, port=80), True),
        (rule("tcp", 80, 80, WEB), Packet(protocol=TCP, port=80), False),
    ],
)
def test_a_rule_covers_what_it_says(allowed: network_pb2.PlanRule, packet: Packet, passes: bool) -> None:
    seen = view(member("172.31.0.5", WEB), member("172.31.0.6", APP), ingress=[allowed])
    assert seen.may_enter(seen.members["172.31.0.5"], "172.31.0.6", packet) is passes


def test_a_member_without_groups_neither_hears_nor_speaks() -> None:
    seen = view(member("172.31.0.5"), ingress=[rule("-1")])
    alone = seen.members["172.31.0.5"]
    assert not seen.may_enter(alone, "8.8.8.8", Packet(protocol=TCP, port=80))
    assert not seen.may_leave(alone, "8.8.8.8", Packet(protocol=TCP, port=80))


@pytest.mark.parametrize(
    "bad",
    [
        rule("tcp", 80, 65536),
        rule("tcp", -1, 80),
        rule("udp", -2, -2),
        rule("icmp", 256, 0),
        rule("gre; drop"),
        rule("256"),
        rule("tcp", 80, 22),
        rule("tcp", 1, 1, "sg-1 }"),
        rule("tcp", 1, 1, "::/0"),
        network_pb2.PlanRule(protocol="tcp", from_port=1, to_port=1),
    ],
)
def test_a_malformed_rule_is_refused(bad: network_pb2.PlanRule) -> None:
    with pytest.raises(InvalidArgument):
        view(member("172.31.0.5", WEB), ingress=[bad])


PUBLIC = "198.51.100.5"


def tcp(source: str, destination: str, *, target: str = "", back: str = "", port: int = 80) -> Flow:
    return Flow(
        protocol=TCP,
        source=source,
        destination=destination,
        target=target or destination,
        back=back or source,
        source_port=40000,
        port=port,
    )


@pytest.mark.parametrize(
    ("flow", "stays"),
    [
        (tcp("172.31.0.6", "172.31.0.5"), True),
        (tcp("172.31.0.6", "172.31.0.5", port=81), False),
        (tcp("172.31.0.7", "172.31.0.5"), True),
        (tcp("172.31.0.5", "172.31.0.6"), False),
        (tcp("8.8.8.8", PUBLIC, target="172.31.0.5"), True),
        (tcp("8.8.8.8", "198.51.100.99", target="172.31.0.5"), False),
        (tcp("8.8.8.8", PUBLIC, target="172.31.0.5", port=81), False),
        (tcp("8.8.8.8", PUBLIC, target="172.31.0.99"), False),
        (tcp("172.31.0.99", "172.31.0.5"), False),
        (tcp("172.31.0.5", "8.8.8.8", back=PUBLIC), True),
        (tcp("172.31.0.5", "8.8.8.8", back="198.51.100.99"), False),
        (tcp("172.31.0.5", FACADE, target="100.64.77.1", back="169.254.1.1"), True),
        (tcp("172.31.0.99", FACADE, target="100.64.77.1", back="169.254.1.1"), False),
        (tcp("172.31.0.5", "169.254.169.254"), True),
    ],
)
def test_a_flow_stays_while_the_plan_would_let_it_begin(flow: Flow, stays: bool) -> None:
    seen = view(
        member("172.31.0.5", WEB, public=PUBLIC),
        member("172.31.0.6", APP),
        member("172.31.0.7", APP, node=THERE),
        ingress=[rule("tcp", 80, 80)],
    )
    assert is_allowed(flow, seen, FACADE) is stays


def test_conntrack_listings_are_read() -> None:
    listing = """\
tcp      6 431999 ESTABLISHED src=100.64.77.1 dst=198.51.100.5 sport=5 dport=80 \
src=172.31.0.5 dst=100.64.77.1 sport=80 dport=5 [ASSURED] mark=0 use=1
icmp     1 29 src=172.31.0.6 dst=172.31.0.5 type=8 code=0 id=7 \
src=172.31.0.5 dst=172.31.0.6 type=0 code=0 id=7 mark=0 use=1
unknown  47 599 src=172.31.0.6 dst=172.31.0.5 [UNREPLIED] src=172.31.0.5 dst=172.31.0.6 mark=0 use=1
conntrack v1.4.7 (conntrack-tools): 3 flow entries have been shown.
"""
    web, ping, gre = parse(listing)
    assert (web.source, web.destination, web.target, web.back) == ("100.64.77.1", PUBLIC, "172.31.0.5", "100.64.77.1")
    assert (web.source_port, web.port) == (5, 80)
    assert ping.packet == Packet(protocol=ICMP, port=8, code=0)
    assert ping.icmp_id == 7
    assert (gre.protocol, gre.packet) == (47, Packet(protocol=47))


@given(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 65535), st.sampled_from([TCP, UDP]))
def test_ports_are_a_closed_range(low: int, high: int, port: int, protocol: int) -> None:
    covering = policy.Rule(protocol=protocol, first=low, last=high, peer=IPv4Network("0.0.0.0/0"))
    assert covering.covers(Packet(protocol=protocol, port=port)) is (low <= port <= high)

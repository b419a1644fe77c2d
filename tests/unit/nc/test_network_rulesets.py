"""The rendered rulesets and dnsmasq's files, as text. What packets make of them is shown in tests/contract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from common.ids import VpcId
from mallee.nc.v1 import network_pb2
from services.nc.net import dhcp, node_rules, policy, ruleset
from services.nc.net.ruleset import Card, Doors
from tests.unit.nc.test_network_policy import APP, HERE, THERE, VPC, WEB, member, rule, view

DOORS = Doors(
    facade_address="169.254.169.250",
    management_address="100.64.77.1",
    facade_port=8773,
    public_pool="198.51.100.0/24",
    underlay_cidr="100.64.77.0/24",
    leads_out=False,
)
CARDS = [Card(tap="t00000000000000", mac="d0:0d:00:00:00:05", private="172.31.0.5")]


def balanced(text: str) -> bool:
    return text.count("{") == text.count("}")


def test_a_plan_renders_members_groups_and_addresses() -> None:
    seen = view(
        member("172.31.0.5", WEB, public="198.51.100.5"),
        member("172.31.0.6", APP, WEB),
        member("172.31.1.7", APP, node=THERE, public="198.51.100.7"),
        member("172.31.1.8", APP, node=""),
        ingress=[rule("tcp", 22, 22, "10.0.0.0/8"), rule("icmp", 8, -1), rule("-1", peer=APP)],
    )
    text = ruleset.plan(seen, DOORS)
    assert balanced(text)
    assert "set local { type ipv4_addr; elements = { 172.31.0.5, 172.31.0.6 }; }" in text
    assert "set remote { type ipv4_addr; elements = { 172.31.1.7 }; }" in text
    assert "map public_to_private { type ipv4_addr : ipv4_addr; elements = { 198.51.100.5 : 172.31.0.5 }; }" in text
    assert "set sg_0000000000000000b { type ipv4_addr; elements = { 172.31.0.6, 172.31.1.7, 172.31.1.8 }; }" in text
    assert "ip saddr 10.0.0.0/8 meta l4proto 6 th dport 22 return" in text
    assert "ip saddr 0.0.0.0/0 meta l4proto icmp icmp type 8 return" in text
    assert "ip saddr @sg_0000000000000000b return" in text
    assert text.startswith("table inet plan\ndelete table inet plan\n"), "one transaction replaces the old one"


def test_no_member_means_nothing_passes() -> None:
    text = ruleset.plan(policy.empty_view(VpcId(VPC), HERE), DOORS)
    assert balanced(text)
    assert "set local { type ipv4_addr;  }" in text
    assert "elements" not in text
    assert "policy drop" in text


def test_the_same_plan_renders_the_same_text_whatever_its_order() -> None:
    members = [member(f"172.31.0.{n}", WEB, APP) for n in range(5, 9)]
    one = ruleset.plan(view(*members, ingress=[rule("-1")]), DOORS)
    assert one == ruleset.plan(view(*reversed(members), ingress=[rule("-1")]), DOORS)


def test_groups_without_a_local_member_cost_nothing() -> None:
    seen = view(member("172.31.0.7", WEB, node=THERE), ingress=[rule("tcp", 80, 80, APP)])
    assert "sg_" not in ruleset.plan(seen, DOORS)


def test_only_an_uplink_opens_a_way_out() -> None:
    empty = policy.empty_view(VpcId(VPC), HERE)
    shut, opened = ruleset.plan(empty, DOORS), ruleset.plan(empty, replace(DOORS, leads_out=True))
    assert "169.254.0.0/16" not in shut
    assert "ip saddr @published ip daddr != { 100.64.77.0/24, 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16" in opened
    assert node_rules.node(DOORS) != node_rules.node(replace(DOORS, leads_out=True))


def test_the_guard_names_each_card_with_its_address() -> None:
    text = ruleset.guard(CARDS, "172.31.0.0/16", DOORS)
    assert balanced(text)
    assert text.count('"t00000000000000" . d0:0d:00:00:00:05 . 172.31.0.5') == 2, "for packets and for ARP"
    assert "arp daddr ip != { 172.31.0.0/16, 169.254.169.254, 169.254.169.253, 169.254.169.250 } drop" in text
    assert "elements" not in ruleset.guard([], "172.31.0.0/16", DOORS)


def test_dnsmasq_serves_each_subnet_and_asks_nobody() -> None:
    scope = dhcp.Scope(
        vpc_cidr="172.31.0.0/16",
        subnets=("172.31.0.0/20", "172.31.16.0/20"),
        domain="ec2.internal",
        facade_address="169.254.169.250",
        mtu=1450,
    )
    lines = dhcp.configuration(scope, Path("/run/x")).splitlines()
    assert {"no-resolv", "no-hosts", "dhcp-authoritative", "dhcp-option=26,1450"} <= set(lines)
    assert "dhcp-range=set:s1,172.31.16.0,static,255.255.240.0,3600" in lines
    assert (
        "dhcp-option=tag:s1,121,0.0.0.0/0,172.31.16.1,169.254.169.254/32,172.31.16.1,169.254.169.250/32,172.31.16.1"
        in lines
    )
    assert not any(line.startswith("server=") for line in lines)


def test_names_lead_to_private_addresses() -> None:
    seen = view(member("172.31.0.5", WEB, public="198.51.100.5"), member("172.31.1.7", node=THERE), ingress=[])
    assert dhcp.dns_hosts(seen, CARDS, "us-east-1") == (
        "172.31.0.5 ip-172-31-0-5.ec2.internal ip-172-31-0-5\n172.31.1.7 ip-172-31-1-7.ec2.internal ip-172-31-1-7\n"
    )
    assert dhcp.dhcp_hosts(CARDS) == "d0:0d:00:00:00:05,172.31.0.5,ip-172-31-0-5\n"
    other = dhcp.dns_hosts(seen, CARDS, "eu-west-1")
    assert "ip-172-31-0-5.eu-west-1.compute.internal" in other


def test_a_rule_named_twice_is_rendered_once() -> None:
    seen = view(member("172.31.0.5", WEB), ingress=[rule("tcp", 80, 80), rule("tcp", 80, 80)])
    assert ruleset.plan(seen, DOORS).count("th dport 80 return") == 1


def test_an_unknown_group_allows_nothing() -> None:
    plan = network_pb2.VpcPlan(vpc_id=VPC, interfaces=[member("172.31.0.5", "sg-gone")])
    assert " return" not in ruleset.plan(policy.view_of(plan, HERE), DOORS)

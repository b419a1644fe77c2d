"""The host's firewall, as text."""

from __future__ import annotations

from dataclasses import replace

from common.config import CloudConfig
from deploy import fabric

CLOUD = CloudConfig(cloud_id="18dc", home="/nonexistent", management_address="100.64.77.1")


def test_without_an_uplink_the_host_forwards_nothing_of_ours() -> None:
    text = fabric.host_rules(CLOUD)
    assert text.count("{") == text.count("}")
    assert 'iifname "m18dcbr" counter drop' in text
    assert 'oifname "m18dcbr" counter drop' in text
    assert "masquerade" not in text
    assert "accept" not in text.split("chain forward")[1].split("policy accept;")[1]


def test_other_interfaces_are_none_of_our_business() -> None:
    text = fabric.host_rules(CLOUD)
    assert 'iifname != "m18dcbr" accept' in text
    assert text.count("policy accept") == 2


def test_an_uplink_opens_one_way_each() -> None:
    text = fabric.host_rules(replace(CLOUD, network=replace(CLOUD.network, uplink="eth7")))
    assert 'iifname "m18dcbr" oifname "eth7" ip saddr 198.51.100.0/24 accept' in text
    assert 'ip saddr 198.51.100.0/24 oifname "eth7" masquerade' in text
    assert "53" not in text


def test_nodes_reach_nothing_beyond_the_uplink_but_the_named_resolvers() -> None:
    network = replace(CLOUD.network, uplink="eth7", resolvers=("9.9.9.9", "1.1.1.1"))
    text = fabric.host_rules(replace(CLOUD, network=network))
    asked = "ip daddr { 9.9.9.9, 1.1.1.1 } meta l4proto { tcp, udp } th dport 53"
    assert f'iifname "m18dcbr" ip saddr 100.64.77.0/24 oifname "eth7" {asked} accept' in text
    assert text.count("100.64.77.0/24 oifname") == 2, "that, and its masquerading"

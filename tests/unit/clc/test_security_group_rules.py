"""Security group rules: read, compared and shown as EC2 does."""

from __future__ import annotations

import pytest

from common.errors import CloudError, Unsupported
from mallee.ec2.v1 import security_group_pb2 as ec2
from services.clc.security_group.rules import Rule, meaning, permissions_of, rules_of, words


def read(permission: ec2.IpPermission) -> list[Rule]:
    return rules_of([permission], egress=False, find_group=lambda pair: (pair.group_id, "123456789012"))


def tcp(low: int, high: int, *cidrs: str) -> ec2.IpPermission:
    return ec2.IpPermission(
        ip_protocol="tcp", from_port=low, to_port=high, ip_ranges=[ec2.IpRange(cidr_ip=c) for c in cidrs]
    )


def test_one_rule_per_peer_and_back_again() -> None:
    permission = tcp(22, 22, "10.0.0.0/8", "192.168.0.0/16")
    permission.user_id_group_pairs.add(group_id="sg-1")
    rules = read(permission)
    assert len(rules) == 3
    (shown,) = permissions_of(rules, egress=False)
    permission.user_id_group_pairs[0].user_id = "123456789012"
    assert shown == permission
    assert permissions_of(rules, egress=True) == []


@pytest.mark.parametrize(
    ("given", "kept"), [("10.1.2.3/8", "10.0.0.0/8"), ("0.0.0.0/0", "0.0.0.0/0"), ("1.2.3.4/32", "1.2.3.4/32")]
)
def test_host_bits_are_cut_off(given: str, kept: str) -> None:
    assert read(tcp(1, 2, given))[0].cidr_ipv4 == kept


@pytest.mark.parametrize(("given", "kept"), [("6", "tcp"), ("17", "udp"), ("-1", "-1"), ("all", "-1"), ("50", "50")])
def test_protocols_have_one_name(given: str, kept: str) -> None:
    permission = tcp(1, 2, "0.0.0.0/0")
    permission.ip_protocol = given
    rule = read(permission)[0]
    assert rule.protocol == kept
    assert (rule.from_port == -1) is (kept not in ("tcp", "udp"))


@pytest.mark.parametrize(
    ("permission", "code"),
    [
        (tcp(22, 21, "0.0.0.0/0"), "InvalidParameterValue"),
        (tcp(0, 65536, "0.0.0.0/0"), "InvalidParameterValue"),
        (tcp(22, 22, "0.0.0.0"), "InvalidParameterValue"),
        (tcp(22, 22, "300.0.0.0/8"), "InvalidParameterValue"),
        (tcp(22, 22), "MissingParameter"),
        (ec2.IpPermission(ip_protocol="tcp", ip_ranges=[ec2.IpRange(cidr_ip="0.0.0.0/0")]), "InvalidParameterValue"),
        (ec2.IpPermission(ip_protocol="nope", ip_ranges=[ec2.IpRange(cidr_ip="0.0.0.0/0")]), "InvalidParameterValue"),
        (ec2.IpPermission(ip_ranges=[ec2.IpRange(cidr_ip="0.0.0.0/0")]), "MissingParameter"),
        (tcp(22, 22, "10.0.0.0/8", "10.1.0.0/8"), "InvalidParameterValue"),
    ],
)
def test_what_is_wrong_is_refused_in_ec2_s_words(permission: ec2.IpPermission, code: str) -> None:
    with pytest.raises(CloudError) as caught:
        read(permission)
    assert caught.value.code == code


def test_prefix_lists_are_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="PrefixListIds"):
        read(ec2.IpPermission(ip_protocol="-1", prefix_list_ids=[ec2.PrefixListId(prefix_list_id="pl-1")]))


def test_a_description_does_not_make_another_rule() -> None:
    a, b = read(tcp(22, 22, "0.0.0.0/0"))[0], read(tcp(22, 22, "0.0.0.0/0"))[0]
    b.description = "ssh"
    assert meaning(a) == meaning(b)
    assert words(a) == "peer: 0.0.0.0/0, TCP, from port: 22, to port: 22, ALLOW"

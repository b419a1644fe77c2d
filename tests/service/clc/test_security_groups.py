"""Limits of security groups, and the filters that look into their rules."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from common.errors import CloudError
from mallee.ec2.v1 import security_group_pb2 as ec2
from mallee.ec2.v1.filter_pb2 import Filter
from tests.service.clc.making import group
from tests.service.clc.stage import Stage

FULL = "RulesPerSecurityGroupLimitExceeded"


def permission(**peers: Any) -> ec2.IpPermission:
    return ec2.IpPermission(ip_protocol="tcp", from_port=22, to_port=22, **peers)


def ipv4(count: int) -> ec2.IpPermission:
    return permission(ip_ranges=[ec2.IpRange(cidr_ip=f"10.{n}.0.0/16") for n in range(count)])


def ipv6(count: int) -> ec2.IpPermission:
    return permission(ipv6_ranges=[ec2.Ipv6Range(cidr_ipv6=f"2001:db8:{n:x}::/48") for n in range(count)])


def of_group(group_id: str) -> ec2.IpPermission:
    return permission(user_id_group_pairs=[ec2.UserIdGroupPair(group_id=group_id)])


async def authorize(stage: Stage, group_id: str, *permissions: ec2.IpPermission) -> list[ec2.SecurityGroupRule]:
    request = ec2.AuthorizeSecurityGroupIngressRequest(group_id=group_id, ip_permissions=permissions)
    return list((await stage.run("AuthorizeSecurityGroupIngress", request)).security_group_rules)


async def names(stage: Stage, name: str, value: str) -> list[str]:
    request = ec2.DescribeSecurityGroupsRequest(filters=[Filter(name=name, values=[value])])
    return sorted(g.group_name for g in (await stage.run("DescribeSecurityGroups", request)).security_groups)


async def test_each_version_of_ip_has_a_limit_and_a_group_counts_for_both(stage: Stage) -> None:
    web = await group(stage)
    await authorize(stage, web, ipv4(60), ipv6(59))
    for one_more in (permission(ip_ranges=[ec2.IpRange(cidr_ip="10.200.0.0/16")]), of_group(web)):
        with pytest.raises(CloudError) as caught:
            await authorize(stage, web, one_more)
        assert caught.value.code == FULL
    (last,) = await authorize(stage, web, permission(ipv6_ranges=[ec2.Ipv6Range(cidr_ipv6="::/0")]))
    to_ipv4 = ec2.SecurityGroupRuleUpdate(
        security_group_rule_id=last.security_group_rule_id,
        security_group_rule=ec2.SecurityGroupRuleRequest(
            ip_protocol="tcp", from_port=80, to_port=80, cidr_ipv4="0.0.0.0/0"
        ),
    )
    request = ec2.ModifySecurityGroupRulesRequest(group_id=web, security_group_rules=[to_ipv4])
    with pytest.raises(CloudError) as caught:
        await stage.run("ModifySecurityGroupRules", request)
    assert caught.value.code == FULL


async def test_as_many_rules_as_a_request_can_hold_are_refused_at_once(stage: Stage) -> None:
    """Each is looked at once: whoever compared them in pairs would not be through today."""
    web = await group(stage)
    many = permission(ip_ranges=[ec2.IpRange(cidr_ip=f"10.{n >> 8}.{n & 255}.0/24") for n in range(12_000)])
    with pytest.raises(CloudError) as caught:
        await authorize(stage, web, many)
    assert caught.value.code == FULL
    request = ec2.RevokeSecurityGroupIngressRequest(group_id=web, ip_permissions=[many])
    answer = await stage.run("RevokeSecurityGroupIngress", request)
    assert len(answer.unknown_ip_permissions[0].ip_ranges) == 12_000


async def test_an_account_has_a_limit_of_groups(stage: Stage) -> None:
    clc = dataclasses.replace(stage.cloud.config.clc, security_groups_per_account=2)
    stage.cloud = dataclasses.replace(stage.cloud, config=dataclasses.replace(stage.cloud.config, clc=clc))
    await group(stage)
    with pytest.raises(CloudError) as caught:
        await stage.run("CreateSecurityGroup", ec2.CreateSecurityGroupRequest(group_name="b", description="b"))
    assert caught.value.code == "SecurityGroupLimitExceeded"
    await group(stage.of_the_other())


async def test_groups_are_found_by_what_their_rules_say(stage: Stage) -> None:
    web = await group(stage)
    await authorize(stage, web, ipv4(1), ipv6(1), of_group(web))
    for name, value in (
        ("cidr", "10.0.0.0/16"),
        ("ipv6-cidr", "2001:db8::/48"),
        ("group-id", web),
        ("group-name", "web"),
        ("from-port", "22"),
        ("to-port", "22"),
        ("protocol", "tcp"),
    ):
        assert await names(stage, f"ip-permission.{name}", value) == ["web"], name
        assert await names(stage, f"egress.ip-permission.{name}", value) == [], name
    assert await names(stage, "egress.ip-permission.protocol", "-1") == ["default", "web"]
    assert await names(stage, "ip-permission.group-name", "default") == ["default"]
    assert await names(stage, "ip-permission.prefix-list-id", "*") == []


async def test_rules_are_found_by_id_by_group_and_in_pages(stage: Stage) -> None:
    web = await group(stage)
    made = {rule.security_group_rule_id for rule in await authorize(stage, web, ipv4(9))}

    async def found(**given: Any) -> tuple[list[str], str]:
        filters = [Filter(name="group-id", values=[value]) for value in given.pop("groups", [])]
        request = ec2.DescribeSecurityGroupRulesRequest(filters=filters, **given)
        answer = await stage.run("DescribeSecurityGroupRules", request)
        return [rule.security_group_rule_id for rule in answer.security_group_rules], answer.next_token

    of_web, _ = await found(groups=[web])
    assert made < set(of_web)
    assert (await found(groups=["sg-*"]))[0][-10:] == of_web
    one = sorted(made)[0]
    assert await found(security_group_rule_ids=[one]) == ([one], "")
    assert await found(security_group_rule_ids=[one], groups=["sg-0123456789abcdef0"]) == ([], "")
    first, token = await found(groups=[web], max_results=6)
    rest, end = await found(groups=[web], max_results=6, next_token=token)
    assert (first + rest, end) == (of_web, "")

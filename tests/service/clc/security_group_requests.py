"""Each action on security groups, with every member set."""

from __future__ import annotations

from typing import Any

from mallee.ec2.v1 import security_group_pb2
from tests.service.clc.making import Make, constantly, group, of, reads, tagged
from tests.service.clc.stage import Stage


def permission() -> security_group_pb2.IpPermission:
    return security_group_pb2.IpPermission(
        ip_protocol="tcp",
        from_port=22,
        to_port=22,
        ip_ranges=[security_group_pb2.IpRange(cidr_ip="0.0.0.0/0", description="all")],
        ipv6_ranges=[security_group_pb2.Ipv6Range(cidr_ipv6="::/0", description="all")],
    )


async def authorize(stage: Stage) -> Any:
    await group(stage)
    pair = security_group_pb2.UserIdGroupPair(
        group_name="web", user_id=stage.callers[0].account_id, description="each other"
    )
    by_group = security_group_pb2.IpPermission(ip_protocol="-1", user_id_group_pairs=[pair])
    return security_group_pb2.AuthorizeSecurityGroupIngressRequest(
        group_name="web",
        ip_permissions=[permission(), by_group],
        ip_protocol="udp",
        from_port=53,
        to_port=53,
        cidr_ip="10.0.0.0/8",
        tag_specifications=tagged("security-group-rule"),
    )


async def revoke(stage: Stage) -> Any:
    given = await authorize(stage)
    await stage.run("AuthorizeSecurityGroupIngress", given)
    return security_group_pb2.RevokeSecurityGroupIngressRequest(
        group_name="web",
        ip_permissions=given.ip_permissions,
        ip_protocol="udp",
        from_port=53,
        to_port=53,
        cidr_ip="10.0.0.0/8",
    )


def both_ways(stage: Stage) -> list[security_group_pb2.IpPermission]:
    pair = security_group_pb2.UserIdGroupPair(group_name="web", user_id=stage.callers[0].account_id, description="all")
    return [permission(), security_group_pb2.IpPermission(ip_protocol="-1", user_id_group_pairs=[pair])]


async def authorize_egress(stage: Stage) -> Any:
    return security_group_pb2.AuthorizeSecurityGroupEgressRequest(
        group_id=await group(stage),
        ip_permissions=both_ways(stage),
        tag_specifications=tagged("security-group-rule"),
    )


async def revoke_egress(stage: Stage) -> Any:
    given = await authorize_egress(stage)
    await stage.run("AuthorizeSecurityGroupEgress", given)
    return security_group_pb2.RevokeSecurityGroupEgressRequest(
        group_id=given.group_id, ip_permissions=given.ip_permissions
    )


async def modify_rules(stage: Stage) -> Any:
    made = await stage.run("AuthorizeSecurityGroupEgress", await authorize_egress(stage))
    rules = made.security_group_rules
    peers = ({"cidr_ipv4": "10.0.0.0/8"}, {"cidr_ipv6": "2001:db8::/32"}, {"referenced_group_id": rules[0].group_id})
    return security_group_pb2.ModifySecurityGroupRulesRequest(
        group_id=rules[0].group_id,
        security_group_rules=[
            security_group_pb2.SecurityGroupRuleUpdate(
                security_group_rule_id=rule.security_group_rule_id,
                security_group_rule=security_group_pb2.SecurityGroupRuleRequest(
                    ip_protocol="udp", from_port=53, to_port=53, description="changed", **peer
                ),
            )
            for rule, peer in zip(rules, peers, strict=True)
        ],
    )


async def update_descriptions(stage: Stage) -> Any:
    await stage.run("AuthorizeSecurityGroupIngress", await authorize(stage))
    return security_group_pb2.UpdateSecurityGroupRuleDescriptionsIngressRequest(
        group_name="web", ip_permissions=both_ways(stage)
    )


async def update_descriptions_by_id(stage: Stage) -> Any:
    made = await stage.run("AuthorizeSecurityGroupEgress", await authorize_egress(stage))
    return security_group_pb2.UpdateSecurityGroupRuleDescriptionsEgressRequest(
        group_id=made.security_group_rules[0].group_id,
        security_group_rule_descriptions=[
            security_group_pb2.SecurityGroupRuleDescription(
                security_group_rule_id=rule.security_group_rule_id, description="changed"
            )
            for rule in made.security_group_rules
        ],
    )


SECURITY_GROUPS: dict[str, Make] = {
    "CreateSecurityGroup": constantly(
        security_group_pb2.CreateSecurityGroupRequest(
            group_name="g", description="d", tag_specifications=tagged("security-group")
        )
    ),
    "DeleteSecurityGroup": of(group, security_group_pb2.DeleteSecurityGroupRequest(), "group_id"),
    "DescribeSecurityGroups": reads(security_group_pb2.DescribeSecurityGroupsRequest(), group_name="*"),
    "AuthorizeSecurityGroupIngress": authorize,
    "RevokeSecurityGroupIngress": revoke,
    "AuthorizeSecurityGroupEgress": authorize_egress,
    "RevokeSecurityGroupEgress": revoke_egress,
    "DescribeSecurityGroupRules": reads(security_group_pb2.DescribeSecurityGroupRulesRequest(), group_id="*"),
    "ModifySecurityGroupRules": modify_rules,
    "UpdateSecurityGroupRuleDescriptionsIngress": update_descriptions,
    "UpdateSecurityGroupRuleDescriptionsEgress": update_descriptions_by_id,
}

"""Rules of security groups by their ids, and those for what goes out, through EC2's clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud

SSH = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "ssh"}]}
ABSENT = "sgr-0123456789abcdef0"


@pytest.fixture(scope="module")
def ec2(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2", "rules")


@pytest.fixture
def web(ec2: Any) -> Iterator[str]:
    group = str(ec2.create_security_group(GroupName="web", Description="for tests")["GroupId"])
    yield group
    ec2.delete_security_group(GroupId=group)


def rules(ec2: Any, group: str, **more: Any) -> list[dict[str, Any]]:
    wanted = [{"Name": "group-id", "Values": [group]}]
    found: list[dict[str, Any]] = ec2.describe_security_group_rules(Filters=wanted, **more)["SecurityGroupRules"]
    return found


def test_what_goes_out_is_ruled_too(ec2: Any, web: str) -> None:
    (everything,) = rules(ec2, web)
    assert (everything["IsEgress"], everything["CidrIpv4"]) == (True, "0.0.0.0/0")
    gone = ec2.revoke_security_group_egress(
        GroupId=web, IpPermissions=[{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    )
    assert gone["RevokedSecurityGroupRules"][0]["SecurityGroupRuleId"] == everything["SecurityGroupRuleId"]
    made = ec2.authorize_security_group_egress(GroupId=web, IpPermissions=[SSH])
    (rule,) = made["SecurityGroupRules"]
    assert rule["IsEgress"] is True
    (group,) = ec2.describe_security_groups(GroupIds=[web])["SecurityGroups"]
    assert group["IpPermissions"] == []
    assert [p["FromPort"] for p in group["IpPermissionsEgress"]] == [22]
    with refused("InvalidPermission.Duplicate"):
        ec2.authorize_security_group_egress(GroupId=web, IpPermissions=[SSH])
    with refused("InvalidSecurityGroupRuleId.NotFound"):
        ec2.revoke_security_group_ingress(GroupId=web, SecurityGroupRuleIds=[rule["SecurityGroupRuleId"]])
    unknown = ec2.revoke_security_group_ingress(GroupId=web, IpPermissions=[SSH])["UnknownIpPermissions"]
    assert [(p["FromPort"], p["IpRanges"]) for p in unknown] == [(22, SSH["IpRanges"])]
    with refused("UnsupportedOperation"):
        ec2.authorize_security_group_egress(GroupId=web, IpProtocol="tcp", FromPort=1, ToPort=1, CidrIp="10.0.0.0/8")


def test_a_rule_keeps_its_id_while_it_changes(ec2: Any, web: str) -> None:
    (made,) = ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[SSH])["SecurityGroupRules"]
    rule_id = made["SecurityGroupRuleId"]
    ec2.create_tags(Resources=[rule_id, web], Tags=[{"Key": "k", "Value": "v"}])
    ec2.modify_security_group_rules(
        GroupId=web,
        SecurityGroupRules=[
            {
                "SecurityGroupRuleId": rule_id,
                "SecurityGroupRule": {
                    "IpProtocol": "udp",
                    "FromPort": 53,
                    "ToPort": 54,
                    "CidrIpv6": "2001:db8::/32",
                    "Description": "dns",
                },
            }
        ],
    )
    (rule,) = ec2.describe_security_group_rules(SecurityGroupRuleIds=[rule_id])["SecurityGroupRules"]
    assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("udp", 53, 54)
    assert (rule["CidrIpv6"], rule["Description"], "CidrIpv4" in rule) == ("2001:db8::/32", "dns", False)
    assert rule["Tags"] == [{"Key": "k", "Value": "v"}]
    tagged = ec2.describe_tags(Filters=[{"Name": "resource-type", "Values": ["security-group-rule"]}])["Tags"]
    assert [tag["ResourceId"] for tag in tagged] == [rule_id]
    found = ec2.describe_security_group_rules(Filters=[{"Name": "tag:k", "Values": ["v"]}])["SecurityGroupRules"]
    assert found == [rule]
    ec2.delete_tags(Resources=[rule_id])
    (rule,) = ec2.describe_security_group_rules(SecurityGroupRuleIds=[rule_id])["SecurityGroupRules"]
    assert rule["Tags"] == []


def test_descriptions_are_changed_by_meaning_and_by_id(ec2: Any, web: str) -> None:
    ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[SSH])
    renamed = SSH | {"IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "changed"}]}
    ec2.update_security_group_rule_descriptions_ingress(GroupName="web", IpPermissions=[renamed])
    assert [r["Description"] for r in rules(ec2, web) if not r["IsEgress"]] == ["changed"]
    (outside,) = [r for r in rules(ec2, web) if r["IsEgress"]]
    described = {"SecurityGroupRuleId": outside["SecurityGroupRuleId"], "Description": "out"}
    ec2.update_security_group_rule_descriptions_egress(GroupId=web, SecurityGroupRuleDescriptions=[described])
    assert [r["Description"] for r in rules(ec2, web) if r["IsEgress"]] == ["out"]
    with refused("InvalidSecurityGroupRuleId.NotFound"):
        ec2.update_security_group_rule_descriptions_ingress(GroupId=web, SecurityGroupRuleDescriptions=[described])
    with refused("MissingParameter"):
        ec2.update_security_group_rule_descriptions_ingress(GroupId=web)


def test_bad_changes_are_refused_and_change_nothing(ec2: Any, web: str) -> None:
    (made,) = ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[SSH])["SecurityGroupRules"]
    other = SSH | {"FromPort": 80, "ToPort": 80}
    ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[other])
    before = rules(ec2, web)
    tcp = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80}
    for rule_id, change, code in (
        (made["SecurityGroupRuleId"], tcp | {"CidrIpv4": "10.0.0.0/8"}, "InvalidPermission.Duplicate"),
        (made["SecurityGroupRuleId"], tcp | {"CidrIpv4": "10.0.0.0/33"}, "InvalidParameterValue"),
        (made["SecurityGroupRuleId"], tcp, "MissingParameter"),
        (
            made["SecurityGroupRuleId"],
            tcp | {"CidrIpv4": "1.0.0.0/8", "CidrIpv6": "::/0"},
            "InvalidParameterCombination",
        ),
        (made["SecurityGroupRuleId"], tcp | {"PrefixListId": "pl-1"}, "UnsupportedOperation"),
        (made["SecurityGroupRuleId"], tcp | {"ReferencedGroupId": "sg-0123456789abcdef0"}, "InvalidGroup.NotFound"),
        (ABSENT, tcp | {"CidrIpv4": "1.0.0.0/8"}, "InvalidSecurityGroupRuleId.NotFound"),
        ("nonsense", tcp | {"CidrIpv4": "1.0.0.0/8"}, "InvalidSecurityGroupRuleId.Malformed"),
    ):
        with refused(code):
            ec2.modify_security_group_rules(
                GroupId=web, SecurityGroupRules=[{"SecurityGroupRuleId": rule_id, "SecurityGroupRule": change}]
            )
    assert rules(ec2, web) == before


def test_a_group_has_a_limit_each_way(ec2: Any, web: str) -> None:
    ranges = [{"CidrIp": f"10.{number}.0.0/16"} for number in range(60)]
    ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[SSH | {"IpRanges": ranges}])
    with refused("RulesPerSecurityGroupLimitExceeded"):
        ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[SSH])
    ec2.authorize_security_group_egress(GroupId=web, IpPermissions=[SSH | {"IpRanges": ranges[:59]}])
    with refused("RulesPerSecurityGroupLimitExceeded"):
        ec2.authorize_security_group_egress(GroupId=web, IpPermissions=[SSH])
    pages = ec2.get_paginator("describe_security_group_rules").paginate(
        Filters=[{"Name": "group-id", "Values": [web]}], PaginationConfig={"PageSize": 50}
    )
    assert [len(page["SecurityGroupRules"]) for page in pages] == [50, 50, 20]


def test_rules_of_others_do_not_exist(ec2: Any, web: str, fake_cloud: RunningCloud) -> None:
    other = fake_cloud.client("ec2", "neighbour")
    (rule,) = rules(ec2, web)
    with refused("InvalidSecurityGroupRuleId.NotFound"):
        other.describe_security_group_rules(SecurityGroupRuleIds=[rule["SecurityGroupRuleId"]])
    with refused("InvalidSecurityGroupRuleId.NotFound"):
        other.create_tags(Resources=[rule["SecurityGroupRuleId"]], Tags=[{"Key": "a", "Value": "b"}])
    with refused("InvalidSecurityGroupRuleId.NotFound"):
        ec2.describe_security_group_rules(SecurityGroupRuleIds=[ABSENT])
    with refused("InvalidParameterValue", words="no-such"):
        ec2.describe_security_group_rules(Filters=[{"Name": "no-such", "Values": ["x"]}])

"""Security groups and their rules through EC2's clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.cloud.refusal import in_turn, refused
from tests.cloud_fixture import RunningCloud

SSH: Any = {
    "IpProtocol": "tcp",
    "FromPort": 22,
    "ToPort": 22,
    "IpRanges": [{"CidrIp": "0.0.0.0/0", "Description": "ssh"}],
}
ABSENT = "sg-0123456789abcdef0"


@pytest.fixture(scope="module")
def client(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2", "groups")


@pytest.fixture
def ec2(client: Any) -> Iterator[Any]:
    yield client
    left = [g for g in client.describe_security_groups()["SecurityGroups"] if g["GroupName"] != "default"]
    for group in left:
        if group["IpPermissions"]:
            client.revoke_security_group_ingress(GroupId=group["GroupId"], IpPermissions=group["IpPermissions"])
    for group in left:
        client.delete_security_group(GroupId=group["GroupId"])


@pytest.fixture
def web(ec2: Any) -> str:
    return str(ec2.create_security_group(GroupName="web", Description="for tests")["GroupId"])


def permissions(ec2: Any, group: str) -> Any:
    return ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]


def test_the_default_group_lets_its_members_in(ec2: Any, fake_cloud: RunningCloud) -> None:
    (group,) = ec2.describe_security_groups(GroupNames=["default"])["SecurityGroups"]
    assert group["Description"] == "default VPC security group"
    (inside,) = group["IpPermissions"]
    assert inside["IpProtocol"] == "-1"
    assert inside["UserIdGroupPairs"] == [
        {"GroupId": group["GroupId"], "UserId": fake_cloud.account("groups").account_id}
    ]
    (outside,) = group["IpPermissionsEgress"]
    assert outside["IpRanges"] == [{"CidrIp": "0.0.0.0/0"}]
    with refused("CannotDelete"):
        ec2.delete_security_group(GroupId=group["GroupId"])


def test_a_group_is_made_shown_and_deleted(ec2: Any) -> None:
    made = ec2.create_security_group(
        GroupName="named",
        Description="described",
        TagSpecifications=[{"ResourceType": "security-group", "Tags": [{"Key": "a", "Value": "b"}]}],
    )
    group = made["GroupId"]
    assert made["Tags"] == [{"Key": "a", "Value": "b"}]
    ec2.get_waiter("security_group_exists").wait(GroupNames=["named"])
    (shown,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert shown["GroupName"] == "named"
    assert shown["SecurityGroupArn"] == made["SecurityGroupArn"]
    assert shown["IpPermissions"] == []
    assert shown["IpPermissionsEgress"][0]["IpProtocol"] == "-1"
    assert ec2.delete_security_group(GroupName="named")["Return"] is True
    with refused("InvalidGroup.NotFound"):
        ec2.delete_security_group(GroupId=group)
    with refused("InvalidGroup.NotFound"):
        ec2.describe_security_groups(GroupIds=[group])


def test_bad_groups_are_refused(ec2: Any, web: str) -> None:
    for arguments, code in (
        ({"GroupName": "web", "Description": "again"}, "InvalidGroup.Duplicate"),
        ({"GroupName": "", "Description": "d"}, "MissingParameter"),
        ({"GroupName": "g", "Description": ""}, "MissingParameter"),
        ({"GroupName": "sg-mine", "Description": "d"}, "InvalidParameterValue"),
        ({"GroupName": "x" * 256, "Description": "d"}, "InvalidParameterValue"),
        ({"GroupName": "g", "Description": "d" * 256}, "InvalidParameterValue"),
        ({"GroupName": "größe", "Description": "d"}, "InvalidParameterValue"),
        ({"GroupName": "default", "Description": "d"}, "InvalidGroup.Reserved"),
        ({"GroupName": "g", "Description": "d", "VpcId": "vpc-0123456789abcdef0"}, "InvalidVpcID.NotFound"),
        ({"GroupName": "g", "Description": "d", "VpcId": "nonsense"}, "InvalidVpcID.Malformed"),
    ):
        with refused(code):
            ec2.create_security_group(**arguments)
    with refused("MissingParameter"):
        ec2.delete_security_group()
    with refused("InvalidGroupId.Malformed"):
        ec2.delete_security_group(GroupId="web")
    with refused("InvalidGroupId.Malformed"):
        ec2.describe_security_groups(GroupIds=["sg-XYZ"])
    with refused("InvalidGroup.NotFound", words="nobody"):
        ec2.describe_security_groups(GroupNames=["nobody"])


def test_rules_are_added_and_revoked(ec2: Any, web: str) -> None:
    made = ec2.authorize_security_group_ingress(
        GroupId=web,
        IpPermissions=[SSH],
        TagSpecifications=[{"ResourceType": "security-group-rule", "Tags": [{"Key": "k", "Value": "v"}]}],
    )
    assert made["Return"] is True
    (rule,) = made["SecurityGroupRules"]
    assert (rule["CidrIpv4"], rule["FromPort"], rule["IsEgress"]) == ("0.0.0.0/0", 22, False)
    assert rule["SecurityGroupRuleId"].startswith("sgr-")
    assert rule["Tags"] == [{"Key": "k", "Value": "v"}]
    (shown,) = permissions(ec2, web)
    assert shown["IpRanges"] == SSH["IpRanges"]
    with refused("InvalidPermission.Duplicate", words="peer: 0.0.0.0/0, TCP, from port: 22, to port: 22, ALLOW"):
        ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[SSH])
    gone = ec2.revoke_security_group_ingress(GroupId=web, IpPermissions=[SSH])
    assert gone["RevokedSecurityGroupRules"][0]["SecurityGroupRuleId"] == rule["SecurityGroupRuleId"]
    assert permissions(ec2, web) == []
    again = ec2.revoke_security_group_ingress(GroupId=web, IpPermissions=[SSH])
    assert (again["Return"], again["RevokedSecurityGroupRules"]) == (True, [])
    assert again["UnknownIpPermissions"][0]["IpRanges"] == [SSH["IpRanges"][0]]


def test_rules_are_revoked_by_id(ec2: Any, web: str) -> None:
    made = ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[SSH])
    rule = made["SecurityGroupRules"][0]["SecurityGroupRuleId"]
    ec2.revoke_security_group_ingress(GroupId=web, SecurityGroupRuleIds=[rule])
    assert permissions(ec2, web) == []
    with refused("InvalidSecurityGroupRuleId.NotFound"):
        ec2.revoke_security_group_ingress(GroupId=web, SecurityGroupRuleIds=[rule])
    with refused("InvalidSecurityGroupRuleId.Malformed"):
        ec2.revoke_security_group_ingress(GroupId=web, SecurityGroupRuleIds=["rule"])


def test_all_rules_of_a_request_are_added_or_none(ec2: Any, web: str) -> None:
    ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[SSH])
    other = SSH | {"FromPort": 80, "ToPort": 80}
    with refused("InvalidPermission.Duplicate"):
        ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[other, SSH])
    assert [p["FromPort"] for p in permissions(ec2, web)] == [22]
    with refused("InvalidParameterValue"):
        ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[other, other])


def test_the_older_flat_parameters_work(ec2: Any, web: str) -> None:
    flat = {"GroupName": "web", "IpProtocol": "udp", "FromPort": 53, "ToPort": 53, "CidrIp": "10.1.2.3/8"}
    ec2.authorize_security_group_ingress(**flat)
    (shown,) = permissions(ec2, web)
    assert shown["IpRanges"] == [{"CidrIp": "10.0.0.0/8"}]
    ec2.revoke_security_group_ingress(**flat)
    ec2.authorize_security_group_ingress(GroupId=web, SourceSecurityGroupName="web")
    shown = permissions(ec2, web)
    assert [p["IpProtocol"] for p in shown] == ["tcp", "udp", "icmp"]
    assert {p["UserIdGroupPairs"][0]["GroupId"] for p in shown} == {web}


def test_protocols_are_read_as_ec2_reads_them(ec2: Any, web: str) -> None:
    peers = {"IpRanges": [{"CidrIp": "192.0.2.0/24"}]}
    for given, shown in (
        ({"IpProtocol": "6", "FromPort": 1, "ToPort": 2}, ("tcp", 1, 2)),
        ({"IpProtocol": "UDP", "FromPort": 0, "ToPort": 65535}, ("udp", 0, 65535)),
        ({"IpProtocol": "icmp", "FromPort": -1, "ToPort": -1}, ("icmp", -1, -1)),
        ({"IpProtocol": "icmp", "FromPort": 8, "ToPort": 0}, ("icmp", 8, 0)),
        ({"IpProtocol": "50"}, ("50", None, None)),
        ({"IpProtocol": "-1", "FromPort": 5, "ToPort": 9}, ("-1", None, None)),
    ):
        permission = given | peers
        ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[permission])
        (found,) = permissions(ec2, web)
        assert (found["IpProtocol"], found.get("FromPort"), found.get("ToPort")) == shown
        ec2.revoke_security_group_ingress(GroupId=web, IpPermissions=[found])
        assert permissions(ec2, web) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"IpProtocol": "nonsense"}, "InvalidParameterValue"),
        ({"IpProtocol": "256"}, "InvalidParameterValue"),
        ({"IpProtocol": "²"}, "InvalidParameterValue"),
        ({"IpProtocol": "9" * 5000}, "InvalidParameterValue"),
        ({"IpProtocol": ""}, "MissingParameter"),
        ({"FromPort": 23}, "InvalidParameterValue"),
        ({"FromPort": -2}, "InvalidParameterValue"),
        ({"ToPort": 65536}, "InvalidParameterValue"),
        ({"IpRanges": [{"CidrIp": "1.2.3.4"}]}, "InvalidParameterValue"),
        ({"IpRanges": [{"CidrIp": "1.2.3.4/33"}]}, "InvalidParameterValue"),
        ({"IpRanges": [{"CidrIp": "10.0.0.0/255.0.0.0"}]}, "InvalidParameterValue"),
        ({"IpRanges": [{"CidrIp": "::/0"}]}, "InvalidParameterValue"),
        ({"IpRanges": [{"CidrIp": ""}]}, "InvalidParameterValue"),
        ({"IpRanges": [{"Description": "nobody"}]}, "InvalidParameterValue"),
        ({"IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "ü"}]}, "InvalidParameterValue"),
        ({"IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "x" * 256}]}, "InvalidParameterValue"),
        ({"IpRanges": [], "Ipv6Ranges": [{"CidrIpv6": "fe80::1%eth0/64"}]}, "InvalidParameterValue"),
        ({"IpRanges": []}, "MissingParameter"),
        ({"UserIdGroupPairs": [{"GroupId": ABSENT}]}, "InvalidGroup.NotFound"),
        ({"UserIdGroupPairs": [{"GroupId": "nonsense"}]}, "InvalidGroupId.Malformed"),
        ({"UserIdGroupPairs": [{"GroupName": "web", "UserId": "000000000000"}]}, "InvalidGroup.NotFound"),
        ({"PrefixListIds": [{"PrefixListId": "pl-0123456789abcdef0"}]}, "UnsupportedOperation"),
    ],
)
def test_a_bad_rule_is_refused(ec2: Any, web: str, change: dict[str, Any], code: str) -> None:
    with refused(code):
        ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[SSH | change])
    assert permissions(ec2, web) == []


def test_a_group_that_another_names_stays(ec2: Any, web: str) -> None:
    other = ec2.create_security_group(GroupName="other", Description="names web")["GroupId"]
    ec2.authorize_security_group_ingress(
        GroupId=other, IpPermissions=[{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": web}]}]
    )
    with refused("DependencyViolation", words=f"resource {web} has a dependent object"):
        ec2.delete_security_group(GroupId=web)


def test_groups_are_filtered_and_paged(ec2: Any, web: str) -> None:
    for number in range(6):
        ec2.create_security_group(GroupName=f"page-{number}", Description="paged")
    ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[SSH])

    def names(**filters: str) -> list[str]:
        wanted = [{"Name": name.replace("_", "-"), "Values": [value]} for name, value in filters.items()]
        return [g["GroupName"] for g in ec2.describe_security_groups(Filters=wanted)["SecurityGroups"]]

    assert names(group_name="page-*") == [f"page-{number}" for number in range(6)]
    assert names(**{"ip-permission.cidr": "0.0.0.0/0"}) == ["web"]
    assert names(**{"ip-permission.from-port": "22", "group_name": "web"}) == ["web"]
    pages = list(ec2.get_paginator("describe_security_groups").paginate(PaginationConfig={"PageSize": 5}))
    assert [len(page["SecurityGroups"]) for page in pages] == [5, 3]
    shown = [group["GroupId"] for page in pages for group in page["SecurityGroups"]]
    assert shown == [group["GroupId"] for group in ec2.describe_security_groups()["SecurityGroups"]]
    assert len(ec2.describe_security_groups(GroupIds=[web], GroupNames=["web"])["SecurityGroups"]) == 1
    # The token is good for this listing only: elsewhere it would hide what is there.
    token = pages[0]["NextToken"]
    for action, arguments, code in (
        ("describe_security_groups", {"GroupIds": [web]}, "InvalidNextToken"),
        ("describe_tags", {}, "InvalidNextToken"),
        ("describe_vpcs", {}, "InvalidNextToken"),
        ("describe_images", {}, "InvalidNextToken"),
        ("describe_instances", {}, "InvalidNextToken"),
        ("describe_instances", {"InstanceIds": ["i-0123456789abcdef0"]}, "InvalidParameterCombination"),
        ("describe_instance_status", {"InstanceIds": ["i-0123456789abcdef0"]}, "InvalidParameterCombination"),
    ):
        with refused(code):
            getattr(ec2, action)(NextToken=token, **arguments)


def test_accounts_do_not_touch_each_others_groups(ec2: Any, web: str, fake_cloud: RunningCloud) -> None:
    other = fake_cloud.client("ec2", "neighbour")
    calls = in_turn(
        lambda: other.describe_security_groups(GroupIds=[web]),
        lambda: other.delete_security_group(GroupId=web),
        lambda: other.authorize_security_group_ingress(GroupId=web, IpPermissions=[SSH]),
        lambda: other.create_tags(Resources=[web], Tags=[{"Key": "a", "Value": "b"}]),
    )
    for call in calls:
        with refused("InvalidGroup.NotFound"):
            call()


def test_the_resource_api_works(fake_cloud: RunningCloud) -> None:
    keys = fake_cloud.account("groups")
    ec2 = boto3.resource(
        "ec2",
        aws_access_key_id=keys.access_key_id,
        aws_secret_access_key=keys.secret_access_key,
        region_name="us-east-1",
        endpoint_url=fake_cloud.endpoint_url,
    )
    group = ec2.create_security_group(GroupName="resource", Description="made by a resource")
    group.authorize_ingress(IpPermissions=[SSH])
    group.reload()
    assert group.ip_permissions[0]["FromPort"] == 22
    group.create_tags(Tags=[{"Key": "a", "Value": "b"}])
    assert [g.id for g in ec2.security_groups.filter(Filters=[{"Name": "tag:a", "Values": ["b"]}])] == [group.id]
    group.delete()
    with pytest.raises(ClientError):
        group.reload()

"""Tags through EC2's clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud


@pytest.fixture(scope="module")
def ec2(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2", "tags")


@pytest.fixture
def group(ec2: Any) -> Iterator[str]:
    made = str(ec2.create_security_group(GroupName="tagged", Description="tagged")["GroupId"])
    yield made
    ec2.delete_security_group(GroupId=made)


def tags(ec2: Any, resource: str) -> dict[str, str]:
    found = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [resource]}])["Tags"]
    return {tag["Key"]: tag["Value"] for tag in found}


def test_tags_are_set_overwritten_and_taken_off(ec2: Any, group: str) -> None:
    ec2.create_tags(Resources=[group], Tags=[{"Key": "Name", "Value": "one"}, {"Key": "größe", "Value": "<&>\"'"}])
    assert tags(ec2, group) == {"Name": "one", "größe": "<&>\"'"}
    ec2.create_tags(Resources=[group], Tags=[{"Key": "Name", "Value": "two"}, {"Key": "name", "Value": ""}])
    assert tags(ec2, group) == {"Name": "two", "name": "", "größe": "<&>\"'"}
    ec2.delete_tags(Resources=[group], Tags=[{"Key": "Name", "Value": "not this"}, {"Key": "größe"}])
    assert tags(ec2, group) == {"Name": "two", "name": ""}
    ec2.delete_tags(Resources=[group], Tags=[{"Key": "Name", "Value": "two"}, {"Key": "absent"}])
    assert tags(ec2, group) == {"name": ""}
    ec2.delete_tags(Resources=[group])
    assert tags(ec2, group) == {}


def test_tags_of_many_resources_are_described_and_paged(ec2: Any, group: str) -> None:
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    ec2.create_tags(Resources=[group, vpc, subnet], Tags=[{"Key": f"k{n}", "Value": str(n)} for n in range(4)])
    pages = list(ec2.get_paginator("describe_tags").paginate(PaginationConfig={"PageSize": 5}))
    assert sum(len(page["Tags"]) for page in pages) == 12
    assert max(len(page["Tags"]) for page in pages) == 5
    of_vpcs = ec2.describe_tags(
        Filters=[{"Name": "resource-type", "Values": ["vpc"]}, {"Name": "key", "Values": ["k1", "k2"]}]
    )["Tags"]
    assert [(tag["ResourceId"], tag["Value"]) for tag in of_vpcs] == [(vpc, "1"), (vpc, "2")]
    assert {t["ResourceType"] for t in ec2.describe_tags()["Tags"]} == {"vpc", "subnet", "security-group"}
    assert ec2.describe_vpcs(Filters=[{"Name": "tag:k3", "Values": ["3"]}])["Vpcs"][0]["VpcId"] == vpc
    assert ec2.describe_subnets(Filters=[{"Name": "tag:k3", "Values": ["4"]}])["Subnets"] == []
    ec2.delete_tags(Resources=[group, vpc, subnet])


def test_bad_tags_are_refused_and_nothing_is_set(ec2: Any, group: str) -> None:
    good = {"Key": "a", "Value": "b"}
    for resources, given, code in (
        ([group, "sg-0123456789abcdef0"], [good], "InvalidGroup.NotFound"),
        ([group, "i-0123456789abcdef0"], [good], "InvalidInstanceID.NotFound"),
        ([group, "nonsense"], [good], "InvalidID"),
        ([group], [{"Key": "", "Value": "b"}], "InvalidParameterValue"),
        ([group], [{"Key": "k" * 129, "Value": "b"}], "InvalidParameterValue"),
        ([group], [{"Key": "k", "Value": "v" * 257}], "InvalidParameterValue"),
        ([group], [{"Key": "aws:mine", "Value": "b"}], "InvalidParameterValue"),
        ([group], [good, good], "InvalidParameterValue"),
        ([group], [{"Key": f"k{n}", "Value": ""} for n in range(51)], "TagLimitExceeded"),
        ([group], [], "InvalidParameterValue"),
        ([group], [{"Key": "k"}], "InvalidParameterValue"),
        ([], [good], "MissingParameter"),
    ):
        with refused(code):
            ec2.create_tags(Resources=resources, Tags=given)
    with refused("DryRunOperation", 412):
        ec2.create_tags(Resources=[group], Tags=[good], DryRun=True)
    assert tags(ec2, group) == {}


def test_the_longest_tags_and_the_most_are_kept(ec2: Any, group: str) -> None:
    given = [{"Key": f"{n:02}" + "ü" * 126, "Value": "😀" * 256} for n in range(50)]
    ec2.create_tags(Resources=[group], Tags=given)
    assert tags(ec2, group) == {tag["Key"]: tag["Value"] for tag in given}
    ec2.create_tags(Resources=[group], Tags=[{"Key": given[0]["Key"], "Value": "changed"}])
    with refused("TagLimitExceeded"):
        ec2.create_tags(Resources=[group], Tags=[{"Key": "more", "Value": ""}])


def test_a_filter_made_to_backtrack_is_answered_at_once(ec2: Any, group: str) -> None:
    ec2.create_tags(Resources=[group], Tags=[{"Key": "long", "Value": "a" * 256}])
    found = ec2.describe_tags(Filters=[{"Name": "value", "Values": ["*a" * 60 + "b"]}])
    assert found["Tags"] == []
    assert ec2.describe_tags(Filters=[{"Name": "value", "Values": ["*a" * 60]}])["Tags"]


def test_too_many_filter_values_are_refused(ec2: Any) -> None:
    with refused("FilterLimitExceeded"):
        ec2.describe_tags(Filters=[{"Name": "key", "Values": [str(n) for n in range(201)]}])

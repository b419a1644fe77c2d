"""Regions, zones, instance types, VPCs and subnets as EC2's clients see them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud


@pytest.fixture(scope="module")
def ec2(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2")


def test_the_region_is_described(ec2: Any, fake_cloud: RunningCloud) -> None:
    assert ec2.describe_regions()["Regions"] == [
        {
            "RegionName": "us-east-1",
            "Endpoint": fake_cloud.endpoint_url.removeprefix("http://"),
            "OptInStatus": "opt-in-not-required",
        }
    ]
    assert ec2.describe_regions(AllRegions=True, RegionNames=["us-east-1"])["Regions"]
    assert ec2.describe_regions(Filters=[{"Name": "region-name", "Values": ["eu-*"]}])["Regions"] == []
    with refused("InvalidParameterValue", words="nowhere-1"):
        ec2.describe_regions(RegionNames=["nowhere-1"])


def test_zones_are_described(ec2: Any) -> None:
    (zone,) = ec2.describe_availability_zones()["AvailabilityZones"]
    assert zone["ZoneName"] == "us-east-1a"
    assert zone["ZoneId"] == "use1-az1"
    assert zone["State"] == "available"
    assert zone["RegionName"] == "us-east-1"
    assert zone["ZoneType"] == "availability-zone"
    assert zone["Messages"] == []
    named = ec2.describe_availability_zones(
        ZoneIds=["use1-az1"], ZoneNames=["us-east-1a"], Filters=[{"Name": "state", "Values": ["available"]}]
    )
    assert named["AvailabilityZones"] == [zone]
    with refused("InvalidParameterValue", words="us-east-1z"):
        ec2.describe_availability_zones(ZoneNames=["us-east-1z"])


def test_instance_types_are_described_in_pages(ec2: Any) -> None:
    everything = ec2.describe_instance_types()["InstanceTypes"]
    by_name = {kind["InstanceType"]: kind for kind in everything}
    assert by_name["t2.nano"]["VCpuInfo"]["DefaultVCpus"] == 1
    assert by_name["t2.micro"]["MemoryInfo"]["SizeInMiB"] > 0
    assert by_name["t2.micro"]["ProcessorInfo"]["SupportedArchitectures"] == ["x86_64"]
    pages = list(ec2.get_paginator("describe_instance_types").paginate(PaginationConfig={"PageSize": 5}))
    assert [kind for page in pages for kind in page["InstanceTypes"]] == everything
    assert all(len(page["InstanceTypes"]) <= 5 for page in pages)
    (one,) = ec2.describe_instance_types(
        InstanceTypes=["t2.micro"], Filters=[{"Name": "instance-type", "Values": ["t2.*"]}]
    )["InstanceTypes"]
    assert one == by_name["t2.micro"]
    with refused("InvalidInstanceType", words="z9.huge"):
        ec2.describe_instance_types(InstanceTypes=["z9.huge"])


def test_an_account_has_a_default_vpc_with_a_subnet_in_each_zone(ec2: Any, fake_cloud: RunningCloud) -> None:
    (vpc,) = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    assert vpc["CidrBlock"] == "172.31.0.0/16"
    assert vpc["State"] == "available"
    assert vpc["OwnerId"] == fake_cloud.account().account_id
    assert vpc["CidrBlockAssociationSet"][0]["CidrBlockState"] == {"State": "associated"}
    (subnet,) = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}])["Subnets"]
    assert subnet["AvailabilityZone"] == "us-east-1a"
    assert subnet["AvailabilityZoneId"] == "use1-az1"
    assert subnet["DefaultForAz"] is True
    assert subnet["MapPublicIpOnLaunch"] is True
    assert subnet["CidrBlock"] == "172.31.0.0/20"
    assert subnet["SubnetArn"].endswith(f"{vpc['OwnerId']}:subnet/{subnet['SubnetId']}")
    assert ec2.describe_subnets(SubnetIds=[subnet["SubnetId"]])["Subnets"][0]["VpcId"] == vpc["VpcId"]
    ec2.get_waiter("vpc_available").wait(VpcIds=[vpc["VpcId"]])
    ec2.get_waiter("vpc_exists").wait(VpcIds=[vpc["VpcId"]])
    ec2.get_waiter("subnet_available").wait(SubnetIds=[subnet["SubnetId"]])


def test_vpcs_and_subnets_that_are_not_there_are_refused(ec2: Any, fake_cloud: RunningCloud) -> None:
    with refused("InvalidVpcID.NotFound", words="The vpc ID 'vpc-0123456789abcdef0' does not exist"):
        ec2.describe_vpcs(VpcIds=["vpc-0123456789abcdef0"])
    with refused("InvalidVpcID.Malformed"):
        ec2.describe_vpcs(VpcIds=["vpc-zzz"])
    with refused("InvalidSubnetID.NotFound", words="subnet-0123456789abcdef0"):
        ec2.describe_subnets(SubnetIds=["subnet-0123456789abcdef0"])
    with refused("InvalidSubnetID.Malformed"):
        ec2.describe_subnets(SubnetIds=["vpc-0123456789abcdef0"])
    foreign = fake_cloud.client("ec2", "neighbour").describe_vpcs()["Vpcs"][0]["VpcId"]
    with refused("InvalidVpcID.NotFound", words=foreign):
        ec2.describe_vpcs(VpcIds=[foreign])


@pytest.mark.parametrize(
    "action",
    [
        "describe_regions",
        "describe_availability_zones",
        "describe_instance_types",
        "describe_key_pairs",
        "describe_images",
        "describe_security_groups",
        "describe_instances",
        "describe_tags",
        "describe_vpcs",
        "describe_subnets",
    ],
)
def test_an_unknown_filter_is_an_error(ec2: Any, action: str) -> None:
    with refused("InvalidParameterValue", words="The filter 'no-such-filter' is invalid"):
        getattr(ec2, action)(Filters=[{"Name": "no-such-filter", "Values": ["x"]}])


@pytest.mark.parametrize(
    "action", ["describe_regions", "describe_key_pairs", "describe_instances", "describe_vpcs", "describe_images"]
)
def test_a_dry_run_says_that_it_would_have_worked(ec2: Any, action: str) -> None:
    with refused("DryRunOperation", 412, words="Request would have succeeded, but DryRun flag is set."):
        getattr(ec2, action)(DryRun=True)


@pytest.mark.parametrize("page_size", [0, 1, 4, -5])
@pytest.mark.parametrize("action", ["describe_instances", "describe_security_groups", "describe_vpcs", "describe_tags"])
def test_pages_have_a_least_size(fake_cloud: RunningCloud, action: str, page_size: int) -> None:
    ec2 = fake_cloud.client("ec2", parameter_validation=False)
    with refused("InvalidParameterValue", words="maxResults"):
        getattr(ec2, action)(MaxResults=page_size)


@pytest.mark.parametrize("action", ["describe_instances", "describe_security_groups", "describe_vpcs"])
def test_pages_have_a_greatest_size(fake_cloud: RunningCloud, action: str) -> None:
    ec2 = fake_cloud.client("ec2", parameter_validation=False)
    with refused("InvalidParameterValue", words="maxResults"):
        getattr(ec2, action)(MaxResults=1001)


def test_a_page_of_tags_holds_a_thousand_however_many_are_asked_for(ec2: Any) -> None:
    assert len(ec2.describe_tags(MaxResults=1001)["Tags"]) <= 1000


@pytest.mark.parametrize("token", ["nonsense", "ünsinn", "a" * 5000, "MQ", " "])
@pytest.mark.parametrize("action", ["describe_instances", "describe_security_groups", "describe_images"])
def test_a_made_up_token_is_refused(ec2: Any, action: str, token: str) -> None:
    with refused("InvalidNextToken"):
        getattr(ec2, action)(NextToken=token)

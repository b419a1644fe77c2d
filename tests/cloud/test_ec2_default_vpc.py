"""What clients read of the default VPC, and of the account, before they do anything else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud

DIGITS = "0123456789abcdef0"


@pytest.fixture(scope="module")
def ec2(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2", "places")


@pytest.fixture(scope="module")
def vpc(ec2: Any) -> Any:
    return ec2.describe_vpcs()["Vpcs"][0]


def of(vpc: Any, name: str = "vpc-id") -> list[dict[str, Any]]:
    return [{"Name": name, "Values": [vpc["VpcId"]]}]


def test_the_main_route_table_leads_out(ec2: Any, vpc: Any) -> None:
    (gateway,) = ec2.describe_internet_gateways(Filters=of(vpc, "attachment.vpc-id"))["InternetGateways"]
    assert gateway["Attachments"] == [{"State": "available", "VpcId": vpc["VpcId"]}]
    (table,) = ec2.describe_route_tables(Filters=of(vpc))["RouteTables"]
    assert table["Associations"][0]["Main"] is True
    assert [(r["DestinationCidrBlock"], r["GatewayId"], r["State"]) for r in table["Routes"]] == [
        (vpc["CidrBlock"], "local", "active"),
        ("0.0.0.0/0", gateway["InternetGatewayId"], "active"),
    ]
    main = [{"Name": "association.main", "Values": ["true"]}]
    assert ec2.describe_route_tables(RouteTableIds=[table["RouteTableId"]], Filters=main)["RouteTables"] == [table]
    assert ec2.describe_internet_gateways(InternetGatewayIds=[gateway["InternetGatewayId"]])["InternetGateways"]


def test_the_default_acl_lets_everything_through(ec2: Any, vpc: Any) -> None:
    (acl,) = ec2.describe_network_acls(Filters=[*of(vpc), {"Name": "default", "Values": ["true"]}])["NetworkAcls"]
    subnets = [s["SubnetId"] for s in ec2.describe_subnets(Filters=of(vpc))["Subnets"]]
    assert [a["SubnetId"] for a in acl["Associations"]] == subnets
    assert {(e["Egress"], e["RuleNumber"], e["RuleAction"]) for e in acl["Entries"]} == {
        (egress, number, action) for egress in (True, False) for number, action in ((100, "allow"), (32767, "deny"))
    }


def test_names_are_found_as_the_options_say(ec2: Any, vpc: Any) -> None:
    (options,) = ec2.describe_dhcp_options(DhcpOptionsIds=[vpc["DhcpOptionsId"]])["DhcpOptions"]
    assert {c["Key"]: c["Values"][0]["Value"] for c in options["DhcpConfigurations"]} == {
        "domain-name": "ec2.internal",
        "domain-name-servers": "AmazonProvidedDNS",
    }

    def attribute(name: str) -> Any:
        return ec2.describe_vpc_attribute(VpcId=vpc["VpcId"], Attribute=name)

    assert attribute("enableDnsSupport")["EnableDnsSupport"] == {"Value": True}
    assert attribute("enableDnsHostnames")["EnableDnsHostnames"] == {"Value": False}
    for arguments, code in (
        ({"VpcId": vpc["VpcId"], "Attribute": "enableMagic"}, "InvalidParameterValue"),
        ({"VpcId": f"vpc-{DIGITS}", "Attribute": "enableDnsSupport"}, "InvalidVpcID.NotFound"),
    ):
        with refused(code):
            ec2.describe_vpc_attribute(**arguments)


def test_what_is_not_there_is_refused(ec2: Any) -> None:
    for action, arguments, code in (
        ("describe_route_tables", {"RouteTableIds": [f"rtb-{DIGITS}"]}, "InvalidRouteTableID.NotFound"),
        ("describe_route_tables", {"RouteTableIds": ["igw-1"]}, "InvalidRouteTableId.Malformed"),
        ("describe_internet_gateways", {"InternetGatewayIds": [f"igw-{DIGITS}"]}, "InvalidInternetGatewayID.NotFound"),
        ("describe_network_acls", {"NetworkAclIds": [f"acl-{DIGITS}"]}, "InvalidNetworkAclID.NotFound"),
        ("describe_dhcp_options", {"DhcpOptionsIds": [f"dopt-{DIGITS}"]}, "InvalidDhcpOptionID.NotFound"),
        (
            "describe_network_interfaces",
            {"NetworkInterfaceIds": [f"eni-{DIGITS}"]},
            "InvalidNetworkInterfaceID.NotFound",
        ),
        ("describe_volumes", {"VolumeIds": [f"vol-{DIGITS}"]}, "InvalidVolume.NotFound"),
        ("describe_volumes", {"VolumeIds": ["vol"]}, "InvalidParameterValue"),
        ("describe_snapshots", {"SnapshotIds": [f"snap-{DIGITS}"]}, "InvalidSnapshot.NotFound"),
        ("describe_snapshots", {"OwnerIds": ["nobody"]}, "InvalidUserID.Malformed"),
        ("describe_prefix_lists", {"PrefixListIds": [f"pl-{DIGITS}"]}, "InvalidPrefixListId.NotFound"),
        ("describe_account_attributes", {"AttributeNames": ["supported-wishes"]}, "InvalidParameterValue"),
        ("describe_instance_type_offerings", {"LocationType": "moon"}, "InvalidParameterValue"),
    ):
        with refused(code):
            getattr(ec2, action)(**arguments)


def test_there_are_no_volumes_snapshots_and_prefix_lists_yet(ec2: Any) -> None:
    assert ec2.describe_volumes(Filters=[{"Name": "status", "Values": ["available"]}])["Volumes"] == []
    assert ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"] == []
    assert ec2.describe_prefix_lists()["PrefixLists"] == []


@pytest.mark.parametrize(
    "action",
    [
        "describe_route_tables",
        "describe_internet_gateways",
        "describe_network_acls",
        "describe_dhcp_options",
        "describe_network_interfaces",
        "describe_volumes",
        "describe_snapshots",
        "describe_prefix_lists",
        "describe_instance_type_offerings",
        "describe_instance_credit_specifications",
    ],
)
def test_an_unknown_filter_is_an_error(ec2: Any, action: str) -> None:
    with refused("InvalidParameterValue", words="The filter 'no-such-filter' is invalid"):
        getattr(ec2, action)(Filters=[{"Name": "no-such-filter", "Values": ["x"]}])
    with refused("DryRunOperation", 412):
        getattr(ec2, action)(DryRun=True)


def test_an_account_says_what_holds_for_it(ec2: Any, vpc: Any) -> None:
    shown = ec2.describe_account_attributes(AttributeNames=["default-vpc", "supported-platforms"])["AccountAttributes"]
    assert {a["AttributeName"]: a["AttributeValues"][0]["AttributeValue"] for a in shown} == {
        "default-vpc": vpc["VpcId"],
        "supported-platforms": "VPC",
    }


def test_every_zone_offers_every_type(ec2: Any) -> None:
    wanted = [{"Name": "instance-type", "Values": ["t2.micro"]}]
    for kind, location in (("region", "us-east-1"), ("availability-zone", "us-east-1a"), (None, "us-east-1")):
        arguments = {"LocationType": kind} if kind else {}
        assert ec2.describe_instance_type_offerings(Filters=wanted, **arguments)["InstanceTypeOfferings"] == [
            {"InstanceType": "t2.micro", "LocationType": kind or "region", "Location": location}
        ]


def test_parts_of_a_vpc_are_tagged_as_themselves(ec2: Any, vpc: Any) -> None:
    digits = vpc["VpcId"].removeprefix("vpc-")
    ids = [f"rtb-{digits}", f"igw-{digits}", f"acl-{digits}", vpc["DhcpOptionsId"]]
    for number, resource in enumerate(ids):
        ec2.create_tags(Resources=[resource], Tags=[{"Key": "number", "Value": str(number)}])
    tagged = ec2.describe_tags(Filters=[{"Name": "key", "Values": ["number"]}])["Tags"]
    assert {t["ResourceId"]: t["Value"] for t in tagged} == {i: str(n) for n, i in enumerate(ids)}
    assert {t["ResourceType"] for t in tagged} == {"route-table", "internet-gateway", "network-acl", "dhcp-options"}
    (table,) = ec2.describe_route_tables(Filters=[{"Name": "tag:number", "Values": ["0"]}])["RouteTables"]
    assert table["RouteTableId"] == ids[0]
    ec2.delete_tags(Resources=ids)
    assert ec2.describe_tags(Filters=[{"Name": "key", "Values": ["number"]}])["Tags"] == []


@pytest.fixture
def instance(fake_cloud: RunningCloud) -> Iterator[Any]:
    owner = fake_cloud.client("ec2")
    tags = {"ResourceType": "network-interface", "Tags": [{"Key": "a", "Value": "b"}]}
    made = owner.run_instances(ImageId=fake_cloud.image_id, MinCount=1, MaxCount=1, TagSpecifications=[tags])
    yield made["Instances"][0]
    owner.terminate_instances(InstanceIds=[made["Instances"][0]["InstanceId"]])


def test_an_instances_interface_is_shown_by_itself(fake_cloud: RunningCloud, instance: Any) -> None:
    owner = fake_cloud.client("ec2")
    given = instance["NetworkInterfaces"][0]
    for name, value in (
        ("attachment.instance-id", instance["InstanceId"]),
        ("addresses.private-ip-address", instance["PrivateIpAddress"]),
        ("mac-address", given["MacAddress"]),
        ("network-interface-id", given["NetworkInterfaceId"]),
    ):
        filters = [{"Name": name, "Values": [value]}, {"Name": "tag:a", "Values": ["b"]}]
        (shown,) = owner.describe_network_interfaces(Filters=filters)["NetworkInterfaces"]
        assert shown["NetworkInterfaceId"] == given["NetworkInterfaceId"]
    assert shown["Association"]["PublicIp"] == instance["PublicIpAddress"]
    assert shown["Attachment"]["InstanceId"] == instance["InstanceId"]
    assert (shown["Status"], shown["AvailabilityZone"]) == ("in-use", "us-east-1a")
    assert shown["TagSet"] == [{"Key": "a", "Value": "b"}]
    named = owner.describe_instance_credit_specifications(InstanceIds=[instance["InstanceId"]])
    assert named["InstanceCreditSpecifications"] == [{"InstanceId": instance["InstanceId"], "CpuCredits": "unlimited"}]
    other = fake_cloud.client("ec2", "neighbour")
    with refused("InvalidNetworkInterfaceID.NotFound"):
        other.describe_network_interfaces(NetworkInterfaceIds=[given["NetworkInterfaceId"]])


def test_an_interface_takes_other_groups_and_words(fake_cloud: RunningCloud, instance: Any) -> None:
    owner, given = fake_cloud.client("ec2"), instance["NetworkInterfaces"][0]
    interface = {"NetworkInterfaceId": given["NetworkInterfaceId"]}
    web = owner.create_security_group(GroupName="interface", Description="for tests")["GroupId"]
    owner.modify_network_interface_attribute(**interface, Groups=[web])
    owner.modify_network_interface_attribute(**interface, Description={"Value": "front"})
    owner.modify_network_interface_attribute(**interface, SourceDestCheck={"Value": False})
    attachment = {"AttachmentId": given["Attachment"]["AttachmentId"], "DeleteOnTermination": True}
    owner.modify_network_interface_attribute(**interface, Attachment=attachment)
    (shown,) = owner.describe_network_interfaces(NetworkInterfaceIds=[given["NetworkInterfaceId"]])["NetworkInterfaces"]
    told = {
        name: owner.describe_network_interface_attribute(**interface, Attribute=name)
        for name in ("groupSet", "description", "sourceDestCheck", "attachment")
    }
    assert [group["GroupId"] for group in shown["Groups"]] == [web]
    assert (shown["Description"], shown["SourceDestCheck"]) == ("front", False)
    assert told["groupSet"]["Groups"] == shown["Groups"]
    assert told["description"]["Description"] == {"Value": "front"}
    assert told["sourceDestCheck"]["SourceDestCheck"] == {"Value": False}
    assert told["attachment"]["Attachment"] == shown["Attachment"]
    with refused("InvalidAttachmentID.NotFound"):
        elsewhere = {"AttachmentId": "eni-attach-0123456789abcdef0", "DeleteOnTermination": True}
        owner.modify_network_interface_attribute(**interface, Attachment=elsewhere)
    with refused("InvalidNetworkInterfaceID.NotFound"):
        fake_cloud.client("ec2", "neighbour").modify_network_interface_attribute(**interface, Groups=[web])
    owner.modify_network_interface_attribute(**interface, Groups=[group["GroupId"] for group in given["Groups"]])
    owner.delete_security_group(GroupId=web)

"""Elastic addresses through EC2's clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud

FAST: Any = {"Delay": 1, "MaxAttempts": 60}
ABSENT = "eipalloc-0123456789abcdef0"


@pytest.fixture(scope="module")
def client(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2")


@pytest.fixture
def ec2(client: Any) -> Iterator[Any]:
    yield client
    for address in client.describe_addresses()["Addresses"]:
        if "AssociationId" in address:
            client.disassociate_address(AssociationId=address["AssociationId"])
        client.release_address(AllocationId=address["AllocationId"])


@pytest.fixture(scope="module")
def two(client: Any, fake_cloud: RunningCloud) -> Iterator[list[str]]:
    made = client.run_instances(ImageId=fake_cloud.image_id, InstanceType="t2.nano", MinCount=2, MaxCount=2)
    ids = [instance["InstanceId"] for instance in made["Instances"]]
    client.get_waiter("instance_running").wait(InstanceIds=ids, WaiterConfig=FAST)
    yield ids
    client.terminate_instances(InstanceIds=ids)
    client.get_waiter("instance_terminated").wait(InstanceIds=ids, WaiterConfig=FAST)


def instance(ec2: Any, instance_id: str) -> Any:
    return ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]


def public_ip(ec2: Any, instance_id: str) -> Any:
    return instance(ec2, instance_id).get("PublicIpAddress")


def test_an_address_is_allocated_shown_and_released(ec2: Any) -> None:
    tags = {"ResourceType": "elastic-ip", "Tags": [{"Key": "a", "Value": "b"}]}
    made = ec2.allocate_address(Domain="vpc", TagSpecifications=[tags])
    assert (made["Domain"], made["PublicIpv4Pool"], made["NetworkBorderGroup"]) == ("vpc", "amazon", "us-east-1")
    (shown,) = ec2.describe_addresses(Filters=[{"Name": "tag:a", "Values": ["b"]}])["Addresses"]
    assert (shown["PublicIp"], shown["AllocationId"]) == (made["PublicIp"], made["AllocationId"])
    assert "AssociationId" not in shown
    assert ec2.describe_addresses(PublicIps=[made["PublicIp"]])["Addresses"] == [shown]
    assert ec2.describe_addresses(AllocationIds=[made["AllocationId"]])["Addresses"] == [shown]
    (attribute,) = ec2.describe_addresses_attribute(Attribute="domain-name")["Addresses"]
    assert attribute == {"PublicIp": made["PublicIp"], "AllocationId": made["AllocationId"]}
    with refused("InvalidAddress.NotFound"):
        ec2.allocate_address(Address=made["PublicIp"])
    ec2.release_address(AllocationId=made["AllocationId"])
    again = ec2.allocate_address(Address=made["PublicIp"])
    assert again["PublicIp"] == made["PublicIp"]
    with refused("InvalidAllocationID.NotFound", words=made["AllocationId"]):
        ec2.release_address(AllocationId=made["AllocationId"])


def test_an_address_moves_from_one_instance_to_another(ec2: Any, two: list[str]) -> None:
    first, second = two
    address = ec2.allocate_address()
    allocation, ip = address["AllocationId"], address["PublicIp"]
    association = ec2.associate_address(AllocationId=allocation, InstanceId=first)["AssociationId"]
    assert ec2.associate_address(AllocationId=allocation, InstanceId=first)["AssociationId"] == association
    shown = instance(ec2, first)
    assert shown["PublicIpAddress"] == ip
    assert shown["NetworkInterfaces"][0]["Association"]["IpOwnerId"] == shown["NetworkInterfaces"][0]["OwnerId"]
    (interface,) = ec2.describe_network_interfaces(
        Filters=[{"Name": "association.allocation-id", "Values": [allocation]}]
    )["NetworkInterfaces"]
    assert interface["Association"]["AssociationId"] == association
    (held,) = ec2.describe_addresses(Filters=[{"Name": "instance-id", "Values": [first]}])["Addresses"]
    assert held["PrivateIpAddress"] == shown["PrivateIpAddress"]
    with refused("InvalidIPAddress.InUse"):
        ec2.release_address(AllocationId=allocation)
    with refused("Resource.AlreadyAssociated", words=association):
        ec2.associate_address(AllocationId=allocation, InstanceId=second, AllowReassociation=False)
    other = instance(ec2, second)["NetworkInterfaces"][0]
    moved = ec2.associate_address(
        PublicIp=ip, NetworkInterfaceId=other["NetworkInterfaceId"], PrivateIpAddress=other["PrivateIpAddress"]
    )
    # The one that lost it has an address of the pool again, as it was launched with one.
    assert public_ip(ec2, first) not in (None, ip)
    assert public_ip(ec2, second) == ip
    with refused("InvalidAssociationID.NotFound"):
        ec2.disassociate_address(AssociationId=association)
    replacement = ec2.allocate_address()
    ec2.associate_address(AllocationId=replacement["AllocationId"], InstanceId=second)
    assert public_ip(ec2, second) == replacement["PublicIp"]
    with refused("InvalidAssociationID.NotFound"):
        ec2.disassociate_address(AssociationId=moved["AssociationId"])
    for _ in range(2):
        ec2.disassociate_address(PublicIp=replacement["PublicIp"])
    assert public_ip(ec2, second) not in (None, replacement["PublicIp"], ip)
    assert instance(ec2, second)["NetworkInterfaces"][0]["Association"]["IpOwnerId"] == "amazon"


def test_the_address_of_the_launch_is_given_back(ec2: Any, fake_cloud: RunningCloud) -> None:
    made = ec2.run_instances(ImageId=fake_cloud.image_id, InstanceType="t2.nano", MinCount=1, MaxCount=1)
    instance_id, launched_with = made["Instances"][0]["InstanceId"], made["Instances"][0]["PublicIpAddress"]
    address = ec2.allocate_address()
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance_id], WaiterConfig=FAST)
    ec2.associate_address(AllocationId=address["AllocationId"], InstanceId=instance_id)
    assert ec2.allocate_address(Address=launched_with)["PublicIp"] == launched_with
    ec2.terminate_instances(InstanceIds=[instance_id])
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[instance_id], WaiterConfig=FAST)
    (kept,) = ec2.describe_addresses(AllocationIds=[address["AllocationId"]])["Addresses"]
    assert "AssociationId" not in kept
    assert "InstanceId" not in kept


def test_what_cannot_be_is_refused(ec2: Any, two: list[str]) -> None:
    address = ec2.allocate_address()["AllocationId"]
    for action, arguments, code in (
        ("allocate_address", {"Domain": "standard"}, "UnsupportedOperation"),
        ("allocate_address", {"Address": "192.0.2.1"}, "InvalidAddress.NotFound"),
        ("allocate_address", {"Address": "nonsense"}, "InvalidParameterValue"),
        ("allocate_address", {"NetworkBorderGroup": "moon"}, "InvalidParameterValue"),
        ("associate_address", {"AllocationId": address}, "MissingParameter"),
        ("associate_address", {"InstanceId": two[0]}, "MissingParameter"),
        ("associate_address", {"AllocationId": ABSENT, "InstanceId": two[0]}, "InvalidAllocationID.NotFound"),
        (
            "associate_address",
            {"AllocationId": address, "InstanceId": two[0], "NetworkInterfaceId": "eni-0123456789abcdef0"},
            "InvalidParameterCombination",
        ),
        (
            "associate_address",
            {"AllocationId": address, "NetworkInterfaceId": "eni-0123456789abcdef0"},
            "InvalidNetworkInterfaceID.NotFound",
        ),
        (
            "associate_address",
            {"AllocationId": address, "InstanceId": two[0], "PrivateIpAddress": "172.31.0.250"},
            "InvalidParameterValue",
        ),
        ("disassociate_address", {}, "MissingParameter"),
        ("disassociate_address", {"AssociationId": "eipassoc-0123456789abcdef0"}, "InvalidAssociationID.NotFound"),
        ("release_address", {}, "MissingParameter"),
        ("release_address", {"PublicIp": "nonsense"}, "InvalidParameterValue"),
        ("describe_addresses", {"AllocationIds": [ABSENT]}, "InvalidAllocationID.NotFound"),
        ("describe_addresses", {"PublicIps": ["192.0.2.1"]}, "InvalidAddress.NotFound"),
        ("describe_addresses", {"Filters": [{"Name": "no-such", "Values": ["x"]}]}, "InvalidParameterValue"),
        ("describe_addresses_attribute", {"Attribute": "colour"}, "InvalidParameterValue"),
    ):
        with refused(code):
            getattr(ec2, action)(**arguments)
    with refused("AuthFailure", 401, words="does not belong to you"):
        ec2.associate_address(PublicIp="192.0.2.1", InstanceId=two[0])


def test_an_account_has_a_limit_and_its_own_addresses(ec2: Any, fake_cloud: RunningCloud) -> None:
    limit = fake_cloud.config.clc.addresses_per_account
    made = [ec2.allocate_address() for _ in range(limit)]
    with refused("AddressLimitExceeded"):
        ec2.allocate_address()
    other = fake_cloud.client("ec2", "neighbour")
    assert other.describe_addresses()["Addresses"] == []
    with refused("InvalidAllocationID.NotFound"):
        other.release_address(AllocationId=made[0]["AllocationId"])
    with refused("AuthFailure", 401, words=made[0]["PublicIp"]):
        other.release_address(PublicIp=made[0]["PublicIp"])
    with refused("InvalidAddress.NotFound"):
        other.describe_addresses(PublicIps=[made[0]["PublicIp"]])
    assert len({address["PublicIp"] for address in made}) == limit

"""The interface of a launch, told by the request's own members or whole."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import CloudError
from mallee.ec2.v1 import instance_pb2 as ec2
from services.clc.instance.interface import WantedInterface, interface_of

Specification = ec2.InstanceNetworkInterfaceSpecification
Address = ec2.PrivateIpAddressSpecification


def wanted(*interfaces: ec2.InstanceNetworkInterfaceSpecification, **more: Any) -> WantedInterface:
    return interface_of(ec2.RunInstancesRequest(network_interfaces=interfaces, **more), "t2.micro")


def test_members_of_the_request_and_of_an_interface_say_the_same() -> None:
    by_members = wanted(subnet_id="subnet-1", security_group_ids=["sg-1"], private_ip_address="10.0.0.5")
    whole = Specification(device_index=0, subnet_id="subnet-1", groups=["sg-1"], private_ip_address="10.0.0.5")
    assert wanted(whole) == by_members


def test_a_public_address_is_wanted_unwanted_or_the_subnets_choice() -> None:
    assert wanted(Specification(device_index=0)).public is None
    assert wanted(Specification(device_index=0, associate_public_ip_address=False)).public is False
    assert wanted(Specification(device_index=0, associate_public_ip_address=True)).public is True


def test_the_primary_address_may_stand_in_a_list() -> None:
    listed = [Address(primary=True, private_ip_address="10.0.0.5")]
    assert wanted(Specification(device_index=0, private_ip_addresses=listed)).private_ipv4 == "10.0.0.5"


@pytest.mark.parametrize(
    ("interfaces", "more", "code"),
    [
        ([Specification()], {}, "InvalidParameterValue"),
        ([Specification(device_index=1)], {}, "InvalidParameterCombination"),
        ([Specification(device_index=0), Specification(device_index=1)], {}, "AttachmentLimitExceeded"),
        ([Specification(device_index=0)], {"subnet_id": "subnet-1"}, "InvalidParameterCombination"),
        ([Specification(device_index=0)], {"security_groups": ["web"]}, "InvalidParameterCombination"),
        (
            [Specification(device_index=0, private_ip_address="a", private_ip_addresses=[Address(primary=True)])],
            {},
            "InvalidParameterCombination",
        ),
        ([Specification(device_index=0, private_ip_addresses=[Address(primary=True)])], {}, "MissingParameter"),
        ([Specification(device_index=0, private_ip_addresses=[Address()])], {}, "UnsupportedOperation"),
    ],
)
def test_contradictions_are_refused(interfaces: list[Any], more: dict[str, Any], code: str) -> None:
    with pytest.raises(CloudError) as caught:
        wanted(*interfaces, **more)
    assert caught.value.code == code

"""Metadata options through EC2's clients; how guests are answered is tested where guests are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cloud.refusal import in_turn, refused
from tests.cloud_fixture import RunningCloud
from tests.eventually import until


@pytest.fixture(scope="module")
def ec2(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2")


@pytest.fixture(scope="module")
def instance(ec2: Any, fake_cloud: RunningCloud) -> Iterator[str]:
    made = ec2.run_instances(ImageId=fake_cloud.image_id, MinCount=1, MaxCount=1)["Instances"][0]
    assert made["MetadataOptions"]["State"] == "pending"
    ec2.get_waiter("instance_running").wait(InstanceIds=[made["InstanceId"]], WaiterConfig={"Delay": 1})
    yield made["InstanceId"]
    ec2.terminate_instances(InstanceIds=[made["InstanceId"]])


def options_of(ec2: Any, instance: str) -> Any:
    return ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]["MetadataOptions"]


def test_each_option_changes_alone_and_is_applied_by_the_node(ec2: Any, instance: str) -> None:
    expected = {
        "State": "applied",
        "HttpTokens": "optional",
        "HttpPutResponseHopLimit": 1,
        "HttpEndpoint": "enabled",
        "HttpProtocolIpv6": "disabled",
        "InstanceMetadataTags": "disabled",
    }
    assert options_of(ec2, instance) == expected
    for name, value in {
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 64,
        "HttpEndpoint": "disabled",
        "InstanceMetadataTags": "enabled",
    }.items():
        answer = ec2.modify_instance_metadata_options(InstanceId=instance, **{name: value})
        expected[name] = value
        assert answer["InstanceId"] == instance
        assert answer["InstanceMetadataOptions"] == expected | {"State": "pending"}
        until(lambda: options_of(ec2, instance)["State"] == "applied", what=f"{name} is applied")
        assert options_of(ec2, instance) == expected


def test_instances_are_found_by_their_options(ec2: Any, instance: str, fake_cloud: RunningCloud) -> None:
    ec2.modify_instance_metadata_options(InstanceId=instance, HttpTokens="required", HttpPutResponseHopLimit=17)
    for name, value in (("http-tokens", "required"), ("http-put-response-hop-limit", "17")):
        filters = [{"Name": f"metadata-options.{name}", "Values": [value]}]
        found = ec2.describe_instances(Filters=filters)["Reservations"]
        assert instance in [i["InstanceId"] for r in found for i in r["Instances"]]


def test_mistakes_are_told_as_ec2_tells_them(ec2: Any, instance: str, fake_cloud: RunningCloud) -> None:
    modify = ec2.modify_instance_metadata_options
    with refused("InvalidParameterValue", words="Specify either 'optional' or 'required'"):
        modify(InstanceId=instance, HttpTokens="perhaps")
    with refused("InvalidParameterValue", words="HttpPutResponseHopLimit"):
        modify(InstanceId=instance, HttpPutResponseHopLimit=65)
    with refused("UnsupportedOperation"):
        modify(InstanceId=instance, HttpProtocolIpv6="enabled")
    with refused("MissingParameter"):
        modify(InstanceId=instance)
    with refused("InvalidInstanceID.Malformed"):
        modify(InstanceId="i-x", HttpTokens="required")
    strangers = fake_cloud.client("ec2", account="stranger").modify_instance_metadata_options
    for call in in_turn(
        lambda: modify(InstanceId="i-0123456789abcdef0", HttpTokens="required"),
        lambda: strangers(InstanceId=instance, HttpTokens="optional"),
    ):
        with refused("InvalidInstanceID.NotFound"):
            call()
    with refused("DryRunOperation", 412):
        modify(InstanceId=instance, HttpTokens="optional", DryRun=True)
    assert options_of(ec2, instance)["HttpTokens"] == "required"


def test_an_account_has_defaults_of_its_own(fake_cloud: RunningCloud) -> None:
    theirs = fake_cloud.client("ec2", account="careful")
    assert theirs.get_instance_metadata_defaults()["AccountLevel"] == {"ManagedBy": "account"}
    assert theirs.modify_instance_metadata_defaults(HttpTokens="required", HttpPutResponseHopLimit=2)["Return"]
    told = theirs.get_instance_metadata_defaults()["AccountLevel"]
    assert told == {"HttpTokens": "required", "HttpPutResponseHopLimit": 2, "ManagedBy": "account"}
    with refused("InvalidParameterValue"):
        theirs.modify_instance_metadata_defaults(HttpEndpoint="perhaps")

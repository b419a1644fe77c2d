"""Status, attributes and monitoring of instances, and attributes of images, through EC2's clients."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud


@pytest.fixture(scope="module")
def ec2(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2")


@pytest.fixture(scope="module")
def instance(ec2: Any, fake_cloud: RunningCloud) -> Iterator[str]:
    made = ec2.run_instances(ImageId=fake_cloud.image_id, MinCount=1, MaxCount=1, UserData="#!/bin/sh")
    instance_id = made["Instances"][0]["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance_id], WaiterConfig={"Delay": 1})
    yield instance_id
    ec2.terminate_instances(InstanceIds=[instance_id])


def test_a_running_instance_is_well(ec2: Any, instance: str) -> None:
    ec2.get_waiter("instance_status_ok").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1})
    ec2.get_waiter("system_status_ok").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1})
    filters = [{"Name": "system-status.reachability", "Values": ["passed"]}]
    (status,) = ec2.describe_instance_status(InstanceIds=[instance], Filters=filters)["InstanceStatuses"]
    assert status["InstanceState"]["Name"] == "running"
    assert status["InstanceStatus"] == {"Status": "ok", "Details": [{"Name": "reachability", "Status": "passed"}]}
    pages = ec2.get_paginator("describe_instance_status").paginate(
        IncludeAllInstances=True, PaginationConfig={"PageSize": 5}
    )
    assert instance in [status["InstanceId"] for page in pages for status in page["InstanceStatuses"]]
    with refused("InvalidParameterValue", words="no-such"):
        ec2.describe_instance_status(Filters=[{"Name": "no-such", "Values": ["x"]}])


def test_a_guest_that_does_not_answer_is_impaired(ec2: Any, instance: str, fake_cloud: RunningCloud) -> None:
    ec2.get_waiter("instance_status_ok").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1})
    (shown,) = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"]
    impaired = [{"Name": "instance-status.status", "Values": ["impaired"]}]
    assert ec2.describe_instance_status(Filters=impaired)["InstanceStatuses"] == []
    knobs = [folder / "faults.json" for folder in fake_cloud.home.glob("nodes/*/fake-network")]
    try:
        for knob in knobs:
            knob.write_text(json.dumps({"deaf": [shown["NetworkInterfaces"][0]["NetworkInterfaceId"]]}))
        (status,) = ec2.describe_instance_status(Filters=impaired)["InstanceStatuses"]
        assert ec2.describe_instance_status(Filters=impaired)["InstanceStatuses"] == [status]
    finally:
        for knob in knobs:
            knob.write_text(json.dumps({"deaf": []}))
    assert status["InstanceId"] == instance
    (check,) = status["InstanceStatus"]["Details"]
    assert shown["LaunchTime"] <= check.pop("ImpairedSince") <= datetime.now(UTC)
    assert check == {"Name": "reachability", "Status": "failed"}
    assert status["SystemStatus"]["Status"] == "ok"


def found(ec2: Any, *filters: tuple[str, str]) -> list[str]:
    named = [{"Name": name, "Values": [value]} for name, value in filters]
    return [i["InstanceId"] for r in ec2.describe_instances(Filters=named)["Reservations"] for i in r["Instances"]]


def test_filters_of_every_kind_find_an_instance(ec2: Any, instance: str) -> None:
    (shown,) = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"]
    (interface,) = shown["NetworkInterfaces"]
    for name, value in (
        ("availability-zone-id", shown["Placement"]["AvailabilityZoneId"]),
        ("network-interface.private-ip-address", shown["PrivateIpAddress"]),
        ("network-interface.attachment.attachment-id", interface["Attachment"]["AttachmentId"]),
        ("network-interface.attachment.device-index", "0"),
        ("network-interface.addresses.primary", "true"),
        ("metadata-options.http-put-response-hop-limit", "1"),
        ("reservation-id", "r-*"),
        ("launch-time", shown["LaunchTime"].strftime("%Y-%m-%dT%H:*")),
    ):
        assert found(ec2, (name, value), ("instance-id", instance)) == [instance], name
    # What no instance of this cloud has is no error, and nobody's.
    assert found(ec2, ("iam-instance-profile.arn", "*")) == []


def test_every_attribute_is_described(ec2: Any, instance: str) -> None:
    def attribute(name: str) -> Any:
        answer = ec2.describe_instance_attribute(InstanceId=instance, Attribute=name)
        return {k: v for k, v in answer.items() if v != [] and k not in ("InstanceId", "ResponseMetadata")}

    assert attribute("instanceType") == {"InstanceType": {"Value": "t2.micro"}}
    assert base64.b64decode(attribute("userData")["UserData"]["Value"]) == b"#!/bin/sh"
    assert attribute("disableApiTermination") == {"DisableApiTermination": {"Value": False}}
    assert attribute("disableApiStop") == {"DisableApiStop": {"Value": False}}
    assert attribute("instanceInitiatedShutdownBehavior") == {
        "InstanceInitiatedShutdownBehavior": {"Value": "terminate"}
    }
    assert attribute("rootDeviceName") == {"RootDeviceName": {"Value": "/dev/sda1"}}
    assert attribute("sourceDestCheck") == {"SourceDestCheck": {"Value": True}}
    assert attribute("ebsOptimized") == {"EbsOptimized": {"Value": False}}
    assert attribute("enaSupport") == {"EnaSupport": {"Value": False}}
    assert attribute("enclaveOptions") == {"EnclaveOptions": {"Enabled": False}}
    assert attribute("blockDeviceMapping") == attribute("productCodes") == {}
    assert [g["GroupName"] for g in attribute("groupSet")["Groups"]] == ["default"]
    with refused("InvalidParameterValue"):
        attribute("colour")
    with refused("InvalidInstanceID.NotFound"):
        ec2.describe_instance_attribute(InstanceId="i-0123456789abcdef0", Attribute="kernel")


def test_groups_and_protection_change_while_it_runs(ec2: Any, instance: str) -> None:
    web = ec2.create_security_group(GroupName="attributes", Description="for tests")["GroupId"]
    (default,) = ec2.describe_security_groups(GroupNames=["default"])["SecurityGroups"]
    ec2.modify_instance_attribute(InstanceId=instance, Groups=[web])
    (shown,) = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"]
    assert [g["GroupId"] for g in shown["SecurityGroups"]] == [web]
    with refused("DependencyViolation"):
        ec2.delete_security_group(GroupId=web)
    ec2.modify_instance_attribute(InstanceId=instance, Groups=[default["GroupId"]])
    ec2.delete_security_group(GroupId=web)
    ec2.modify_instance_attribute(InstanceId=instance, DisableApiTermination={"Value": True})
    with refused("OperationNotPermitted"):
        ec2.terminate_instances(InstanceIds=[instance])
    ec2.modify_instance_attribute(InstanceId=instance, Attribute="disableApiTermination", Value="false")
    with refused("IncorrectInstanceState"):
        ec2.modify_instance_attribute(InstanceId=instance, InstanceType={"Value": "t2.nano"})
    with refused("InvalidInstanceAttributeValue", words="No device is currently mapped at /dev/sda1"):
        ec2.modify_instance_attribute(InstanceId=instance, BlockDeviceMappings=[{"DeviceName": "/dev/sda1"}])
    ec2.reset_instance_attribute(InstanceId=instance, Attribute="sourceDestCheck")
    with refused("IncorrectInstanceState"):
        ec2.reset_instance_attribute(InstanceId=instance, Attribute="kernel")


def test_an_interface_has_five_groups_at_most(ec2: Any, instance: str) -> None:
    groups = [
        ec2.create_security_group(GroupName=f"many-{number}", Description="for tests")["GroupId"] for number in range(6)
    ]
    with refused("SecurityGroupsPerInterfaceLimitExceeded"):
        ec2.modify_instance_attribute(InstanceId=instance, Groups=groups)
    for group in groups:
        ec2.delete_security_group(GroupId=group)


def test_monitoring_is_switched(ec2: Any, instance: str) -> None:
    for action, state in ((ec2.monitor_instances, "enabled"), (ec2.unmonitor_instances, "disabled")):
        (answer,) = action(InstanceIds=[instance])["InstanceMonitorings"]
        assert answer == {"InstanceId": instance, "Monitoring": {"State": state}}
        (shown,) = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"]
        assert shown["Monitoring"] == {"State": state}


def test_an_instance_store_neither_stops_nor_starts(ec2: Any, instance: str) -> None:
    for action in (ec2.stop_instances, ec2.start_instances):
        with refused("UnsupportedOperation", words="does not have an 'ebs' root device type"):
            action(InstanceIds=[instance])
        with refused("InvalidInstanceID.NotFound"):
            action(InstanceIds=["i-0123456789abcdef0"])


def test_who_may_run_an_image_is_read_and_reset(ec2: Any, fake_cloud: RunningCloud) -> None:
    image, friend = fake_cloud.image_id, fake_cloud.account("neighbour").account_id

    def permissions() -> Any:
        return ec2.describe_image_attribute(ImageId=image, Attribute="launchPermission")["LaunchPermissions"]

    before = permissions()
    ec2.modify_image_attribute(ImageId=image, LaunchPermission={"Add": [{"UserId": friend}]})
    assert {"UserId": friend} in permissions()
    ec2.reset_image_attribute(ImageId=image, Attribute="launchPermission")
    assert permissions() == []
    if before:
        ec2.modify_image_attribute(ImageId=image, LaunchPermission={"Add": before})
    assert ec2.describe_image_attribute(ImageId=image, Attribute="kernel")["KernelId"]["Value"].startswith("aki-")
    with refused("UnsupportedOperation"):
        ec2.describe_image_attribute(ImageId=image, Attribute="uefiData")
    with refused("InvalidRequest"):
        ec2.reset_image_attribute(ImageId=image, Attribute="description")

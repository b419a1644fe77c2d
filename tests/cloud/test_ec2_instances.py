"""Instances through EC2's clients."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud

FAST: Any = {"Delay": 1, "MaxAttempts": 60}
ABSENT = "i-0123456789abcdef0"
# More than all pretended nodes hold, and as many as one request may ask for.
TOO_MANY: Any = {"InstanceType": "m5.xlarge", "MinCount": 1000, "MaxCount": 1000}
# What SDKs and Terraform send of themselves.
SENT_BY_SDKS: Any = {
    "CpuOptions": {"CoreCount": 1, "ThreadsPerCore": 1},
    "EnclaveOptions": {"Enabled": False},
    "HibernationOptions": {"Configured": False},
    "MaintenanceOptions": {"AutoRecovery": "default"},
    "CapacityReservationSpecification": {"CapacityReservationPreference": "open"},
    "PrivateDnsNameOptions": {"HostnameType": "ip-name", "EnableResourceNameDnsARecord": False},
}


@pytest.fixture(scope="module")
def client(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2")


@pytest.fixture
def ec2(client: Any) -> Iterator[Any]:
    yield client
    states = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    ids = [i["InstanceId"] for r in client.describe_instances(Filters=states)["Reservations"] for i in r["Instances"]]
    if ids:
        client.terminate_instances(InstanceIds=ids)
        client.get_waiter("instance_terminated").wait(InstanceIds=ids, WaiterConfig=FAST)


@pytest.fixture
def one(fake_cloud: RunningCloud) -> dict[str, Any]:
    return {"ImageId": fake_cloud.image_id, "InstanceType": "t2.nano", "MinCount": 1, "MaxCount": 1}


def run(ec2: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    (instance,) = ec2.run_instances(**arguments)["Instances"]
    return dict(instance)


def shown(ec2: Any, instance_id: str) -> dict[str, Any]:
    return dict(ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0])


def test_an_instance_lives_and_ends(ec2: Any, one: dict[str, Any], fake_cloud: RunningCloud) -> None:
    reservation = ec2.run_instances(**one)
    assert reservation["OwnerId"] == fake_cloud.account().account_id
    assert reservation["ReservationId"].startswith("r-")
    (instance,) = reservation["Instances"]
    assert instance["State"] == {"Code": 0, "Name": "pending"}
    instance_id = instance["InstanceId"]
    ec2.get_waiter("instance_exists").wait(InstanceIds=[instance_id], WaiterConfig=FAST)
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance_id], WaiterConfig=FAST)
    running = shown(ec2, instance_id)
    assert running["State"] == {"Code": 16, "Name": "running"}
    assert running["PrivateIpAddress"].startswith("172.31.")
    assert running["PublicIpAddress"]
    assert running["Placement"]["AvailabilityZone"] == "us-east-1a"
    assert running["SecurityGroups"][0]["GroupName"] == "default"
    (interface,) = running["NetworkInterfaces"]
    assert interface["Association"]["PublicIp"] == running["PublicIpAddress"]
    assert interface["Attachment"]["Status"] == "attached"
    assert ec2.reboot_instances(InstanceIds=[instance_id])["ResponseMetadata"]["HTTPStatusCode"] == 200
    console = ec2.get_console_output(InstanceId=instance_id, Latest=True)
    assert console["InstanceId"] == instance_id
    (change,) = ec2.terminate_instances(InstanceIds=[instance_id])["TerminatingInstances"]
    assert change["PreviousState"] == {"Code": 16, "Name": "running"}
    assert change["CurrentState"] == {"Code": 32, "Name": "shutting-down"}
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[instance_id], WaiterConfig=FAST)
    ended = shown(ec2, instance_id)
    assert ended["State"] == {"Code": 48, "Name": "terminated"}
    assert ended["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert ended["StateTransitionReason"].startswith("User initiated (")
    assert "PublicIpAddress" not in ended
    (again,) = ec2.terminate_instances(InstanceIds=[instance_id])["TerminatingInstances"]
    assert again["CurrentState"]["Name"] == "terminated"
    with refused("IncorrectState"):
        ec2.reboot_instances(InstanceIds=[instance_id])


def test_as_many_run_as_fit_between_the_counts(ec2: Any, one: dict[str, Any]) -> None:
    made = ec2.run_instances(**one | {"MinCount": 1, "MaxCount": 2})["Instances"]
    assert [instance["AmiLaunchIndex"] for instance in made] == list(range(len(made)))
    assert 1 <= len(made) <= 2
    with refused("InsufficientInstanceCapacity", 500):
        ec2.run_instances(**one | TOO_MANY)


def test_the_operator_names_the_node(ec2: Any, one: dict[str, Any], fake_cloud: RunningCloud) -> None:
    """By the name that `mallee nodes` shows."""
    for host in ("nc-us-east-1a-2", "nc-us-east-1a-1"):
        instance_ids = [run(ec2, one | {"Placement": {"HostId": host}})["InstanceId"] for _ in range(3)]
        ec2.get_waiter("instance_running").wait(InstanceIds=instance_ids, WaiterConfig={"Delay": 1})
        placements = [shown(ec2, i)["Placement"] for i in instance_ids]
        assert {(p["HostId"], p["AvailabilityZone"]) for p in placements} == {(host, host[3:-2])}
        there = fake_cloud.home / "nodes" / host / "instances"
        assert set(instance_ids) <= {folder.name for folder in there.iterdir()}
    with refused("InsufficientCapacityOnHost"):
        ec2.run_instances(**one | TOO_MANY | {"Placement": {"HostId": host}})


def test_a_client_token_makes_a_launch_repeatable(ec2: Any, one: dict[str, Any]) -> None:
    token = one | {"ClientToken": "the-first"}
    first, again = ec2.run_instances(**token), ec2.run_instances(**token)
    assert first["ReservationId"] == again["ReservationId"]
    assert [i["InstanceId"] for i in first["Instances"]] == [i["InstanceId"] for i in again["Instances"]]
    assert first["Instances"][0]["ClientToken"] == "the-first"
    with refused("IdempotentParameterMismatch"):
        ec2.run_instances(**token | {"InstanceType": "t2.micro"})
    with refused("InvalidParameterValue"):
        ec2.run_instances(**one | {"ClientToken": "x" * 65})


def test_a_launch_carries_everything_it_was_given(ec2: Any, one: dict[str, Any]) -> None:
    key = ec2.create_key_pair(KeyName="launch", KeyType="ed25519")
    group = ec2.create_security_group(GroupName="launch", Description="launch")["GroupId"]
    subnet = ec2.describe_subnets()["Subnets"][0]
    instance = run(
        ec2,
        one
        | SENT_BY_SDKS
        | {
            "KeyName": "launch",
            "SecurityGroupIds": [group],
            "SubnetId": subnet["SubnetId"],
            "PrivateIpAddress": "172.31.9.9",
            "UserData": "#!/bin/sh\necho hello",
            "Placement": {"AvailabilityZoneId": "use1-az1", "Tenancy": "default"},
            "Monitoring": {"Enabled": True},
            "EbsOptimized": False,
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 3, "HttpEndpoint": "enabled"},
            "TagSpecifications": [
                {"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "grün"}]},
                {"ResourceType": "volume", "Tags": [{"Key": "Name", "Value": "disk"}]},
            ],
        },
    )
    assert instance["KeyName"] == "launch"
    assert instance["SecurityGroups"] == [{"GroupId": group, "GroupName": "launch"}]
    assert instance["PrivateIpAddress"] == "172.31.9.9"
    assert instance["SubnetId"] == subnet["SubnetId"]
    assert instance["Monitoring"]["State"] in ("enabled", "pending")
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert instance["MetadataOptions"]["HttpPutResponseHopLimit"] == 3
    assert instance["Tags"] == [{"Key": "Name", "Value": "grün"}]
    assert instance["Placement"]["AvailabilityZoneId"] == "use1-az1"
    with refused("InvalidIPAddress.InUse"):
        ec2.run_instances(**one | {"SubnetId": subnet["SubnetId"], "PrivateIpAddress": "172.31.9.9"})
    with refused("DependencyViolation"):
        ec2.delete_security_group(GroupId=group)
    ec2.delete_key_pair(KeyPairId=key["KeyPairId"])
    ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[instance["InstanceId"]], WaiterConfig=FAST)
    ec2.delete_security_group(GroupId=group)


@pytest.mark.parametrize("public", [True, False])
def test_an_instance_is_run_on_the_interface_it_describes(ec2: Any, one: dict[str, Any], public: bool) -> None:
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    group = ec2.describe_security_groups(GroupNames=["default"])["SecurityGroups"][0]["GroupId"]
    interface = {
        "DeviceIndex": 0,
        "AssociatePublicIpAddress": public,
        "SubnetId": subnet,
        "Groups": [group],
        "PrivateIpAddress": "172.31.8.8",
        "DeleteOnTermination": True,
        "Description": "mine",
    }
    instance = run(ec2, one | {"NetworkInterfaces": [interface]})
    assert ("PublicIpAddress" in instance) is public
    (made,) = instance["NetworkInterfaces"]
    assert made["Description"] == "mine"
    assert made["PrivateIpAddress"] == "172.31.8.8"
    assert ("Association" in made) is public
    assert made["Groups"][0]["GroupId"] == group
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance["InstanceId"]], WaiterConfig=FAST)


@pytest.mark.parametrize(
    ("interfaces", "more", "code"),
    [
        ([{"AssociatePublicIpAddress": True}], {}, "InvalidParameterValue"),
        ([{"DeviceIndex": 1}], {}, "InvalidParameterCombination"),
        ([{"DeviceIndex": 0}, {"DeviceIndex": 1}], {}, "AttachmentLimitExceeded"),
        ([{"DeviceIndex": 0}], {"SecurityGroups": ["default"]}, "InvalidParameterCombination"),
        ([{"DeviceIndex": 0}], {"SubnetId": "subnet-0123456789abcdef0"}, "InvalidParameterCombination"),
        ([{"DeviceIndex": 0}], {"PrivateIpAddress": "172.31.0.9"}, "InvalidParameterCombination"),
        ([{"DeviceIndex": 0, "SubnetId": "subnet-0123456789abcdef0"}], {}, "InvalidSubnetID.NotFound"),
        ([{"DeviceIndex": 0, "Groups": ["sg-0123456789abcdef0"]}], {}, "InvalidGroup.NotFound"),
        ([{"DeviceIndex": 0, "Description": "x" * 256}], {}, "InvalidParameterValue"),
        ([{"DeviceIndex": 0, "DeleteOnTermination": False}], {}, "UnsupportedOperation"),
        ([{"DeviceIndex": 0, "NetworkInterfaceId": "eni-0123456789abcdef0"}], {}, "UnsupportedOperation"),
        ([{"DeviceIndex": 0, "SecondaryPrivateIpAddressCount": 1}], {}, "UnsupportedOperation"),
        ([{"DeviceIndex": 0, "PrivateIpAddresses": [{"PrivateIpAddress": "1.2.3.4"}]}], {}, "UnsupportedOperation"),
    ],
)
def test_an_interface_that_cannot_be_is_refused(
    ec2: Any, one: dict[str, Any], interfaces: list[Any], more: dict[str, Any], code: str
) -> None:
    with refused(code):
        ec2.run_instances(**one | more | {"NetworkInterfaces": interfaces})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ImageId": "ami-0123456789abcdef0"}, "InvalidAMIID.NotFound"),
        ({"ImageId": "nonsense"}, "InvalidAMIID.Malformed"),
        ({"ImageId": ""}, "MissingParameter"),
        ({"InstanceType": "z9.huge"}, "InvalidParameterValue"),
        ({"KeyName": "nobody"}, "InvalidKeyPair.NotFound"),
        ({"SecurityGroups": ["nobody"]}, "InvalidGroup.NotFound"),
        ({"SecurityGroupIds": ["sg-0123456789abcdef0"]}, "InvalidGroup.NotFound"),
        ({"SecurityGroupIds": ["default"]}, "InvalidGroupId.Malformed"),
        ({"SubnetId": "subnet-0123456789abcdef0"}, "InvalidSubnetID.NotFound"),
        ({"Placement": {"AvailabilityZone": "us-east-1z"}}, "InvalidParameterValue"),
        ({"Placement": {"Tenancy": "dedicated"}}, "UnsupportedOperation"),
        ({"Placement": {"HostId": "h-0123456789abcdef0"}}, "InvalidHostID.NotFound"),
        ({"Placement": {"GroupName": "near"}}, "UnsupportedOperation"),
        ({"MinCount": 0}, "InvalidParameterValue"),
        ({"MinCount": -1}, "InvalidParameterValue"),
        ({"MinCount": 2}, "InvalidParameterValue"),
        ({"MaxCount": 1001}, "InstanceLimitExceeded"),
        ({"UserData": "x" * 16385}, "InvalidParameterValue"),
        ({"KernelId": "aki-0123456789abcdef0"}, "InvalidAMIID.NotFound"),
        ({"PrivateIpAddress": "10.0.0.9"}, "InvalidParameterValue"),
        ({"InstanceInitiatedShutdownBehavior": "explode"}, "InvalidParameterValue"),
        ({"InstanceInitiatedShutdownBehavior": "stop"}, "InvalidParameterCombination"),
        ({"EbsOptimized": True}, "UnsupportedOperation"),
        ({"MetadataOptions": {"HttpTokens": "perhaps"}}, "InvalidParameterValue"),
        ({"MetadataOptions": {"HttpPutResponseHopLimit": -5}}, "InvalidParameterValue"),
        ({"MetadataOptions": {"HttpPutResponseHopLimit": 65}}, "InvalidParameterValue"),
        ({"IamInstanceProfile": {"Name": "role"}}, "UnsupportedOperation"),
        ({"BlockDeviceMappings": [{"DeviceName": "/dev/sdb", "VirtualName": "x"}]}, "InvalidBlockDeviceMapping"),
        ({"InstanceMarketOptions": {"MarketType": "spot"}}, "UnsupportedOperation"),
        ({"LaunchTemplate": {"LaunchTemplateName": "web"}}, "UnsupportedOperation"),
        ({"CreditSpecification": {"CpuCredits": "standard"}}, "UnsupportedOperation"),
        ({"HibernationOptions": {"Configured": True}}, "UnsupportedOperation"),
        ({"EnclaveOptions": {"Enabled": True}}, "UnsupportedOperation"),
        ({"CpuOptions": {"CoreCount": 7, "ThreadsPerCore": 1}}, "InvalidParameterCombination"),
        ({"Placement": {"AvailabilityZoneId": "use1-az9"}}, "InvalidParameterValue"),
        ({"TagSpecifications": [{"ResourceType": "vpc", "Tags": [{"Key": "a"}]}]}, "InvalidParameterValue"),
        ({"TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "aws:a"}]}]}, "InvalidParameterValue"),
    ],
)
def test_a_launch_that_cannot_be_is_refused(ec2: Any, one: dict[str, Any], change: dict[str, Any], code: str) -> None:
    with refused(code):
        ec2.run_instances(**one | change)
    with refused(code):
        ec2.run_instances(**one | change | {"DryRun": True})


@pytest.mark.parametrize("address", ["nonsense", "10.0.0.1", "172.31.0.2", "172.31.15.255", "172.31.1", "::1"])
def test_an_address_that_cannot_be_had_is_refused(ec2: Any, one: dict[str, Any], address: str) -> None:
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    for dry in (False, True):
        with refused("InvalidParameterValue"):
            ec2.run_instances(**one | {"SubnetId": subnet, "PrivateIpAddress": address, "DryRun": dry})


def test_a_dry_run_starts_nothing(ec2: Any, one: dict[str, Any]) -> None:
    running = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    with refused("DryRunOperation", 412):
        ec2.run_instances(**one | {"DryRun": True})
    assert ec2.describe_instances(Filters=running)["Reservations"] == []


@pytest.mark.parametrize(
    ("ids", "code"),
    [
        ([ABSENT], "InvalidInstanceID.NotFound"),
        (["nonsense"], "InvalidInstanceID.Malformed"),
        (["i-"], "InvalidInstanceID.Malformed"),
        (["i-0123456789ABCDEF0"], "InvalidInstanceID.Malformed"),
        (["ami-0123456789abcdef0"], "InvalidInstanceID.Malformed"),
        (["i-" + "0" * 5000], "InvalidInstanceID.Malformed"),
        (["i-0123456789abcdef0\n"], "InvalidInstanceID.Malformed"),
    ],
)
def test_instances_that_are_not_there_are_refused(ec2: Any, ids: list[str], code: str) -> None:
    for action in (ec2.describe_instances, ec2.terminate_instances, ec2.reboot_instances):
        with refused(code):
            action(InstanceIds=ids)
    with refused(code):
        ec2.get_console_output(InstanceId=ids[0])


def test_all_of_a_request_are_terminated_or_none(ec2: Any, one: dict[str, Any]) -> None:
    instance = run(ec2, one)["InstanceId"]
    with refused("InvalidInstanceID.NotFound", words=f"'{ABSENT}' does not exist"):
        ec2.terminate_instances(InstanceIds=[instance, ABSENT])
    assert shown(ec2, instance)["State"]["Name"] in ("pending", "running")
    with refused("DryRunOperation", 412):
        ec2.terminate_instances(InstanceIds=[instance], DryRun=True)
    for action in (ec2.terminate_instances, ec2.reboot_instances):
        with refused("InvalidParameterCombination", words="No instances specified"):
            action(InstanceIds=[])


def test_instances_are_filtered(ec2: Any, one: dict[str, Any]) -> None:
    tagged = one | {
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "role", "Value": "web-1"}]}],
    }
    first, second = run(ec2, tagged), run(ec2, one)
    both = sorted([first["InstanceId"], second["InstanceId"]])

    def found(**filters: str) -> list[str]:
        wanted = [{"Name": name.replace("_", "-"), "Values": value.split(",")} for name, value in filters.items()]
        wanted.append({"Name": "instance-id", "Values": both})
        answer = ec2.describe_instances(Filters=wanted)
        return sorted(i["InstanceId"] for r in answer["Reservations"] for i in r["Instances"])

    assert found(**{"tag:role": "web-*"}) == [first["InstanceId"]]
    assert found(tag_key="role") == [first["InstanceId"]]
    assert found(instance_state_name="pending,running") == both
    assert found(image_id=one["ImageId"]) == both
    assert found(instance_type="t2.n*") == both
    assert found(instance_type="t2.m*") == []
    assert found(vpc_id=first["VpcId"], subnet_id=first["SubnetId"]) == both
    assert found(private_ip_address=second["PrivateIpAddress"]) == [second["InstanceId"]]
    assert found(ip_address=second["PublicIpAddress"]) == [second["InstanceId"]]
    assert found(availability_zone="us-east-1?") == both
    assert found(**{"instance.group-name": "default"}) == both


def test_instances_are_paged(ec2: Any, one: dict[str, Any]) -> None:
    instance = run(ec2, one)["InstanceId"]
    pages = list(ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 5}))
    shown_ids = [i["InstanceId"] for page in pages for r in page["Reservations"] for i in r["Instances"]]
    assert len(shown_ids) == len(set(shown_ids))
    assert instance in shown_ids
    assert all(sum(len(r["Instances"]) for r in page["Reservations"]) <= 5 for page in pages)
    with refused("InvalidParameterCombination"):
        ec2.describe_instances(InstanceIds=[instance], MaxResults=5)


def test_accounts_do_not_touch_each_others_instances(ec2: Any, one: dict[str, Any], fake_cloud: RunningCloud) -> None:
    instance = run(ec2, one)["InstanceId"]
    other = fake_cloud.client("ec2", "neighbour")
    assert other.describe_instances()["Reservations"] == []
    for action in (other.describe_instances, other.terminate_instances, other.reboot_instances):
        with refused("InvalidInstanceID.NotFound"):
            action(InstanceIds=[instance])
    with refused("InvalidInstanceID.NotFound"):
        other.get_console_output(InstanceId=instance)
    with refused("InvalidInstanceID.NotFound"):
        other.create_tags(Resources=[instance], Tags=[{"Key": "a", "Value": "b"}])


def test_user_data_of_the_greatest_size_is_taken(ec2: Any, one: dict[str, Any]) -> None:
    assert run(ec2, one | {"UserData": b"\x00" * 16384})["InstanceId"]


def test_console_output_is_base64(ec2: Any, one: dict[str, Any]) -> None:
    instance = run(ec2, one)["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig=FAST)
    answer = ec2.get_console_output(InstanceId=instance)
    assert answer["Timestamp"]
    # botocore has decoded it.
    assert not answer["Output"] or base64.b64encode(answer["Output"].encode())


def test_the_resource_api_runs_waits_and_terminates(ec2: Any, fake_cloud: RunningCloud) -> None:
    keys = fake_cloud.account()
    resource = boto3.resource(
        "ec2",
        aws_access_key_id=keys.access_key_id,
        aws_secret_access_key=keys.secret_access_key,
        region_name="us-east-1",
        endpoint_url=fake_cloud.endpoint_url,
    )
    (instance,) = resource.create_instances(ImageId=fake_cloud.image_id, InstanceType="t2.nano", MinCount=1, MaxCount=1)
    instance.meta.client.get_waiter("instance_running").wait(InstanceIds=[instance.id], WaiterConfig=FAST)
    instance.reload()
    assert instance.state["Name"] == "running"
    assert instance.public_ip_address
    assert instance.vpc.is_default
    assert instance.subnet.availability_zone == "us-east-1a"
    assert instance.image.image_id == fake_cloud.image_id
    instance.create_tags(Tags=[{"Key": "own", "Value": instance.id}])
    running = resource.instances.filter(Filters=[{"Name": "tag:own", "Values": [instance.id]}])
    assert [found.id for found in running] == [instance.id]
    instance.terminate()

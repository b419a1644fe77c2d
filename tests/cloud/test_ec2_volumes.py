"""Volumes through EC2's clients: made, attached, grown, moved and deleted; every error by its code."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cloud.refusal import in_turn, refused
from tests.cloud_fixture import RunningCloud
from tests.eventually import until

FAST: Any = {"Delay": 1, "MaxAttempts": 60}
ZONE = "us-east-1a"
ABSENT = "vol-0123456789abcdef0"


@pytest.fixture(scope="module")
def client(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2")


@pytest.fixture
def ec2(client: Any) -> Iterator[Any]:
    """What a test makes goes with it."""
    before = volume_ids(client)
    yield client
    left = volume_ids(client) - before
    for volume_id in left:
        if shown(client, volume_id)["Attachments"]:
            client.detach_volume(VolumeId=volume_id, Force=True)
    for volume_id in left:
        until(lambda its=volume_id: shown(client, its)["State"] == "available")  # type: ignore[misc]
        client.delete_volume(VolumeId=volume_id)
    until(lambda: not volume_ids(client) & left)


@pytest.fixture(scope="module")
def instances(client: Any, fake_cloud: RunningCloud) -> Iterator[list[str]]:
    """Two of one zone."""
    made = client.run_instances(
        ImageId=fake_cloud.image_id,
        InstanceType="t2.nano",
        MinCount=2,
        MaxCount=2,
        Placement={"AvailabilityZone": ZONE},
    )
    ids = [instance["InstanceId"] for instance in made["Instances"]]
    client.get_waiter("instance_running").wait(InstanceIds=ids, WaiterConfig=FAST)
    yield ids
    client.terminate_instances(InstanceIds=ids)
    client.get_waiter("instance_terminated").wait(InstanceIds=ids, WaiterConfig=FAST)


def volume_ids(ec2: Any) -> set[str]:
    return {volume["VolumeId"] for volume in ec2.describe_volumes()["Volumes"]}


def shown(ec2: Any, volume_id: str) -> Any:
    return ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]


@pytest.fixture
def volume(ec2: Any) -> Callable[..., str]:
    def make(**more: Any) -> str:
        volume_id = str(ec2.create_volume(**({"AvailabilityZone": ZONE, "Size": 1} | more))["VolumeId"])
        until(lambda: shown(ec2, volume_id)["State"] == "available")
        return volume_id

    return make


def attached(ec2: Any, volume_id: str) -> bool:
    return [a["State"] for a in shown(ec2, volume_id)["Attachments"]] == ["attached"]


def test_a_volume_is_made_shown_tagged_and_deleted(ec2: Any, fake_cloud: RunningCloud) -> None:
    tags = {"ResourceType": "volume", "Tags": [{"Key": "Name", "Value": "data"}]}
    asked: Any = {"AvailabilityZone": ZONE, "Size": 8, "VolumeType": "gp3", "Iops": 3500, "Throughput": 200}
    made = ec2.create_volume(**asked, TagSpecifications=[tags], ClientToken="one")
    assert (made["State"], made["Size"], made["Iops"], made["Throughput"]) == ("creating", 8, 3500, 200)
    assert (made["Encrypted"], made["MultiAttachEnabled"], made["SnapshotId"]) == (False, False, "")
    volume_id = made["VolumeId"]
    assert ec2.create_volume(**asked, TagSpecifications=[tags], ClientToken="one")["VolumeId"] == volume_id
    with refused("IdempotentParameterMismatch"):
        ec2.create_volume(**asked, ClientToken="one")
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume_id], WaiterConfig=FAST)
    ec2.create_tags(Resources=[volume_id], Tags=[{"Key": "a", "Value": "b"}])
    filters = [{"Name": "resource-type", "Values": ["volume"]}]
    assert {t["Key"] for t in ec2.describe_tags(Filters=filters)["Tags"]} == {"Name", "a"}
    for name, value in (("tag:Name", "data"), ("volume-type", "gp3"), ("availability-zone-id", "use1-az1"),
                        ("status", "available"), ("size", "8"), ("encrypted", "false")):  # fmt: skip
        (found,) = ec2.describe_volumes(Filters=[{"Name": name, "Values": [value]}])["Volumes"]
        assert found["VolumeId"] == volume_id
    status = ec2.describe_volume_status(VolumeIds=[volume_id])["VolumeStatuses"][0]
    assert status["VolumeStatus"]["Status"] == "ok"
    bob = fake_cloud.client("ec2", "bob")
    assert bob.describe_volumes()["Volumes"] == []
    with refused("InvalidVolume.NotFound", words=volume_id):
        bob.delete_volume(VolumeId=volume_id)
    ec2.delete_volume(VolumeId=volume_id)
    ec2.get_waiter("volume_deleted").wait(VolumeIds=[volume_id], WaiterConfig=FAST)


def test_a_listing_comes_in_pages(ec2: Any, volume: Callable[..., str]) -> None:
    ids = [volume() for _ in range(6)]
    pages = ec2.get_paginator("describe_volumes").paginate(PaginationConfig={"PageSize": 5})
    assert [[v["VolumeId"] for v in page["Volumes"]] for page in pages] == [ids[:5], ids[5:]]
    with refused("InvalidParameterCombination"):
        ec2.describe_volumes(VolumeIds=ids, MaxResults=5)


def test_a_volume_goes_from_one_instance_to_another(ec2: Any, instances: list[str], volume: Callable[..., str]) -> None:
    first, second = instances
    volume_id = volume()
    made = ec2.attach_volume(VolumeId=volume_id, InstanceId=first, Device="/dev/sdf")
    assert (made["State"], made["Device"], made["InstanceId"]) == ("attaching", "/dev/sdf", first)
    ec2.get_waiter("volume_in_use").wait(VolumeIds=[volume_id], WaiterConfig=FAST)
    until(lambda: attached(ec2, volume_id))
    (found,) = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [first]}])["Volumes"]
    assert found["VolumeId"] == volume_id
    mappings = ec2.describe_instances(InstanceIds=[first])["Reservations"][0]["Instances"][0]["BlockDeviceMappings"]
    assert [(m["DeviceName"], m["Ebs"]["VolumeId"], m["Ebs"]["Status"]) for m in mappings] == [
        ("/dev/sdf", volume_id, "attached")
    ]
    for action in in_turn(
        lambda: ec2.delete_volume(VolumeId=volume_id),
        lambda: ec2.attach_volume(VolumeId=volume_id, InstanceId=second, Device="/dev/sdf"),
    ):
        with refused("VolumeInUse", words=volume_id):
            action()
    assert ec2.detach_volume(VolumeId=volume_id)["State"] == "detaching"
    until(lambda: shown(ec2, volume_id)["State"] == "available")
    ec2.attach_volume(VolumeId=volume_id, InstanceId=second, Device="xvdf")
    until(lambda: attached(ec2, volume_id))
    ec2.detach_volume(VolumeId=volume_id, InstanceId=second, Device="/dev/sdf", Force=True)
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume_id], WaiterConfig=FAST)


def test_a_volume_outlives_its_instance(
    ec2: Any, fake_cloud: RunningCloud, instances: list[str], volume: Callable[..., str]
) -> None:
    placement = {"AvailabilityZone": ZONE}
    asked: Any = {"ImageId": fake_cloud.image_id, "InstanceType": "t2.nano", "MinCount": 1, "MaxCount": 1}
    instance_id = ec2.run_instances(**asked, Placement=placement)["Instances"][0]["InstanceId"]
    volume_id = volume()
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance_id], WaiterConfig=FAST)
    ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    until(lambda: attached(ec2, volume_id))
    ec2.terminate_instances(InstanceIds=[instance_id])
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume_id], WaiterConfig=FAST)
    with refused("IncorrectState", words="is not 'running'"):
        ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    ec2.attach_volume(VolumeId=volume_id, InstanceId=instances[0], Device="/dev/sdf")
    until(lambda: attached(ec2, volume_id))


def test_a_volume_grows_while_it_is_used(ec2: Any, instances: list[str], volume: Callable[..., str]) -> None:
    volume_id = volume()
    ec2.attach_volume(VolumeId=volume_id, InstanceId=instances[0], Device="/dev/sdf")
    until(lambda: attached(ec2, volume_id))
    made = ec2.modify_volume(VolumeId=volume_id, Size=8, VolumeType="gp3", Iops=3200)["VolumeModification"]
    assert (made["ModificationState"], made["OriginalSize"], made["TargetSize"]) == ("modifying", 1, 8)

    def modification() -> Any:
        return ec2.describe_volumes_modifications(VolumeIds=[volume_id])["VolumesModifications"][0]

    until(lambda: modification()["ModificationState"] == "completed")
    assert (modification()["Progress"], modification()["TargetIops"]) == (100, 3200)
    after = shown(ec2, volume_id)
    assert (after["Size"], after["VolumeType"], after["Iops"], after["Throughput"]) == (8, "gp3", 3200, 128)
    filters = [{"Name": "modification-state", "Values": ["completed"]}, {"Name": "target-size", "Values": ["8"]}]
    assert len(ec2.describe_volumes_modifications(Filters=filters, MaxResults=1)["VolumesModifications"]) == 1
    with refused("InvalidParameterValue", words="smaller"):
        ec2.modify_volume(VolumeId=volume_id, Size=7)
    with refused("InvalidVolumeModification.NotFound"):
        ec2.describe_volumes_modifications(VolumeIds=[volume()])


def test_attributes_are_kept(ec2: Any, volume: Callable[..., str]) -> None:
    volume_id = volume()
    asked: Any = {"VolumeId": volume_id, "Attribute": "autoEnableIO"}
    assert ec2.describe_volume_attribute(**asked)["AutoEnableIO"] == {"Value": False}
    ec2.modify_volume_attribute(VolumeId=volume_id, AutoEnableIO={"Value": True})
    assert ec2.describe_volume_attribute(**asked)["AutoEnableIO"] == {"Value": True}
    assert ec2.describe_volume_attribute(VolumeId=volume_id, Attribute="productCodes")["ProductCodes"] == []
    with refused("IncorrectState", words="already has IO enabled"):
        ec2.enable_volume_io(VolumeId=volume_id)


def test_what_is_wrong_is_refused_by_its_own_code(ec2: Any, instances: list[str], volume: Callable[..., str]) -> None:
    here, used = volume(), volume()
    first, second = instances
    ec2.attach_volume(VolumeId=used, InstanceId=first, Device="/dev/sdg")
    until(lambda: attached(ec2, used))
    zone: Any = {"AvailabilityZone": ZONE}
    attach: Any = {"VolumeId": here, "InstanceId": first, "Device": "/dev/sdh"}
    wrong: list[tuple[str, Callable[[], Any]]] = [
        ("InvalidVolume.NotFound", lambda: ec2.describe_volumes(VolumeIds=[ABSENT])),
        ("InvalidVolumeID.Malformed", lambda: ec2.describe_volumes(VolumeIds=["vol-x"])),
        ("InvalidZone.NotFound", lambda: ec2.create_volume(AvailabilityZone="us-east-1z", Size=1)),
        ("MissingParameter", lambda: ec2.create_volume(**zone)),
        ("InvalidParameterValue", lambda: ec2.create_volume(**zone, Size=0)),
        ("UnknownVolumeType", lambda: ec2.create_volume(**zone, Size=1, VolumeType="gp9")),
        ("InvalidParameterCombination", lambda: ec2.create_volume(**zone, Size=4, VolumeType="io1")),
        ("InvalidSnapshot.NotFound", lambda: ec2.create_volume(**zone, SnapshotId="snap-0123456789abcdef0")),
        ("UnsupportedOperation", lambda: ec2.create_volume(**zone, Size=1, Encrypted=True)),
        ("UnsupportedOperation", lambda: ec2.create_volume(**zone, Size=4, MultiAttachEnabled=True)),
        ("InvalidParameterValue", lambda: ec2.attach_volume(**attach | {"Device": "/dev/sdg"})),
        ("InvalidParameterValue", lambda: ec2.attach_volume(**attach | {"Device": "/dev/sda1"})),
        ("InvalidParameterValue", lambda: ec2.attach_volume(**attach | {"Device": "disk"})),
        ("InvalidInstanceID.NotFound", lambda: ec2.attach_volume(**attach | {"InstanceId": "i-0123456789abcdef0"})),
        ("IncorrectState", lambda: ec2.detach_volume(VolumeId=here)),
        ("InvalidAttachment.NotFound", lambda: ec2.detach_volume(VolumeId=used, InstanceId=second)),
        ("InvalidAttachment.NotFound", lambda: ec2.detach_volume(VolumeId=used, Device="/dev/sdh")),
        ("VolumeInUse", lambda: ec2.delete_volume(VolumeId=used)),
    ]
    for code, call in wrong:
        with refused(code):
            call()
    with refused("DryRunOperation", status=412):
        ec2.attach_volume(**attach, DryRun=True)


def test_the_aws_cli_makes_attaches_and_deletes_a_volume(
    ec2: Any, fake_cloud: RunningCloud, instances: list[str]
) -> None:
    environment = fake_cloud.environment() | {"AWS_PAGER": ""}

    def aws(command: str) -> Any:
        done = subprocess.run(
            f"aws ec2 {command}", shell=True, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        return json.loads(done.stdout) if done.stdout.strip() else None

    volume_id = aws(f"create-volume --availability-zone {ZONE} --size 1 --volume-type gp3")["VolumeId"]
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume_id], WaiterConfig=FAST)
    made = aws(f"attach-volume --volume-id {volume_id} --instance-id {instances[0]} --device /dev/sdf")
    assert made["State"] == "attaching"
    until(lambda: attached(ec2, volume_id))
    aws(f"detach-volume --volume-id {volume_id}")
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume_id], WaiterConfig=FAST)
    aws(f"delete-volume --volume-id {volume_id}")
    ec2.get_waiter("volume_deleted").wait(VolumeIds=[volume_id], WaiterConfig=FAST)

"""Images on volumes through EC2's clients: registered of a snapshot, taken from an instance, copied."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud

SOON = {"Delay": 0.2, "MaxAttempts": 150}
ACCOUNT = "image-snapshots"


@pytest.fixture(scope="module")
def ec2(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2", ACCOUNT)


@pytest.fixture(scope="module")
def snapshot(ec2: Any) -> Iterator[str]:
    zone = ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
    volume = ec2.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume], WaiterConfig=SOON)
    made = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[made], WaiterConfig=SOON)
    ec2.delete_volume(VolumeId=volume)
    yield str(made)
    ec2.delete_snapshot(SnapshotId=made)


@pytest.fixture(scope="module")
def image(ec2: Any, snapshot: str) -> Iterator[str]:
    root = {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot}}
    made = ec2.register_image(Name="on a volume", BlockDeviceMappings=[root])["ImageId"]
    yield str(made)
    ec2.deregister_image(ImageId=made)


@pytest.fixture(scope="module")
def instance(ec2: Any, image: str) -> Iterator[str]:
    data = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": True}}
    launched = ec2.run_instances(
        ImageId=image, MinCount=1, MaxCount=1, InstanceType="t2.nano", BlockDeviceMappings=[data]
    )
    made = launched["Instances"][0]["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[made], WaiterConfig=SOON)
    yield str(made)
    ec2.terminate_instances(InstanceIds=[made])
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[made], WaiterConfig=SOON)


def devices_of(ec2: Any, image: str) -> dict[str, Any]:
    (shown,) = ec2.describe_images(ImageIds=[image])["Images"]
    return {device["DeviceName"]: device.get("Ebs") for device in shown["BlockDeviceMappings"]}


def away(ec2: Any, image: str) -> None:
    answer = ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)
    assert {result["ReturnCode"] for result in answer["DeleteSnapshotResults"]} == {"success"}


def test_an_image_of_a_snapshot_is_described(ec2: Any, image: str, snapshot: str) -> None:
    ec2.get_waiter("image_available").wait(ImageIds=[image], WaiterConfig=SOON)
    (shown,) = ec2.describe_images(Filters=[{"Name": "root-device-type", "Values": ["ebs"]}], Owners=["self"])["Images"]
    assert (shown["ImageId"], shown["RootDeviceName"], shown["State"]) == (image, "/dev/sda1", "available")
    assert shown["BlockDeviceMappings"] == [
        {
            "DeviceName": "/dev/sda1",
            "Ebs": {
                "DeleteOnTermination": True,
                "Encrypted": False,
                "SnapshotId": snapshot,
                "VolumeSize": 1,
                "VolumeType": "gp2",
            },
        }
    ]
    attribute = ec2.describe_image_attribute(ImageId=image, Attribute="blockDeviceMapping")
    assert attribute["BlockDeviceMappings"] == shown["BlockDeviceMappings"]
    with refused("InvalidSnapshot.InUse", words=image):
        ec2.delete_snapshot(SnapshotId=snapshot)


def test_an_image_is_taken_from_a_running_instance(ec2: Any, instance: str) -> None:
    taken = ec2.create_image(InstanceId=instance, Name="taken", Description="as it ran")["ImageId"]
    with refused("InvalidAMIName.Duplicate"):
        ec2.create_image(InstanceId=instance, Name="taken")
    ec2.get_waiter("image_available").wait(ImageIds=[taken], WaiterConfig=SOON)
    (shown,) = ec2.describe_images(ImageIds=[taken])["Images"]
    assert (shown["SourceInstanceId"], shown["RootDeviceType"]) == (instance, "ebs")
    devices = devices_of(ec2, taken)
    assert set(devices) == {"/dev/sda1", "/dev/sdf"}
    snapshots = ec2.describe_snapshots(SnapshotIds=[device["SnapshotId"] for device in devices.values()])["Snapshots"]
    assert {s["State"] for s in snapshots} == {"completed"}
    assert {s["Description"] for s in snapshots} == {f"Created by CreateImage({instance}) for {taken}"}
    again = ec2.run_instances(ImageId=taken, MinCount=1, MaxCount=1, InstanceType="t2.nano")["Instances"][0]
    ec2.get_waiter("instance_running").wait(InstanceIds=[again["InstanceId"]], WaiterConfig=SOON)
    ec2.terminate_instances(InstanceIds=[again["InstanceId"]])
    away(ec2, taken)


def test_an_image_is_taken_from_a_stopped_instance(ec2: Any, instance: str) -> None:
    ec2.stop_instances(InstanceIds=[instance])
    ec2.get_waiter("instance_stopped").wait(InstanceIds=[instance], WaiterConfig=SOON)
    taken = ec2.create_image(InstanceId=instance, Name="at rest")["ImageId"]
    ec2.get_waiter("image_available").wait(ImageIds=[taken], WaiterConfig=SOON)
    assert set(devices_of(ec2, taken)) == {"/dev/sda1", "/dev/sdf"}
    away(ec2, taken)
    ec2.start_instances(InstanceIds=[instance])
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig=SOON)


def test_snapshots_of_all_volumes_of_an_instance(ec2: Any, instance: str) -> None:
    made = ec2.create_snapshots(InstanceSpecification={"InstanceId": instance}, Description="all")["Snapshots"]
    assert len(made) == 2
    ids = [snapshot["SnapshotId"] for snapshot in made]
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=ids, WaiterConfig=SOON)
    data = ec2.create_snapshots(InstanceSpecification={"InstanceId": instance, "ExcludeBootVolume": True})["Snapshots"]
    assert len(data) == 1
    for snapshot in (*ids, data[0]["SnapshotId"]):
        ec2.delete_snapshot(SnapshotId=snapshot)


def test_an_image_is_copied(ec2: Any, image: str, snapshot: str) -> None:
    wanted = {"SourceImageId": image, "SourceRegion": "us-east-1", "Name": "copied", "ClientToken": "once"}
    copied = ec2.copy_image(**wanted)["ImageId"]
    assert ec2.copy_image(**wanted)["ImageId"] == copied
    ec2.get_waiter("image_available").wait(ImageIds=[copied], WaiterConfig=SOON)
    (shown,) = ec2.describe_images(ImageIds=[copied])["Images"]
    assert (shown["SourceImageId"], shown["SourceImageRegion"]) == (image, "us-east-1")
    assert devices_of(ec2, copied)["/dev/sda1"]["SnapshotId"] != snapshot
    away(ec2, copied)


def test_the_aws_cli_takes_and_removes_an_image(instance: str, fake_cloud: RunningCloud) -> None:
    def aws(*arguments: str) -> Any:
        done = subprocess.run(
            ["aws", "ec2", *arguments, "--output", "json"], env=fake_cloud.environment(ACCOUNT),
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    left_out = '[{"DeviceName": "/dev/sdf", "NoDevice": ""}]'
    taken = aws(
        "create-image", "--instance-id", instance, "--name", "by hand", "--no-reboot",
        "--block-device-mappings", left_out,
    )["ImageId"]  # fmt: skip
    (shown,) = aws("describe-images", "--image-ids", taken)["Images"]
    assert [device["DeviceName"] for device in shown["BlockDeviceMappings"]] == ["/dev/sda1"]
    aws("deregister-image", "--image-id", taken, "--delete-associated-snapshots")


@pytest.mark.parametrize(
    ("devices", "code"),
    [
        ([{"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": "own"}}], "InvalidBlockDeviceMapping"),
        ([{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 1}}], "InvalidBlockDeviceMapping"),
        ([{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": "snap-0123456789abcdef0"}}], "InvalidSnapshot.NotFound"),
        ([{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": "own", "Encrypted": True}}], "UnsupportedOperation"),
        ([{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": "own", "Encrypted": False}}], "InvalidBlockDeviceMapping"),
        ([{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": "own", "KmsKeyId": "x"}}], "UnsupportedOperation"),
        ([{"DeviceName": "/dev/hda", "Ebs": {"SnapshotId": "own"}}], "InvalidParameterValue"),
    ],
)
def test_an_image_that_cannot_be_is_refused(ec2: Any, snapshot: str, devices: list[Any], code: str) -> None:
    for device in devices:
        if device["Ebs"].get("SnapshotId") == "own":
            device["Ebs"]["SnapshotId"] = snapshot
    with refused(code):
        ec2.register_image(Name="bad one", BlockDeviceMappings=devices)


def test_what_is_not_there_is_no_image(ec2: Any, image: str) -> None:
    with refused("InvalidInstanceID.NotFound"):
        ec2.create_image(InstanceId="i-0123456789abcdef0", Name="none")
    with refused("InvalidAMIID.NotFound"):
        ec2.copy_image(SourceImageId="ami-0123456789abcdef0", SourceRegion="us-east-1", Name="none")
    with refused("InvalidParameterValue"):
        ec2.copy_image(SourceImageId=image, SourceRegion="eu-west-1", Name="none")

"""Snapshots through EC2's clients."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud

SOON = {"Delay": 0.2, "MaxAttempts": 150}


@pytest.fixture(scope="module")
def ec2(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2", "snapshots")


@pytest.fixture(scope="module")
def zone(ec2: Any) -> str:
    return str(ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"])


@pytest.fixture(scope="module")
def volume(ec2: Any, zone: str) -> Iterator[str]:
    made = str(ec2.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"])
    ec2.get_waiter("volume_available").wait(VolumeIds=[made], WaiterConfig=SOON)
    yield made
    ec2.delete_volume(VolumeId=made)


@pytest.fixture
def snapshot(ec2: Any, volume: str) -> Iterator[str]:
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "Name", "Value": "tested"}]}]
    made = ec2.create_snapshot(VolumeId=volume, Description="for tests", TagSpecifications=tags)["SnapshotId"]
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[made], WaiterConfig=SOON)
    yield str(made)
    if ec2.describe_snapshots(Filters=[{"Name": "snapshot-id", "Values": [made]}])["Snapshots"]:
        ec2.delete_snapshot(SnapshotId=made)


def shown(ec2: Any, **more: Any) -> list[str]:
    return [snapshot["SnapshotId"] for snapshot in ec2.describe_snapshots(**more)["Snapshots"]]


def test_a_snapshot_completes_and_is_described(ec2: Any, snapshot: str, volume: str, fake_cloud: RunningCloud) -> None:
    (found,) = ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    assert found["SnapshotId"] == snapshot
    assert (found["State"], found["Progress"], found["StorageTier"]) == ("completed", "100%", "standard")
    assert (found["VolumeId"], found["VolumeSize"]) == (volume, 1)
    assert (found["Description"], found["Encrypted"]) == ("for tests", False)
    assert found["OwnerId"] == fake_cloud.account("snapshots").account_id
    assert found["Tags"] == [{"Key": "Name", "Value": "tested"}]
    assert found["CompletionTime"] >= found["StartTime"]
    assert [t["Value"] for t in ec2.describe_tags(Filters=[{"Name": "resource-type", "Values": ["snapshot"]}])["Tags"]]


def test_snapshots_are_filtered_and_paged(ec2: Any, snapshot: str, volume: str) -> None:
    for name, value in (
        ("status", "completed"),
        ("volume-id", volume),
        ("volume-size", "1"),
        ("progress", "100%"),
        ("description", "for*"),
        ("storage-tier", "standard"),
        ("tag:Name", "tested"),
    ):
        assert shown(ec2, Filters=[{"Name": name, "Values": [value]}]) == [snapshot], name
        assert shown(ec2, Filters=[{"Name": name, "Values": ["other"]}]) == [], name
    started = ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["StartTime"]
    day = [{"Name": "start-time", "Values": [f"{started:%Y-%m-%d}*"]}]
    assert shown(ec2, Filters=day) == [snapshot]
    pages = ec2.get_paginator("describe_snapshots").paginate(OwnerIds=["self"], PaginationConfig={"PageSize": 5})
    assert [s["SnapshotId"] for page in pages for s in page["Snapshots"]] == [snapshot]
    with refused("InvalidParameterCombination"):
        ec2.describe_snapshots(SnapshotIds=[snapshot], MaxResults=5)


def test_a_volume_is_made_of_a_snapshot_in_its_size_or_larger(ec2: Any, snapshot: str, zone: str) -> None:
    made = ec2.create_volume(AvailabilityZone=zone, SnapshotId=snapshot, Size=2)
    assert (made["SnapshotId"], made["Size"]) == (snapshot, 2)
    ec2.get_waiter("volume_available").wait(VolumeIds=[made["VolumeId"]], WaiterConfig=SOON)
    ec2.delete_volume(VolumeId=made["VolumeId"])


def test_a_snapshot_is_copied_within_the_region(ec2: Any, snapshot: str, fake_cloud: RunningCloud) -> None:
    copied = ec2.copy_snapshot(SourceRegion="us-east-1", SourceSnapshotId=snapshot, Description="second")["SnapshotId"]
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[copied], WaiterConfig=SOON)
    (found,) = ec2.describe_snapshots(SnapshotIds=[copied])["Snapshots"]
    assert (found["Description"], found["VolumeSize"], found["VolumeId"]) == ("second", 1, "vol-ffffffff")
    ec2.delete_snapshot(SnapshotId=copied)
    with refused("InvalidParameterValue", words="eu-west-1"):
        ec2.copy_snapshot(SourceRegion="eu-west-1", SourceSnapshotId=snapshot)


def test_a_snapshot_is_shared_and_withdrawn(ec2: Any, snapshot: str, fake_cloud: RunningCloud) -> None:
    other, other_id = fake_cloud.client("ec2", "neighbour"), fake_cloud.account("neighbour").account_id
    with refused("InvalidSnapshot.NotFound", words=snapshot):
        other.describe_snapshots(SnapshotIds=[snapshot])
    ec2.modify_snapshot_attribute(
        SnapshotId=snapshot, Attribute="createVolumePermission", OperationType="add", UserIds=[other_id]
    )
    (found,) = other.describe_snapshots(
        RestorableByUserIds=["self"], OwnerIds=[fake_cloud.account("snapshots").account_id]
    )["Snapshots"]
    assert (found["SnapshotId"], found.get("Tags")) == (snapshot, None)
    with refused("AuthFailure", 401):
        other.delete_snapshot(SnapshotId=snapshot)
    asked = {"SnapshotId": snapshot, "Attribute": "createVolumePermission"}
    assert ec2.describe_snapshot_attribute(**asked)["CreateVolumePermissions"] == [{"UserId": other_id}]
    ec2.modify_snapshot_attribute(SnapshotId=snapshot, CreateVolumePermission={"Add": [{"Group": "all"}]})
    assert {"Group": "all"} in ec2.describe_snapshot_attribute(**asked)["CreateVolumePermissions"]
    ec2.reset_snapshot_attribute(**asked)
    assert ec2.describe_snapshot_attribute(**asked)["CreateVolumePermissions"] == []
    assert shown(other, Filters=[{"Name": "snapshot-id", "Values": [snapshot]}]) == []


def test_a_deleted_snapshot_is_gone(ec2: Any, snapshot: str) -> None:
    with refused("DryRunOperation", 412):
        ec2.delete_snapshot(SnapshotId=snapshot, DryRun=True)
    ec2.delete_snapshot(SnapshotId=snapshot)
    with refused("InvalidSnapshot.NotFound"):
        ec2.describe_snapshots(SnapshotIds=[snapshot])
    with refused("InvalidSnapshot.NotFound"):
        ec2.delete_snapshot(SnapshotId=snapshot)
    assert shown(ec2) == []


def test_the_aws_cli_makes_waits_for_and_deletes_a_snapshot(volume: str, fake_cloud: RunningCloud) -> None:
    def aws(*arguments: str) -> Any:
        done = subprocess.run(
            ["aws", "ec2", *arguments, "--output", "json"], env=fake_cloud.environment("snapshots"),
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    made = aws("create-snapshot", "--volume-id", volume, "--description", "by hand")["SnapshotId"]
    found = aws("describe-snapshots", "--owner-ids", "self", "--snapshot-ids", made)["Snapshots"]
    assert [snapshot["Description"] for snapshot in found] == ["by hand"]
    copied = aws("copy-snapshot", "--source-region", "us-east-1", "--source-snapshot-id", made)["SnapshotId"]
    for snapshot in (copied, made):
        aws("delete-snapshot", "--snapshot-id", snapshot)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"VolumeId": "vol-0123456789abcdef0"}, "InvalidVolume.NotFound"),
        ({"VolumeId": "vol-x"}, "InvalidVolumeID.Malformed"),
        ({"Description": "x" * 256}, "InvalidParameterValue"),
        ({"OutpostArn": "arn:aws:outposts:us-east-1:123456789012:outpost/x"}, "UnsupportedOperation"),
        ({"TagSpecifications": [{"ResourceType": "volume", "Tags": [{"Key": "a"}]}]}, "InvalidParameterValue"),
    ],
)
def test_a_snapshot_that_cannot_be_is_refused(ec2: Any, volume: str, change: dict[str, Any], code: str) -> None:
    with refused(code):
        ec2.create_snapshot(**{"VolumeId": volume} | change)
    assert shown(ec2) == []

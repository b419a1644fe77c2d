"""Snapshots and images of them through apache-libcloud, as it comes."""

from __future__ import annotations

from typing import Any

import pytest
from libcloud.compute.types import VolumeSnapshotState

from tests.cloud.libcloud_driver import driver_of
from tests.cloud_fixture import RunningCloud

SOON = {"Delay": 0.2, "MaxAttempts": 150}
ACCOUNT = "libcloud-snapshots"


@pytest.fixture(scope="module")
def ec2(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2", ACCOUNT)


def test_a_snapshot_becomes_an_image_and_goes(fake_cloud: RunningCloud, ec2: Any) -> None:
    driver = driver_of(fake_cloud, ACCOUNT)
    volume = driver.create_volume(1, "disk", location=driver.list_locations()[0])
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume.id], WaiterConfig=SOON)
    made = driver.create_volume_snapshot(volume, name="first")
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[made.id], WaiterConfig=SOON)
    (snapshot,) = driver.list_volume_snapshots(volume)
    assert (snapshot.id, snapshot.size, snapshot.state) == (made.id, 1, VolumeSnapshotState.AVAILABLE)
    assert [found.id for found in driver.list_snapshots(owner="self")] == [made.id]
    image = driver.ex_register_image(
        "of a snapshot",
        root_device_name="/dev/sda1",
        block_device_mapping=[{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": made.id}}],
    )
    copied = driver.copy_image(image, "us-east-1", name="copied")
    ec2.get_waiter("image_available").wait(ImageIds=[copied.id], WaiterConfig=SOON)
    (shown,) = driver.list_images(ex_image_ids=[image.id])
    assert shown.extra["root_device_type"] == "ebs"
    assert [device["ebs"]["snapshot_id"] for device in shown.extra["block_device_mapping"]] == [made.id]
    for gone in (image, copied):
        assert driver.delete_image(gone)
    for left in driver.list_snapshots(owner="self"):
        assert driver.destroy_volume_snapshot(left)
    assert driver.destroy_volume(volume)
    assert driver.list_snapshots(owner="self") == []

"""What block device mappings come to, over what an image says."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import CloudError
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2 as ec2
from services.clc.instance.block_devices import mappings_of

SNAPSHOTS = {"snap-root": 8, "snap-data": 20}
IMAGE = (
    record_pb2.BlockDeviceMappingRecord(
        device_name="/dev/sda1",
        snapshot_id="snap-root",
        size_gib=10,
        volume_type="gp3",
        iops=4000,
        throughput_mibps=200,
        delete_on_termination=True,
    ),
    record_pb2.BlockDeviceMappingRecord(
        device_name="/dev/sdf", snapshot_id="snap-data", size_gib=20, volume_type="gp2", iops=100
    ),
)


def merged(*given: dict[str, Any], base: Any = IMAGE) -> dict[str, record_pb2.BlockDeviceMappingRecord]:
    def find(snapshot_id: str, of_image: bool) -> record_pb2.SnapshotRecord:
        assert of_image == (bool(base) and snapshot_id in ("snap-root", "snap-data"))
        return record_pb2.SnapshotRecord(snapshot_id=snapshot_id, volume_size_gib=SNAPSHOTS[snapshot_id])

    requests = [
        ec2.BlockDeviceMapping(
            **{k: v for k, v in one.items() if k != "ebs"},
            ebs=ec2.EbsBlockDevice(**one["ebs"]) if "ebs" in one else None,
        )
        for one in given
    ]
    found = mappings_of(requests, find_snapshot=find, base=base, root_device_name="/dev/sda1" if base else "")
    return {mapping.device_name: mapping for mapping in found}


def test_without_a_word_the_image_decides() -> None:
    assert list(merged().values()) == list(IMAGE)


def test_a_larger_root_keeps_what_the_image_provisions() -> None:
    root = merged({"device_name": "sda1", "ebs": {"volume_size": 30}})["/dev/sda1"]
    assert (root.size_gib, root.volume_type, root.iops, root.throughput_mibps) == (30, "gp3", 4000, 200)
    assert (root.snapshot_id, root.delete_on_termination) == ("snap-root", True)


def test_another_type_has_defaults_of_its_own() -> None:
    root = merged({"device_name": "/dev/sda1", "ebs": {"volume_type": "gp2"}})["/dev/sda1"]
    assert (root.size_gib, root.volume_type, root.iops, root.throughput_mibps) == (10, "gp2", 100, 0)


def test_what_the_image_keeps_stays_kept_and_what_the_launch_adds_goes_with_it() -> None:
    found = merged(
        {"device_name": "/dev/sdf", "ebs": {"volume_size": 21}}, {"device_name": "xvdg", "ebs": {"volume_size": 1}}
    )
    assert not found["/dev/sdf"].delete_on_termination
    assert found["xvdg"].delete_on_termination


def test_a_device_is_left_out() -> None:
    assert set(merged({"device_name": "/dev/sdf", "no_device": ""})) == {"/dev/sda1"}


def test_a_space_of_the_node_takes_the_place_of_a_volume() -> None:
    space = merged({"device_name": "/dev/sdf", "virtual_name": "ephemeral0"})["/dev/sdf"]
    assert (space.virtual_name, space.snapshot_id, space.size_gib) == ("ephemeral0", "", 0)


def test_a_volume_of_a_snapshot_is_as_large_as_that() -> None:
    found = merged({"device_name": "/dev/sdh", "ebs": {"snapshot_id": "snap-data"}}, base=())
    assert (found["/dev/sdh"].size_gib, found["/dev/sdh"].volume_type) == (20, "gp2")


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ([{"ebs": {"volume_size": 1}}], "MissingParameter"),
        ([{"device_name": "/dev/sdf"}], "MissingParameter"),
        ([{"device_name": "/dev/sdf1", "ebs": {"volume_size": 1}}], "InvalidParameterValue"),
        ([{"device_name": "/dev/sdz9", "ebs": {"volume_size": 1}}], "InvalidParameterValue"),
        ([{"device_name": "/dev/sdg", "ebs": {}}], "MissingParameter"),
        ([{"device_name": "/dev/sdg", "ebs": {"volume_size": 0}}], "InvalidParameterValue"),
        ([{"device_name": "/dev/sdg", "ebs": {"volume_size": -1}}], "InvalidParameterValue"),
        ([{"device_name": "/dev/sda1", "ebs": {"volume_size": 0}}], "InvalidParameterValue"),
        ([{"device_name": "/dev/sda1", "no_device": ""}], "InvalidBlockDeviceMapping"),
        ([{"device_name": "/dev/sda1", "ebs": {"snapshot_id": "snap-data"}}], "InvalidBlockDeviceMapping"),
        ([{"device_name": "/dev/sda1", "virtual_name": "ephemeral0"}], "InvalidBlockDeviceMapping"),
        ([{"device_name": "/dev/sda1", "ebs": {"volume_size": 7}}], "InvalidBlockDeviceMapping"),
        ([{"device_name": "/dev/sdg", "virtual_name": "swap"}], "InvalidBlockDeviceMapping"),
        (
            [{"device_name": "/dev/sdg", "virtual_name": "ephemeral0", "ebs": {"volume_size": 1}}],
            "InvalidBlockDeviceMapping",
        ),
        (
            [{"device_name": "/dev/sdg", "ebs": {"volume_size": 1}}, {"device_name": "xvdg", "no_device": ""}],
            "InvalidBlockDeviceMapping",
        ),
        (
            [{"device_name": f"/dev/sd{letter}", "virtual_name": "ephemeral0"} for letter in "gh"],
            "InvalidBlockDeviceMapping",
        ),
        ([{"device_name": "/dev/sdg", "ebs": {"volume_size": 1, "volume_type": "io1"}}], "InvalidParameterValue"),
        ([{"device_name": "/dev/sdg", "ebs": {"volume_size": 1, "iops": 300}}], "InvalidParameterCombination"),
        ([{"device_name": "/dev/sdg", "ebs": {"volume_size": 1, "throughput": 125}}], "InvalidBlockDeviceMapping"),
    ],
)
def test_what_makes_no_sense_is_refused(given: list[dict[str, Any]], code: str) -> None:
    with pytest.raises(CloudError) as caught:
        merged(*given)
    assert caught.value.code == code

"""Images through EC2's clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud

BUCKET = "images-of-tests"


@pytest.fixture(scope="module")
def ec2(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2", "images")


@pytest.fixture(scope="module")
def disk(fake_cloud: RunningCloud) -> str:
    """Where a raw disk image lies."""
    s3 = fake_cloud.client("s3", "images")
    s3.create_bucket(Bucket=BUCKET)
    boot_sector = bytes(510) + b"\x55\xaa"
    s3.put_object(Bucket=BUCKET, Key="disk.raw", Body=boot_sector + bytes((1 << 20) - 512))
    s3.put_object(Bucket=BUCKET, Key="text", Body=b"no image at all")
    return f"{BUCKET}/disk.raw"


@pytest.fixture
def image(ec2: Any, disk: str) -> Iterator[str]:
    made = str(ec2.register_image(Name="tested", ImageLocation=disk, Description="for tests")["ImageId"])
    yield made
    if ec2.describe_images(Filters=[{"Name": "image-id", "Values": [made]}])["Images"]:
        ec2.deregister_image(ImageId=made)


def test_a_disk_image_is_registered_and_described(ec2: Any, image: str, disk: str, fake_cloud: RunningCloud) -> None:
    ec2.get_waiter("image_exists").wait(ImageIds=[image])
    ec2.get_waiter("image_available").wait(ImageIds=[image])
    (shown,) = ec2.describe_images(Owners=["self"])["Images"]
    assert shown["ImageId"] == image
    assert shown["ImageLocation"] == disk
    assert shown["ImageType"] == "machine"
    assert shown["State"] == "available"
    assert shown["Public"] is False
    assert shown["Architecture"] == "x86_64"
    assert shown["OwnerId"] == fake_cloud.account("images").account_id
    assert shown["Name"] == "tested"
    assert shown["CreationDate"].endswith(".000Z")


def test_images_are_filtered(ec2: Any, image: str) -> None:
    def found(**more: Any) -> list[str]:
        return [shown["ImageId"] for shown in ec2.describe_images(**more)["Images"]]

    assert found(Filters=[{"Name": "name", "Values": ["test*"]}]) == [image]
    assert found(Filters=[{"Name": "name", "Values": ["other*"]}]) == []
    assert found(Filters=[{"Name": "is-public", "Values": ["false"]}], Owners=["self"]) == [image]
    assert found(Owners=["amazon"]) == []
    assert found(ExecutableUsers=["self"], Owners=["self"]) == []
    assert [s["ImageId"] for p in ec2.get_paginator("describe_images").paginate(Owners=["self"]) for s in p["Images"]]


def test_an_image_is_gone_when_it_was_deregistered(ec2: Any, image: str, disk: str) -> None:
    with refused("InvalidAMIName.Duplicate", words=image):
        ec2.register_image(Name="tested", ImageLocation=disk)
    with refused("DryRunOperation", 412):
        ec2.deregister_image(ImageId=image, DryRun=True)
    ec2.deregister_image(ImageId=image)
    with refused("InvalidAMIID.Unavailable"):
        ec2.deregister_image(ImageId=image)
    assert ec2.describe_images(ImageIds=[image])["Images"] == []
    again = ec2.register_image(Name="tested", ImageLocation=disk)["ImageId"]
    ec2.deregister_image(ImageId=again)


def test_an_image_is_shared_and_withdrawn(ec2: Any, image: str, fake_cloud: RunningCloud) -> None:
    other, other_id = fake_cloud.client("ec2", "neighbour"), fake_cloud.account("neighbour").account_id

    def sees() -> bool:
        return bool(other.describe_images(Filters=[{"Name": "image-id", "Values": [image]}])["Images"])

    assert not sees()
    ec2.modify_image_attribute(ImageId=image, Attribute="launchPermission", OperationType="add", UserIds=[other_id])
    assert sees()
    assert [i["ImageId"] for i in other.describe_images(ExecutableUsers=["self"])["Images"]] == [image]
    with refused("AuthFailure", 401, words=image):
        other.deregister_image(ImageId=image)
    ec2.modify_image_attribute(
        ImageId=image, OperationType="remove", LaunchPermission={"Remove": [{"UserId": other_id}]}
    )
    assert not sees()
    ec2.modify_image_attribute(ImageId=image, LaunchPermission={"Add": [{"Group": "all"}]})
    assert sees()
    assert other.describe_images(ImageIds=[image])["Images"][0]["Public"] is True
    ec2.modify_image_attribute(ImageId=image, Attribute="Description", Description={"Value": "changed"})
    assert ec2.describe_images(ImageIds=[image])["Images"][0]["Description"] == "changed"
    with refused("InvalidAMIAttributeItemValue"):
        ec2.modify_image_attribute(ImageId=image, LaunchPermission={"Add": [{"UserId": "nobody"}]})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"Name": "x" * 129}, "InvalidAMIName.Malformed"),
        ({"Name": "größe"}, "InvalidAMIName.Malformed"),
        ({"ImageLocation": ""}, "MissingParameter"),
        ({"ImageLocation": "nokey"}, "InvalidParameterValue"),
        ({"ImageLocation": "no-such-bucket-of-tests/key"}, "InvalidManifest"),
        ({"ImageLocation": f"{BUCKET}/absent"}, "InvalidManifest"),
        ({"ImageLocation": f"{BUCKET}/text"}, "InvalidParameterValue"),
        ({"ImageLocation": f"{BUCKET}/x.manifest.xml"}, "InvalidManifest"),
        ({"Description": "x" * 256}, "InvalidParameterValue"),
        ({"Architecture": "arm64"}, "UnsupportedOperation"),
        ({"KernelId": "aki-0123456789abcdef0"}, "InvalidAMIID.NotFound"),
        ({"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "VirtualName": "x"}]}, "InvalidBlockDeviceMapping"),
    ],
)
def test_a_bad_registration_is_refused(ec2: Any, disk: str, change: dict[str, Any], code: str) -> None:
    with refused(code):
        ec2.register_image(**{"Name": "bad one", "ImageLocation": disk} | change)
    assert ec2.describe_images(Owners=["self"])["Images"] == []


def test_a_machine_image_is_no_kernel(ec2: Any, image: str, disk: str) -> None:
    with refused("InvalidAMIID.Malformed"):
        ec2.register_image(Name="confused", ImageLocation=disk, KernelId=image)


def test_somebody_elses_object_is_not_registered(ec2: Any, disk: str, fake_cloud: RunningCloud) -> None:
    with refused("InvalidManifest", words="403"):
        fake_cloud.client("ec2", "neighbour").register_image(Name="stolen", ImageLocation=disk)


def test_a_bundle_is_made_registered_and_refused_when_it_is_anothers(
    ec2: Any, disk: str, fake_cloud: RunningCloud, tmp_path: Path
) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"MZ" + bytes(0x1FC) + b"\x55\xaa\xeb\x66HdrS" + bytes(1000))
    image = tmp_path / "disk"
    image.write_bytes(bytes(510) + b"\x55\xaa" + bytes(2 << 20))
    s3, account = fake_cloud.client("s3", "images"), fake_cloud.account("images").account_id

    def bundled(path: Path, *options: str) -> str:
        """Location of the bundle."""
        made = fake_cloud.json("images", "bundle", str(path), "--destination", str(tmp_path / "out"), *options)
        for file in (made["Manifest"], *made["Parts"]):
            s3.upload_file(file, BUCKET, f"bundles/{Path(file).name}")
        return f"{BUCKET}/bundles/{Path(made['Manifest']).name}"

    kernel_id = ec2.register_image(
        Name="bundled-kernel", ImageLocation=bundled(kernel, "--account", account, "--kind", "kernel")
    )["ImageId"]
    assert kernel_id.startswith("aki-")
    location = bundled(image, "--account", account, "--kernel", kernel_id)
    image_id = ec2.register_image(Name="bundled", ImageLocation=location)["ImageId"]
    (shown,) = ec2.describe_images(ImageIds=[image_id])["Images"]
    assert (shown["ImageLocation"], shown["KernelId"], shown["Architecture"]) == (location, kernel_id, "x86_64")
    # Signed for the first account: not this one's.
    with refused("InvalidManifest"):
        ec2.register_image(Name="not-mine", ImageLocation=bundled(image))
    for made in (image_id, kernel_id):
        ec2.deregister_image(ImageId=made)

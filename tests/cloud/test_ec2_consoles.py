"""What a guest shows and publishes, and its own power-off, through EC2's clients."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud

FAST: Any = {"Delay": 1, "MaxAttempts": 60}
ABSENT = "i-0123456789abcdef0"


@pytest.fixture(scope="module")
def ec2(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2")


@pytest.fixture(scope="module")
def instance(ec2: Any, fake_cloud: RunningCloud) -> Iterator[str]:
    made = ec2.run_instances(ImageId=fake_cloud.image_id, InstanceType="t2.nano", MinCount=1, MaxCount=1)
    instance_id = made["Instances"][0]["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance_id], WaiterConfig=FAST)
    yield instance_id
    ec2.terminate_instances(InstanceIds=[instance_id])


def node_of(cloud: RunningCloud, instance_id: str) -> Path:
    (folder,) = cloud.home.glob(f"nodes/*/instances/{instance_id}")
    return folder.parent.parent


def test_a_screenshot_is_a_jpeg(ec2: Any, instance: str) -> None:
    shown = ec2.get_console_screenshot(InstanceId=instance)
    assert shown["InstanceId"] == instance
    with Image.open(io.BytesIO(decoded(shown["ImageData"]))) as picture:
        assert picture.format == "JPEG"
    assert ec2.get_console_screenshot(InstanceId=instance, WakeUp=True)["ImageData"] != shown["ImageData"]
    with refused("DryRunOperation", 412):
        ec2.get_console_screenshot(InstanceId=instance, DryRun=True)


def decoded(data: str) -> bytes:
    """boto3 leaves this one as it came, and decodes the console's own output."""
    return base64.b64decode(data, validate=True)


def test_the_console_shows_what_was_just_written(ec2: Any, instance: str, fake_cloud: RunningCloud) -> None:
    assert f"instance {instance}" in ec2.get_console_output(InstanceId=instance)["Output"]
    with (node_of(fake_cloud, instance) / "instances" / instance / "console.log").open("a") as console:
        console.write("the latest line\r\n")
    assert ec2.get_console_output(InstanceId=instance, Latest=True)["Output"].endswith("the latest line\r\n")


def test_a_password_is_what_the_guest_published(ec2: Any, instance: str, fake_cloud: RunningCloud) -> None:
    nothing = ec2.get_password_data(InstanceId=instance)
    assert (nothing["InstanceId"], nothing["PasswordData"]) == (instance, "")
    log = node_of(fake_cloud, instance) / "instances" / instance / "console.log"
    with log.open("a") as console:
        console.write("<Password>\r\nc2VhbGVk\r\nIHBhc3N3b3Jk\r\n</Password>\r\n")
    published = ec2.get_password_data(InstanceId=instance)
    assert published["PasswordData"] == "c2VhbGVkIHBhc3N3b3Jk"
    # Kept, though the console has gone on.
    log.write_text("")
    assert ec2.get_password_data(InstanceId=instance)["PasswordData"] == published["PasswordData"]
    with refused("DryRunOperation", 412):
        ec2.get_password_data(InstanceId=instance, DryRun=True)


def test_a_console_that_is_not_there_is_refused(ec2: Any) -> None:
    for ask in (ec2.get_console_output, ec2.get_console_screenshot, ec2.get_password_data):
        with refused("InvalidInstanceID.NotFound"):
            ask(InstanceId=ABSENT)
        with refused("InvalidInstanceID.Malformed"):
            ask(InstanceId="i-x")


def test_a_guest_that_powers_off_is_terminated(ec2: Any, fake_cloud: RunningCloud) -> None:
    made = ec2.run_instances(
        ImageId=fake_cloud.image_id, InstanceType="t2.nano", MinCount=1, MaxCount=1, DisableApiTermination=True
    )
    instance_id = made["Instances"][0]["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance_id], WaiterConfig=FAST)
    (node_of(fake_cloud, instance_id) / "fake" / "control").write_text(f"power-off {instance_id}\n")
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[instance_id], WaiterConfig=FAST)
    (ended,) = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"]
    assert ended["StateReason"] == {
        "Code": "Client.InstanceInitiatedShutdown",
        "Message": "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
    }
    with refused("IncorrectInstanceState"):
        ec2.get_console_screenshot(InstanceId=instance_id)
    # Why it did can still be read.
    assert f"instance {instance_id}" in ec2.get_console_output(InstanceId=instance_id)["Output"]
    (status,) = ec2.describe_instance_status(InstanceIds=[instance_id], IncludeAllInstances=True)["InstanceStatuses"]
    assert status["InstanceStatus"]["Status"] == "not-applicable"
    assert ec2.describe_instance_status(InstanceIds=[instance_id])["InstanceStatuses"] == []

"""Three instances over both zones, as a user makes them, for the tests that look at them from all sides."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.build import GuestImage, build
from tests.cloud_fixture import RunningCloud
from tests.e2e.guest_ssh import BOOT_S, Ssh
from tests.eventually import until

BUCKET = "e2e-images"
USER_DATA = "#!/bin/sh\necho user-data-was-here > /root/proof\nhttpd -p 8080 -h /root\n"


@dataclass(kw_only=True)
class Fleet:
    cloud: RunningCloud
    ec2: Any
    s3: Any
    ssh: Ssh
    key_name: str
    group_id: str
    image_id: str
    kernel_id: str
    ramdisk_id: str
    files: GuestImage
    ids: list[str]

    def instances(self) -> list[Any]:
        """As described now, in launch order of the ids."""
        return describe(self.ec2, self.ids)

    def addresses(self) -> list[str]:
        return [instance["PublicIpAddress"] for instance in self.instances()]


def describe(ec2: Any, ids: list[str]) -> list[Any]:
    pages = ec2.describe_instances(InstanceIds=ids)["Reservations"]
    found = {instance["InstanceId"]: instance for reservation in pages for instance in reservation["Instances"]}
    return [found[instance_id] for instance_id in ids]


def wait_for_state(ec2: Any, ids: list[str], state: str, *, within_s: float = BOOT_S) -> None:
    def reached() -> bool:
        found = {instance["InstanceId"]: instance for instance in describe(ec2, ids)}
        lost = [i["StateReason"] for i in found.values() if i["State"]["Name"] == "terminated" != state]
        assert not lost, lost
        return {instance["State"]["Name"] for instance in found.values()} == {state}

    until(reached, within_s=within_s, what=f"{state} of {ids}")


def upload(s3: Any, files: dict[str, Path]) -> None:
    s3.create_bucket(Bucket=BUCKET)
    for key, path in files.items():
        s3.upload_file(str(path), BUCKET, key)


def run(fleet: Fleet, image_id: str, **more: Any) -> str:
    """One more instance like the fleet's."""
    given = {
        "ImageId": image_id,
        "InstanceType": "t2.nano",
        "MinCount": 1,
        "MaxCount": 1,
        "KeyName": fleet.key_name,
        "SecurityGroupIds": [fleet.group_id],
    }
    instance_id: str = fleet.ec2.run_instances(**(given | more))["Instances"][0]["InstanceId"]
    return instance_id


@contextmanager
def fleet_of(cloud: RunningCloud, folder: Path) -> Iterator[Fleet]:
    ec2, s3 = cloud.client("ec2"), cloud.client("s3")
    files = build(Path("/var/cache/mallee/images/small"))
    upload(s3, {"vmlinuz": files.kernel, "initrd": files.ramdisk, "root": files.machine})
    kernel_id = ec2.register_image(Name="kernel", ImageLocation=f"{BUCKET}/vmlinuz")["ImageId"]
    ramdisk_id = ec2.register_image(Name="ramdisk", ImageLocation=f"{BUCKET}/initrd")["ImageId"]
    image_id = ec2.register_image(
        Name="machine", ImageLocation=f"{BUCKET}/root", KernelId=kernel_id, RamdiskId=ramdisk_id
    )["ImageId"]
    ssh = Ssh(key=folder / "fleet.pem")
    ssh.key.touch(mode=0o600)
    ssh.key.write_text(ec2.create_key_pair(KeyName="fleet")["KeyMaterial"])
    group_id = ec2.create_security_group(GroupName="fleet", Description="the fleet")["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=group_id, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0")
    fleet = Fleet(
        cloud=cloud, ec2=ec2, s3=s3, ssh=ssh, key_name="fleet", group_id=group_id, image_id=image_id,
        kernel_id=kernel_id, ramdisk_id=ramdisk_id, files=files, ids=[],
    )  # fmt: skip
    for zone in ("us-east-1a", "us-east-1a", "us-east-1b"):
        fleet.ids.append(
            run(
                fleet,
                image_id,
                Placement={"AvailabilityZone": zone},
                UserData=USER_DATA,
                TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": zone}]}],
            )
        )
    wait_for_state(ec2, fleet.ids, "running")
    for address in fleet.addresses():
        ssh.wait(address)
    yield fleet


def decoded_console(ec2: Any, instance_id: str) -> str:
    output: str = ec2.get_console_output(InstanceId=instance_id)["Output"]
    return output if isinstance(output, str) else base64.b64decode(output).decode()

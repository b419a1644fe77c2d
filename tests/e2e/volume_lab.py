"""A cloud for tests of volumes: two zones of two nodes, room for a dozen small machines, the images they boot from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from images.build import GuestImage, build
from tests.cloud_fixture import REAL_HOMES, RunningCloud, free_ranges, new_home, running
from tests.e2e.fleet import describe, wait_for_state
from tests.e2e.guest_ssh import Ssh
from tests.eventually import until
from tests.ports import free_port_base

BUCKET = "e2e-volumes"
HERE, THERE = "us-east-1a", "us-east-1b"


@dataclass(kw_only=True)
class Lab:
    cloud: RunningCloud
    ec2: Any
    s3: Any
    ssh: Ssh
    files: GuestImage
    group_id: str
    kernel_id: str
    ramdisk_id: str
    image_id: str
    # What the tests leave to one another.
    volume_id: str = ""
    snapshot_id: str = ""
    ebs_image_id: str = ""
    booted_id: str = ""
    sums: dict[str, str] = field(default_factory=dict)

    def launch(self, image_id: str, zone: str, *, count: int = 1, **more: Any) -> list[str]:
        """Ids of instances that run and let us in."""
        answer = self.ec2.run_instances(
            ImageId=image_id,
            InstanceType="t2.nano",
            MinCount=count,
            MaxCount=count,
            KeyName="volumes",
            SecurityGroupIds=[self.group_id],
            Placement={"AvailabilityZone": zone},
            **more,
        )
        ids = [instance["InstanceId"] for instance in answer["Instances"]]
        wait_for_state(self.ec2, ids, "running")
        for instance_id in ids:
            self.ssh.wait(self.address(instance_id))
        return ids

    def address(self, instance_id: str) -> str:
        address: str = describe(self.ec2, [instance_id])[0]["PublicIpAddress"]
        return address

    def run(self, instance_id: str, command: str, *, timeout_s: float = 120.0) -> str:
        return self.ssh.run(self.address(instance_id), command, timeout_s=timeout_s).strip()

    def root_of(self, instance_id: str) -> str:
        shown = describe(self.ec2, [instance_id])[0]
        named = (
            d["Ebs"]["VolumeId"] for d in shown["BlockDeviceMappings"] if d["DeviceName"] == shown["RootDeviceName"]
        )
        return str(next(named))

    def node_of(self, instance_id: str) -> str:
        """By where its folder is."""
        (path,) = (self.cloud.home / "nodes").glob(f"*/instances/{instance_id}")
        return path.parts[-3]

    def end(self, *ids: str) -> None:
        self.ec2.terminate_instances(InstanceIds=list(ids))
        wait_for_state(self.ec2, list(ids), "terminated")

    def volume(self, volume_id: str) -> Any:
        return self.ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]

    def create(self, zone: str, **more: Any) -> str:
        volume_id: str = self.ec2.create_volume(AvailabilityZone=zone, **more)["VolumeId"]
        self.until_volume(volume_id, "available")
        return volume_id

    def until_volume(self, volume_id: str, state: str) -> None:
        until(lambda: self.volume(volume_id)["State"] == state, what=f"{volume_id} is {state}")

    def attach(self, volume_id: str, instance_id: str, device: str = "/dev/sdf") -> None:
        self.ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device=device)

        def attached() -> bool:
            attachments = self.volume(volume_id)["Attachments"]
            return bool(attachments) and attachments[0]["State"] == "attached"

        until(attached, what=f"{volume_id} is attached")
        self.run(instance_id, f"until [ -b {device} ]; do sleep 0.1; done")

    def detach(self, volume_id: str, **more: Any) -> None:
        self.ec2.detach_volume(VolumeId=volume_id, **more)
        self.until_volume(volume_id, "available")

    def snapshot(self, volume_id: str) -> str:
        """Id of one that is complete."""
        snapshot_id: str = self.ec2.create_snapshot(VolumeId=volume_id)["SnapshotId"]
        self.until_snapshot(snapshot_id)
        return snapshot_id

    def until_snapshot(self, snapshot_id: str) -> None:
        def complete() -> bool:
            (shown,) = self.ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"]
            assert shown["State"] != "error", shown
            return bool(shown["State"] == "completed" and shown["Progress"] == "100%")

        until(complete, within_s=120, what=f"{snapshot_id} is complete")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    cloud = RunningCloud(
        home=new_home(REAL_HOMES.with_name("mallee-test-volumes")),
        options=["--zones", "2", "--nodes", "2", "--no-image", "--port-base", str(free_port_base()), *free_ranges()],
    )
    for _ in running(cloud):
        # Ten machines stand side by side here.
        path = cloud.home / "mallee.toml"
        path.write_text(re.sub(r"cpu_overcommit = .*", "cpu_overcommit = 16.0", path.read_text()))
        cloud.mallee("down", "--vms")
        cloud.up()
        yield _lab(cloud, tmp_path_factory.mktemp("lab"))


def _lab(cloud: RunningCloud, folder: Path) -> Lab:
    # A user's client tries again when the service is away for a moment.
    retries = {"total_max_attempts": 8, "mode": "standard"}
    ec2, s3 = cloud.client("ec2", retries=retries), cloud.client("s3", retries=retries)
    files = build(Path("/var/cache/mallee/images/small"))
    s3.create_bucket(Bucket=BUCKET)
    for key, path in {"vmlinuz": files.kernel, "initrd": files.ramdisk, "root": files.machine}.items():
        s3.upload_file(str(path), BUCKET, key)
    kernel_id, ramdisk_id = (
        ec2.register_image(Name=name, ImageLocation=f"{BUCKET}/{name}")["ImageId"] for name in ("vmlinuz", "initrd")
    )
    image_id = ec2.register_image(
        Name="machine", ImageLocation=f"{BUCKET}/root", KernelId=kernel_id, RamdiskId=ramdisk_id
    )["ImageId"]
    ssh = Ssh(key=folder / "volumes.pem")
    ssh.key.touch(mode=0o600)
    ssh.key.write_text(ec2.create_key_pair(KeyName="volumes")["KeyMaterial"])
    group_id = ec2.create_security_group(GroupName="volumes", Description="of tests")["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=group_id, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0")
    return Lab(
        cloud=cloud, ec2=ec2, s3=s3, ssh=ssh, files=files, group_id=group_id, kernel_id=kernel_id,
        ramdisk_id=ramdisk_id, image_id=image_id,
    )  # fmt: skip

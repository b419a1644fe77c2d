"""The story once more by the AWS CLI, as its user types it, with a visit of apache-libcloud to its machine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from images.build import build
from tests.cloud.libcloud_driver import driver_of
from tests.cloud_fixture import RunningCloud
from tests.e2e.guest_ssh import Ssh
from tests.e2e.host_traces import traces_of_instances

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(600)]


class Aws:
    """`aws …` in a folder of the user's own."""

    def __init__(self, cloud: RunningCloud, folder: Path) -> None:
        self._environment = cloud.environment("typist")
        self.folder = folder

    def text(self, *arguments: str) -> str:
        done = subprocess.run(
            ["aws", *arguments],
            env=self._environment, cwd=self.folder, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"aws {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def json(self, *arguments: str) -> Any:
        return json.loads(self.text(*arguments, "--output", "json"))

    def query(self, query: str, *arguments: str) -> str:
        return self.text(*arguments, "--query", query, "--output", "text")


@pytest.fixture(scope="module")
def aws(real_cloud: RunningCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    yield Aws(real_cloud, tmp_path_factory.mktemp("typist"))
    real_cloud.mallee("accounts", "delete", "typist", "--force")


def test_from_upload_to_termination(aws: Aws, real_cloud: RunningCloud) -> None:
    assert aws.query("Account", "sts", "get-caller-identity") == real_cloud.account("typist").account_id
    files = build(Path("/var/cache/mallee/images/small"))
    aws.text("s3", "mb", "s3://typed")
    for name, path in (("vmlinuz", files.kernel), ("initrd", files.ramdisk), ("root", files.machine)):
        aws.text("s3", "cp", "--no-progress", str(path), f"s3://typed/{name}")
    assert {line.split()[-1] for line in aws.text("s3", "ls", "s3://typed/").splitlines()} == {
        "vmlinuz",
        "initrd",
        "root",
    }

    def register(name: str, *more: str) -> str:
        return aws.query("ImageId", "ec2", "register-image", "--name", name, "--image-location", f"typed/{name}", *more)

    kernel, ramdisk = register("vmlinuz"), register("initrd")
    image = register("root", "--kernel-id", kernel, "--ramdisk-id", ramdisk)
    assert aws.query("Images[0].[KernelId,RamdiskId]", "ec2", "describe-images", "--image-ids", image).split() == [
        kernel,
        ramdisk,
    ]

    ssh = Ssh(key=aws.folder / "typed.pem")
    ssh.key.touch(mode=0o600)
    ssh.key.write_text(aws.query("KeyMaterial", "ec2", "create-key-pair", "--key-name", "typed") + "\n")
    group = aws.query("GroupId", "ec2", "create-security-group", "--group-name", "typed", "--description", "typed")
    aws.text("ec2", "authorize-security-group-ingress", "--group-id", group, "--protocol", "tcp", "--port", "22",
             "--cidr", "0.0.0.0/0")  # fmt: skip
    (aws.folder / "user-data").write_text("#!/bin/sh\necho typed > /root/proof\n")
    run = ("ec2", "run-instances", "--image-id", image, "--instance-type", "t2.nano", "--key-name", "typed",
           "--security-group-ids", group, "--user-data", "file://user-data", "--client-token", "once",
           "--tag-specifications", "ResourceType=instance,Tags=[{Key=Name,Value=typed}]")  # fmt: skip
    instance = aws.query("Instances[0].InstanceId", *run)
    assert aws.query("Instances[0].InstanceId", *run) == instance
    aws.text("ec2", "wait", "instance-running", "--instance-ids", instance)
    tagged = ("ec2", "describe-instances", "--filters", "Name=tag:Name,Values=typed")
    address = aws.query("Reservations[].Instances[].PublicIpAddress", *tagged)
    ssh.wait(address)
    assert ssh.run(address, "cat /root/proof").strip() == "typed"
    assert "mallee-guest: ready" in aws.query("Output", "ec2", "get-console-output", "--instance-id", instance)
    driver = driver_of(real_cloud, "typist")
    (node,) = driver.list_nodes(ex_filters={"tag:Name": "typed"})
    elastic = driver.ex_allocate_address(domain="vpc")
    driver.ex_associate_address_with_node(node, elastic, domain="vpc")
    ssh.wait(elastic.ip)
    assert ssh.run(elastic.ip, "cat /root/proof").strip() == "typed"
    aws.text("ec2", "reboot-instances", "--instance-ids", instance)
    aws.text("ec2", "terminate-instances", "--instance-ids", instance)
    aws.text("ec2", "wait", "instance-terminated", "--instance-ids", instance)
    assert traces_of_instances(real_cloud.config.cloud_id, real_cloud.home, [instance], vpcs=False) == []
    assert driver.ex_release_address(elastic, domain="vpc")
    for gone in (image, kernel, ramdisk):
        aws.text("ec2", "deregister-image", "--image-id", gone)
    aws.text("ec2", "delete-security-group", "--group-id", group)
    aws.text("ec2", "delete-key-pair", "--key-name", "typed")
    aws.text("s3", "rb", "--force", "s3://typed")

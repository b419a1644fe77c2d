"""Every process of a cloud of two zones and four nodes is killed, one after the other, under a running machine."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cloud_fixture import RunningCloud
from tests.e2e.host_traces import processes
from tests.eventually import eventually

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(600)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    instance_id: str
    address: str
    key: Path

    def run(self, command: str) -> str:
        """By ssh, once it answers."""
        options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "ConnectionAttempts=60",
        ]
        done = subprocess.run(
            ["ssh", "-i", str(self.key), *(f"-o{option}" for option in options), f"root@{self.address}", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def launch(ec2: Any, **request: Any) -> str:
    run = ec2.run_instances(InstanceType="t2.nano", MinCount=1, MaxCount=1, **request)
    instance_id: str = run["Instances"][0]["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance_id], WaiterConfig={"Delay": 1})
    return instance_id


@pytest.fixture(scope="module")
def machine(real_cloud: RunningCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    ec2 = real_cloud.client("ec2")
    key = tmp_path_factory.mktemp("key") / "key.pem"
    key.touch(mode=0o600)
    key.write_text(ec2.create_key_pair(KeyName="kill-each")["KeyMaterial"])
    group = ec2.create_security_group(GroupName="kill-each", Description="ssh")["GroupId"]
    ec2.authorize_security_group_ingress(
        GroupId=group, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
    )  # fmt: skip
    instance_id = launch(ec2, ImageId=real_cloud.image_id, KeyName="kill-each", SecurityGroupIds=[group])
    shown = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
    yield Machine(instance_id=instance_id, address=shown["PublicIpAddress"], key=key)
    ec2.terminate_instances(InstanceIds=[instance_id])
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[instance_id], WaiterConfig={"Delay": 1})
    ec2.delete_security_group(GroupId=group)
    ec2.delete_key_pair(KeyName="kill-each")


async def test_the_cloud_goes_on_and_its_machine_never_stops(real_cloud: RunningCloud, machine: Machine) -> None:
    machine.run("touch /run/never-rebooted")
    ec2 = real_cloud.client("ec2", retries={"total_max_attempts": 8, "mode": "standard"})
    for member in real_cloud.members:
        old = real_cloud.kill(member)
        await eventually(lambda member=member, old=old: real_cloud.pid(member) not in (0, old))  # type: ignore[misc]
        real_cloud.up()
        shown = ec2.describe_instances(InstanceIds=[machine.instance_id])["Reservations"][0]["Instances"][0]
        assert shown["State"]["Name"] == "running", f"after {member} was killed"
        assert "never-rebooted" in machine.run("ls /run"), f"after {member} was killed"
    assert real_cloud.json("status")["State"] == "up"


async def test_virtlogd_itself_is_started_again_under_a_running_machine(
    real_cloud: RunningCloud, machine: Machine
) -> None:
    pid_files = list((real_cloud.home / "nodes").glob("*/run/virtlogd.pid"))
    assert pid_files
    for pid_file in pid_files:
        old = pid_file.read_text()
        os.kill(int(old), signal.SIGKILL)
        await eventually(lambda old=old, file=pid_file: file.read_text() not in ("", old))  # type: ignore[misc]
    assert "never-rebooted" in machine.run("ls /run")


def test_nothing_runs_twice_after_that_and_machines_still_start(real_cloud: RunningCloud, machine: Machine) -> None:
    ec2 = real_cloud.client("ec2")
    second = launch(ec2, ImageId=real_cloud.image_id)
    running = processes(real_cloud.config.cloud_id, real_cloud.home)
    for instance_id in (machine.instance_id, second):
        assert sum(f"guest=m{real_cloud.config.cloud_id}-{instance_id}" in line for line in running) == 1
    ec2.terminate_instances(InstanceIds=[second])
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[second], WaiterConfig={"Delay": 1})
    assert not any(second in line for line in processes(real_cloud.config.cloud_id, real_cloud.home))

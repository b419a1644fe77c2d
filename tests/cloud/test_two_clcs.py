"""Two members of the CLC at one time: either answers with what the other has just written, and when the leader is
killed the other goes on with what it had begun."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.etcd.auth import EtcdUser, ensure_auth
from common.etcd.client import Etcd
from common.pki import Identity, issue
from deploy import etcd, machine
from deploy.config_file import write
from deploy.names import ADMIN, CLC
from tests.cloud_fixture import CHECKOUT, RunningCloud
from tests.eventually import until
from tests.ports import free_port

SECOND = "clc-2"
ROUNDS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoClcs:
    cloud: RunningCloud
    metrics_ports: tuple[int, int]

    def client(self) -> Any:
        """Of the kind that users have: it tries again what met a member that died."""
        return self.cloud.client("ec2", retries={"total_max_attempts": 8, "mode": "standard"})

    def answered(self) -> list[int]:
        """How many EC2 actions each of them has answered."""
        return [_actions(port) for port in self.metrics_ports]


@pytest.fixture(scope="module")
def two(fake_cloud: RunningCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoClcs]:
    config = fake_cloud.config
    own = (config.management_address, "127.0.0.1")
    issue(config.pki_path, SECOND, "clc", ips=own, owner=machine.ids_of(config.user))
    asyncio.run(_allow(fake_cloud))
    ports = {"port": free_port(), "metrics_port": free_port()}
    folder = tmp_path_factory.mktemp(SECOND)
    write(folder / "mallee.toml", dataclasses.replace(config, clc=dataclasses.replace(config.clc, **ports)))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "services.clc.main", "--config", folder / "mallee.toml", "--member", SECOND],
            env=os.environ | {"PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'gen'}"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: SECOND in _members(fake_cloud), what=f"{SECOND} is there: {folder}/log")
        yield TwoClcs(cloud=fake_cloud, metrics_ports=(config.clc.metrics_port, ports["metrics_port"]))
    finally:
        process.terminate()
        process.wait(timeout=30)
        until(lambda: _leader(fake_cloud) == CLC and SECOND not in _members(fake_cloud), what=f"{SECOND} has left")
        for left in (f"{SECOND}.pem", f"{SECOND}-key.pem"):
            Path(config.pki_path, left).unlink()


def test_whichever_is_asked_knows_what_the_other_has_acknowledged(two: TwoClcs) -> None:
    ec2, before = two.client(), two.answered()
    for number in range(ROUNDS):
        made = ec2.create_security_group(GroupName=f"of-two-{number}", Description="of two")["GroupId"]
        (shown,) = ec2.describe_security_groups(GroupIds=[made])["SecurityGroups"]
        assert shown["GroupName"] == f"of-two-{number}"
        ec2.create_tags(Resources=[made], Tags=[{"Key": "number", "Value": str(number)}])
        (tag,) = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [made]}])["Tags"]
        assert tag["Value"] == str(number)
        ec2.delete_security_group(GroupId=made)
        assert not ec2.describe_security_groups(Filters=[{"Name": "group-id", "Values": [made]}])["SecurityGroups"]
    assert all(now > then for now, then in zip(two.answered(), before, strict=True))


def test_what_a_killed_leader_had_begun_the_other_brings_to_its_end(two: TwoClcs) -> None:
    ec2, image = two.client(), two.cloud.image_id
    assert _leader(two.cloud) == CLC

    def launch() -> str:
        return str(ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"])

    ids = [launch() for _ in range(ROUNDS)]
    two.cloud.kill(CLC)
    ids += [launch() for _ in range(ROUNDS)]
    ec2.get_waiter("instance_running").wait(InstanceIds=ids, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    assert _leader(two.cloud) == SECOND
    ec2.terminate_instances(InstanceIds=ids)
    ec2.get_waiter("instance_terminated").wait(InstanceIds=ids, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    two.cloud.wait_ready(CLC)


async def _allow(cloud: RunningCloud) -> None:
    """Until the next `mallee up`, which knows one CLC alone."""
    config = cloud.config
    async with Etcd(config.etcd.endpoints, Identity.load(config.pki_path, ADMIN)) as client:
        await ensure_auth(client, [*etcd.users(config), EtcdUser(member_id=SECOND, role="clc")])


def _members(cloud: RunningCloud) -> set[str]:
    return {member["Id"] for member in cloud.json("status")["Members"]}


def _leader(cloud: RunningCloud) -> str:
    return str(cloud.json("status")["Leaders"].get("clc", ""))


def _actions(metrics_port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    return sum(
        int(float(line.split()[-1]))
        for line in lines
        if line.startswith('mallee_rpc_requests_total{code="OK"') and "ec2.v1" in line
    )

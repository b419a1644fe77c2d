"""kill -9 of any process of a cloud of two zones and four nodes, in every situation, with real machines.

What dies comes back by itself, machines run on, every answer that was given holds, and nothing runs twice.
"""

from __future__ import annotations

import functools
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.cloud_fixture import RunningCloud
from tests.e2e.fleet import describe, wait_for_state
from tests.e2e.guest_ssh import Ssh, answers
from tests.e2e.host_traces import processes, traces_of_instances
from tests.eventually import until
from tests.processes import kill

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]

NAME = "killed"
ZONE = "us-east-1a"
# Bounds for a busy machine: a new process in the place of the killed one, ready again, and the API's next answer.
PROCESS_S, READY_S, ANSWER_S = 15.0, 60.0, 30.0
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    instance_id: str
    address: str
    ssh: Ssh
    boot_id: str

    def runs_on(self) -> bool:
        return self.ssh.run(self.address, BOOT_ID).strip() == self.boot_id


@pytest.fixture(scope="module")
def ec2(real_cloud: RunningCloud) -> Any:
    return real_cloud.client("ec2", retries={"total_max_attempts": 8, "mode": "standard"})


@pytest.fixture(scope="module")
def group_id(ec2: Any) -> Iterator[str]:
    made = str(ec2.create_security_group(GroupName=NAME, Description="ssh")["GroupId"])
    ec2.authorize_security_group_ingress(GroupId=made, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0")
    yield made
    ec2.delete_security_group(GroupId=made)


@pytest.fixture(scope="module")
def ssh(ec2: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ssh]:
    key = tmp_path_factory.mktemp("killed") / "key.pem"
    key.touch(mode=0o600)
    key.write_text(ec2.create_key_pair(KeyName=NAME)["KeyMaterial"])
    yield Ssh(key=key)
    ec2.delete_key_pair(KeyName=NAME)


@pytest.fixture(scope="module")
def machine(real_cloud: RunningCloud, ec2: Any, group_id: str, ssh: Ssh) -> Iterator[Machine]:
    instance_id = launch(real_cloud, ec2, group_id)
    wait_for_state(ec2, [instance_id], "running")
    address = describe(ec2, [instance_id])[0]["PublicIpAddress"]
    ssh.wait(address)
    yield Machine(instance_id=instance_id, address=address, ssh=ssh, boot_id=ssh.run(address, BOOT_ID).strip())
    ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for_state(ec2, [instance_id], "terminated")


def launch(cloud: RunningCloud, ec2: Any, group_id: str) -> str:
    answer = ec2.run_instances(
        ImageId=cloud.image_id,
        InstanceType="t2.nano",
        MinCount=1,
        MaxCount=1,
        KeyName=NAME,
        SecurityGroupIds=[group_id],
        Placement={"AvailabilityZone": ZONE},
    )
    instance_id: str = answer["Instances"][0]["InstanceId"]
    return instance_id


def state_of(ec2: Any, instance_id: str) -> str:
    """Empty while the API is on its way back."""
    try:
        return str(describe(ec2, [instance_id])[0]["State"]["Name"])
    except (ClientError, BotoCoreError):
        return ""


def back(cloud: RunningCloud, killed: dict[str, int]) -> None:
    """Until each has come back by itself. `killed`: the pids that they had."""
    for member, pid in killed.items():
        until(functools.partial(is_another, cloud, member, pid), within_s=PROCESS_S, what=f"another {member}")
    for member in killed:
        if says_when_ready(member):
            cloud.wait_ready(member, READY_S)


def is_another(cloud: RunningCloud, member: str, pid: int) -> bool:
    return cloud.pid(member) not in (0, pid)


def says_when_ready(member: str) -> bool:
    return not member.startswith(("etcd", "libvirtd"))


def test_each_process_comes_back_and_the_machine_runs_on(real_cloud: RunningCloud, ec2: Any, machine: Machine) -> None:
    once = real_cloud.client("ec2")
    for member in real_cloud.members:
        killed = time.monotonic()
        back(real_cloud, {member: real_cloud.kill(member)})
        back_s = time.monotonic() - killed
        until(
            lambda: state_of(once, machine.instance_id) == "running",
            within_s=ANSWER_S,
            what=f"the truth after {member} was killed",
        )
        assert machine.runs_on(), f"after {member} was killed"
        print(f"{member}: back after {back_s:.1f} s, the truth after {time.monotonic() - killed:.1f} s")
    assert real_cloud.json("status")["State"] == "up"


def test_virtlogd_itself_comes_back(real_cloud: RunningCloud, machine: Machine) -> None:
    """It outlives the supervisor, so the supervised process only looks after it."""
    pid_files = list((real_cloud.home / "nodes").glob("*/run/virtlogd.pid"))
    assert pid_files
    for pid_file in pid_files:
        old = pid_file.read_text()
        kill(int(old))
        until(lambda old=old, file=pid_file: file.read_text() not in ("", old), within_s=PROCESS_S, what="virtlogd")  # type: ignore[misc]
    assert machine.runs_on()


def test_dnsmasq_comes_back(real_cloud: RunningCloud, machine: Machine) -> None:
    """Nobody's child either: the node looks after it."""
    killed = dnsmasq_pids(real_cloud)
    assert killed
    for pid in killed:
        kill(pid)
    until(
        lambda: len(dnsmasq_pids(real_cloud)) == len(killed) and not dnsmasq_pids(real_cloud) & killed,
        within_s=PROCESS_S,
        what="another dnsmasq in each VPC",
    )
    assert machine.runs_on()


def dnsmasq_pids(cloud: RunningCloud) -> set[int]:
    found = processes(cloud.config.cloud_id, cloud.home)
    return {int(line.split()[1]) for line in found if line.split()[2].endswith("dnsmasq")}


def test_a_machine_whose_engine_is_killed_boots_again(
    real_cloud: RunningCloud, ec2: Any, group_id: str, ssh: Ssh
) -> None:
    """As on a host that failed: it was not its user's wish, so it goes on with its disk and addresses."""
    instance_id = launch(real_cloud, ec2, group_id)
    wait_for_state(ec2, [instance_id], "running")
    address = describe(ec2, [instance_id])[0]["PublicIpAddress"]
    ssh.wait(address)
    before = ssh.run(address, f"echo kept > /root/kept; sync; {BOOT_ID}")
    kill(int(engines(real_cloud, instance_id)[0].split()[1]))

    def again() -> bool:
        said = ssh.run(address, f"{BOOT_ID}; cat /root/kept", check=False) if answers(address, 22) else ""
        return "kept" in said and before.strip() not in said

    until(again, within_s=180, every_s=0.5, what="another boot with the same disk and address")
    assert state_of(ec2, instance_id) == "running"
    assert len(engines(real_cloud, instance_id)) == len(domains(real_cloud, instance_id)) == 1
    ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for_state(ec2, [instance_id], "terminated")
    assert_nothing_left(real_cloud, instance_id)


def recorded_on(cloud: RunningCloud, instance_id: str) -> str:
    """The node that has written the order down; empty as long as none has."""
    return next((path.parents[1].name for path in (cloud.home / "nodes").glob(f"*/instances/{instance_id}")), "")


def engines(cloud: RunningCloud, instance_id: str) -> list[str]:
    name = f"guest=m{cloud.config.cloud_id}-{instance_id}"
    return [line for line in processes(cloud.config.cloud_id, cloud.home) if name in line]


def domains(cloud: RunningCloud, instance_id: str) -> list[str]:
    found = []
    for socket in (cloud.home / "nodes").glob("*/run/libvirt/libvirt-sock"):
        virsh = ["virsh", "-c", f"qemu+unix:///system?socket={socket}", "list", "--all", "--name"]
        listed = subprocess.run(virsh, capture_output=True, text=True, check=True).stdout
        found += [name for name in listed.split() if name.endswith(instance_id)]
    return found


Moment = Callable[[RunningCloud, str], object]
MOMENTS: dict[str, Moment] = {
    "answered": lambda cloud, instance_id: True,
    "recorded": recorded_on,
    "engine": engines,
}


@pytest.mark.parametrize(
    ("victim", "moment", "at_its_end"),
    [
        ("clc", "answered", "clc"),
        ("clc", "recorded", ""),
        ("cc", "answered", "cc"),
        ("cc", "recorded", ""),
        ("nc", "recorded", "nc"),
        ("nc", "engine", "libvirtd"),
        ("libvirtd", "recorded", ""),
        ("libvirtd", "engine", "nc"),
        ("etcd", "answered", "etcd"),
        ("walrus", "answered", ""),
    ],
)
def test_a_launch_cut_short_runs_exactly_once_and_a_termination_cut_short_leaves_nothing(
    real_cloud: RunningCloud, ec2: Any, group_id: str, ssh: Ssh, victim: str, moment: str, at_its_end: str
) -> None:
    instance_id = launch(real_cloud, ec2, group_id)
    until(lambda: MOMENTS[moment](real_cloud, instance_id), every_s=0.005, what=moment)
    member = member_of(real_cloud, victim, instance_id)
    back(real_cloud, {member: real_cloud.kill(member)})
    until(lambda: state_of(ec2, instance_id) == "running", within_s=120, what=f"running after {member} was killed")
    if moment == "engine":
        address = describe(ec2, [instance_id])[0]["PublicIpAddress"]
        until(lambda: answers(address, 22), within_s=180, what="the machine's ssh")
    assert len(engines(real_cloud, instance_id)) == 1
    assert len(domains(real_cloud, instance_id)) == 1
    last = member_of(real_cloud, at_its_end, instance_id) if at_its_end else ""
    ec2.terminate_instances(InstanceIds=[instance_id])
    if last:
        back(real_cloud, {last: real_cloud.kill(last)})
    until(lambda: state_of(ec2, instance_id) == "terminated", within_s=120, what=f"the end, without {last}")
    reason = describe(ec2, [instance_id])[0]["StateReason"]["Code"]
    assert reason == "Client.UserInitiatedShutdown"
    assert_nothing_left(real_cloud, instance_id)


def member_of(cloud: RunningCloud, victim: str, instance_id: str) -> str:
    match victim:
        case "cc":
            return f"cc-{ZONE}"
        case "nc":
            return recorded_on(cloud, instance_id)
        case "libvirtd":
            return f"libvirtd-{recorded_on(cloud, instance_id)}"
        case _:
            return f"{victim}-1"


def assert_nothing_left(cloud: RunningCloud, instance_id: str) -> None:
    assert domains(cloud, instance_id) == []
    assert traces_of_instances(cloud.config.cloud_id, cloud.home, [instance_id], vpcs=False) == []


def test_an_upload_cut_short_leaves_the_old_object_or_the_new_one(real_cloud: RunningCloud, tmp_path: Path) -> None:
    s3 = real_cloud.client("s3", retries={"total_max_attempts": 8, "mode": "standard"})
    old, new = os.urandom(1 << 20), os.urandom(96 << 20)
    s3.create_bucket(Bucket=NAME)
    for so_far in (1 << 20, 40 << 20, 90 << 20):
        s3.put_object(Bucket=NAME, Key="object", Body=old)
        acknowledged = cut_upload(real_cloud, new, so_far)
        found = s3.get_object(Bucket=NAME, Key="object")["Body"].read()
        assert found == new if acknowledged else found in (old, new)
    s3.put_object(Bucket=NAME, Key="object", Body=new)
    assert s3.get_object(Bucket=NAME, Key="object")["Body"].read() == new


def cut_upload(cloud: RunningCloud, body: bytes, so_far: int) -> bool:
    """Kills Walrus once it has written so many bytes of the upload; was the upload acknowledged?"""
    outcome: list[bool] = []

    def upload() -> None:
        try:
            cloud.client("s3").put_object(Bucket=NAME, Key="object", Body=body)
            outcome.append(True)
        except (ClientError, BotoCoreError):
            outcome.append(False)

    before = written_by(cloud, "walrus-1")
    thread = threading.Thread(target=upload)
    thread.start()
    until(lambda: outcome or written_by(cloud, "walrus-1") > before + so_far, every_s=0.01, what="an upload under way")
    back(cloud, {"walrus-1": cloud.kill("walrus-1")})
    thread.join()
    return outcome == [True]


def written_by(cloud: RunningCloud, member: str) -> int:
    """Bytes that its process has given to write(2) so far (proc(5))."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{cloud.pid(member)}/io").read_text().splitlines())
    return int(fields["wchar"])


def test_all_processes_killed_at_once_lose_nothing(
    real_cloud: RunningCloud, ec2: Any, group_id: str, machine: Machine
) -> None:
    s3 = real_cloud.client("s3", retries={"total_max_attempts": 8, "mode": "standard"})
    s3.create_bucket(Bucket=NAME)
    s3.put_object(Bucket=NAME, Key="kept", Body=b"kept")
    ec2.create_tags(Resources=[machine.instance_id, group_id], Tags=[{"Key": "kept", "Value": "yes"}])
    killed = {member: real_cloud.kill(member) for member in real_cloud.members}
    back(real_cloud, killed)
    until(lambda: state_of(ec2, machine.instance_id) == "running", within_s=READY_S, what="the truth again")
    assert machine.runs_on()
    tagged = {tag["ResourceId"] for tag in ec2.describe_tags(Filters=[{"Name": "key", "Values": ["kept"]}])["Tags"]}
    assert tagged == {machine.instance_id, group_id}
    assert ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"][0]["IpPermissions"]
    assert ec2.describe_key_pairs(KeyNames=[NAME])["KeyPairs"]
    assert s3.get_object(Bucket=NAME, Key="kept")["Body"].read() == b"kept"
    second = launch(real_cloud, ec2, group_id)
    wait_for_state(ec2, [second], "running")
    for instance_id in (machine.instance_id, second):
        assert len(engines(real_cloud, instance_id)) == len(domains(real_cloud, instance_id)) == 1
    ec2.terminate_instances(InstanceIds=[second])
    wait_for_state(ec2, [second], "terminated")
    assert_nothing_left(real_cloud, second)

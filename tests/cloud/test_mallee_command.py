"""The `mallee` command on a whole cloud with fake drivers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import processes
from tests.cloud_fixture import RunningCloud, command, free_ranges, mallee, new_home
from tests.eventually import eventually
from tests.ports import free_port_base

NOBODY = 65534


def test_status_shows_services_leaders_nodes_and_instances(fake_cloud: RunningCloud) -> None:
    shown = fake_cloud.json("status")
    assert shown["State"] == "up"
    assert {service["Name"] for service in shown["Services"]} == set(fake_cloud.members)
    assert {member["Role"] for member in shown["Members"]} == {"clc", "walrus", "facade", "cc", "sc", "nc"}
    assert shown["Leaders"] == {"clc": "clc-1", "cc/us-east-1a": "cc-us-east-1a", "sc/us-east-1a": "sc-us-east-1a"}
    assert [node["Node"] for node in shown["Nodes"]] == ["nc-us-east-1a-1", "nc-us-east-1a-2"]
    (storage,) = shown["Storage"]
    assert storage["Zone"] == "us-east-1a"
    assert storage["TotalBytes"] >= storage["FreeBytes"] > 0
    text = fake_cloud.mallee("status").stdout
    assert "is up" in text
    assert "nc-us-east-1a-2" in text
    assert "Volumes of us-east-1a" in text


def test_nodes_show_used_and_free_room(fake_cloud: RunningCloud) -> None:
    image = fake_cloud.image_id
    before = sum(node["Used"]["Vcpus"] for node in fake_cloud.json("nodes"))
    admin = fake_cloud.client("ec2")
    run = admin.run_instances(ImageId=image, InstanceType="t2.nano", MinCount=1, MaxCount=1)
    instance = run["Instances"][0]["InstanceId"]
    admin.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1})
    nodes = fake_cloud.json("nodes")
    assert sum(node["Used"]["Vcpus"] for node in nodes) == before + 1
    assert all(node["Used"]["Vcpus"] + node["Free"]["Vcpus"] == node["Total"]["Vcpus"] for node in nodes)
    admin.terminate_instances(InstanceIds=[instance])


def test_each_image_is_installed_once_under_its_own_name(fake_cloud: RunningCloud) -> None:
    small = fake_cloud.image_id
    debian = fake_cloud.json("images", "install", "debian-12")
    assert debian["Name"] == "debian-12"
    assert debian["ImageId"] != small
    assert fake_cloud.json("images", "install", "debian-12") == debian
    assert fake_cloud.json("images", "install")["ImageId"] == small
    (shown,) = fake_cloud.client("ec2").describe_images(ImageIds=[debian["ImageId"]])["Images"]
    assert shown["Name"].startswith("debian-12-")
    assert "cloud-init" in shown["Description"]
    unknown = fake_cloud.mallee("images", "install", "debian-99", check=False)
    assert unknown.returncode == 1
    assert "small, debian-12" in unknown.stderr


def test_an_account_is_made_used_listed_and_deleted(fake_cloud: RunningCloud) -> None:
    made = fake_cloud.json("accounts", "create", "passing")
    assert sorted(made) == ["AccessKeyId", "AccountId", "CanonicalUserId", "SecretAccessKey"]
    assert re.fullmatch(r"\d{12}", made["AccountId"])
    assert re.fullmatch(r"[0-9a-f]{64}", made["CanonicalUserId"])
    shown = fake_cloud.json("credentials", "passing")
    assert shown["AWS_SECRET_ACCESS_KEY"] == made["SecretAccessKey"]
    assert made["AccountId"] in {account["AccountId"] for account in fake_cloud.json("accounts", "list")}
    again = fake_cloud.mallee("accounts", "create", "passing", check=False)
    assert again.returncode == 1
    assert len(again.stderr.strip().splitlines()) == 1
    fake_cloud.mallee("accounts", "delete", "passing")
    assert made["AccountId"] not in {account["AccountId"] for account in fake_cloud.json("accounts", "list")}


def test_the_first_of_the_accounts_is_not_deleted(fake_cloud: RunningCloud) -> None:
    before = fake_cloud.json("accounts", "list")
    for named in ("", before[0]["Name"], before[0]["AccountId"]):
        refused = fake_cloud.mallee("accounts", "delete", named, "--force", check=False)
        assert refused.returncode == 1
        assert len(refused.stderr.strip().splitlines()) == 1
    assert fake_cloud.json("accounts", "list") == before
    assert fake_cloud.client("sts").get_caller_identity()["Account"] == before[0]["AccountId"]
    digits = fake_cloud.mallee("accounts", "create", "123456789012", check=False)
    assert digits.returncode == 1
    assert "12 digits" in digits.stderr


def test_credentials_set_a_shell_up(fake_cloud: RunningCloud) -> None:
    script = f"""
set -eu
AWS_SESSION_TOKEN=stale; export AWS_SESSION_TOKEN
eval "$({command()} credentials --home {fake_cloud.home})"
aws sts get-caller-identity --query Account --output text
"""
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == fake_cloud.account().account_id, done.stderr


def test_repeating_up_changes_nothing(fake_cloud: RunningCloud) -> None:
    before = {member: fake_cloud.pid(member) for member in fake_cloud.members}
    shown = fake_cloud.json("up", *fake_cloud.options)
    assert (shown["Home"], shown["EndpointUrl"]) == (str(fake_cloud.home), fake_cloud.endpoint_url)
    assert shown["ImageId"] is None
    assert {member: fake_cloud.pid(member) for member in fake_cloud.members} == before


async def test_each_process_may_be_killed_and_comes_back(fake_cloud: RunningCloud) -> None:
    for member in fake_cloud.members:
        old = fake_cloud.kill(member)
        await eventually(lambda member=member, old=old: fake_cloud.pid(member) not in (0, old))  # type: ignore[misc]
    fake_cloud.up()
    assert fake_cloud.json("status")["State"] == "up"
    assert fake_cloud.client("sts").get_caller_identity()["Account"] == fake_cloud.account().account_id


def test_what_was_kept_and_what_was_restored_is_there_after_down_and_up(
    fake_cloud: RunningCloud, tmp_path: Path
) -> None:
    s3 = fake_cloud.client("s3")
    s3.create_bucket(Bucket="kept-through-the-night")
    s3.put_object(Bucket="kept-through-the-night", Key="note", Body=b"still here")
    s3.put_object(Bucket="kept-through-the-night", Key="large", Body=bytes(100_000))
    assert fake_cloud.json("walrus", "backup", str(tmp_path / "backup"))["Findings"] == []
    s3.delete_object(Bucket="kept-through-the-night", Key="large")
    assert fake_cloud.json("down") == {"Home": str(fake_cloud.home), "State": "down"}
    down = fake_cloud.mallee("status", "--json", check=False)
    assert down.returncode == 1
    assert json.loads(down.stdout)["State"] == "down"
    refused = fake_cloud.mallee("accounts", "list", check=False)
    assert refused.returncode == 1
    assert "mallee up" in refused.stderr
    restored = fake_cloud.json("walrus", "restore", str(tmp_path / "backup"), "--replace")
    assert restored["Findings"] == []
    assert restored["Blobs"] > 0
    fake_cloud.up()
    assert s3.get_object(Bucket="kept-through-the-night", Key="note")["Body"].read() == b"still here"
    assert s3.get_object(Bucket="kept-through-the-night", Key="large")["Body"].read() == bytes(100_000)


def test_a_cloud_grows_takes_its_operators_types_and_does_not_shrink() -> None:
    cloud = RunningCloud(
        home=new_home(Path(tempfile.gettempdir()) / "mallee-test-grow"),
        options=["--hypervisor", "fake", "--no-image", "--port-base", str(free_port_base())],
    )
    try:
        cloud.up()
        account = cloud.account("early")
        file = cloud.home / "mallee.toml"
        before = file.read_text()
        _add_type(file, vcpus=0)
        refused = mallee("up", "--no-image", "--home", str(cloud.home), check=False)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
        assert "acme.tiny: vcpus" in refused.stderr
        for line, wrong in (('public_pool = "198.18.0.0/15"', 'public_pool = "nonsense"'), ('"fake"', '"vmware"')):
            assert line in before
            file.write_text(before.replace(line, wrong))
            refused = mallee("up", "--no-image", "--home", str(cloud.home), check=False)
            assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
            assert wrong.split()[0] in refused.stderr.replace("'", '"')
        file.write_text(before.replace("cpu_overcommit = 4.0", "cpu_overcommit = 5.0"))
        _add_type(file, vcpus=2)
        mallee("up", "--nodes", "2", "--zones", "2", "--no-image", "--home", str(cloud.home))
        names = [node["Node"] for node in cloud.json("nodes")]
        assert names == ["nc-us-east-1a-1", "nc-us-east-1a-2", "nc-us-east-1b-1", "nc-us-east-1b-2"]
        zones = cloud.client("ec2", "early").describe_availability_zones()["AvailabilityZones"]
        assert [zone["ZoneName"] for zone in zones] == ["us-east-1a", "us-east-1b"]
        assert cloud.client("sts", "early").get_caller_identity()["Account"] == account.account_id
        _run_its_type(cloud)
        mallee("up", "--no-image", "--home", str(cloud.home))
        assert len(cloud.json("nodes")) == 4
        assert cloud.config.nodes.cpu_overcommit == 5.0
        refused = mallee("up", "--nodes", "1", "--home", str(cloud.home), check=False)
        assert refused.returncode == 1
        assert "cannot shrink" in refused.stderr
    finally:
        cloud.destroy()


def _add_type(file: Path, *, vcpus: int) -> None:
    kind = f'\n[[instance_types]]\nname = "acme.tiny"\nvcpus = {vcpus}\nmemory_mib = 64\ndisk_gib = 3\n'
    file.write_text(file.read_text() + kind)


def _run_its_type(cloud: RunningCloud) -> None:
    ec2, s3 = cloud.client("ec2", "early"), cloud.client("s3", "early")
    (shown,) = ec2.describe_instance_types(InstanceTypes=["acme.tiny"])["InstanceTypes"]
    assert shown["VCpuInfo"]["DefaultVCpus"] == 2
    assert shown["MemoryInfo"]["SizeInMiB"] == 64
    assert shown["InstanceStorageInfo"]["TotalSizeInGB"] == 3
    offered = ec2.describe_instance_type_offerings(Filters=[{"Name": "instance-type", "Values": ["acme.*"]}])
    assert [offer["InstanceType"] for offer in offered["InstanceTypeOfferings"]] == ["acme.tiny"]
    s3.create_bucket(Bucket="disks")
    s3.put_object(Bucket="disks", Key="disk", Body=bytes(510) + b"\x55\xaa" + bytes(512))
    image_id = ec2.register_image(Name="disk", ImageLocation="disks/disk")["ImageId"]
    (made,) = ec2.run_instances(ImageId=image_id, InstanceType="acme.tiny", MinCount=1, MaxCount=1)["Instances"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[made["InstanceId"]], WaiterConfig={"Delay": 1})
    assert made["CpuOptions"] == {"CoreCount": 2, "ThreadsPerCore": 1}
    (used,) = [node["Used"] for node in cloud.json("nodes") if node["Used"]["Vcpus"]]
    assert (used["Vcpus"], used["MemoryBytes"]) == (2, 64 << 20)


def test_a_folder_with_other_files_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    tried = mallee("up", "--hypervisor", "fake", "--home", str(tmp_path), check=False)
    assert (tried.returncode, len(tried.stderr.strip().splitlines())) == (1, 1)
    assert "thesis.tex" in tried.stderr
    assert "--home" in tried.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_killed_up_is_repeated_and_destroy_leaves_what_is_the_file_systems(tmp_path: Path) -> None:
    cloud = RunningCloud(
        home=tmp_path, options=["--hypervisor", "fake", "--no-image", "--port-base", str(free_port_base())]
    )
    (tmp_path / "lost+found").mkdir()
    first = subprocess.Popen([command(), "up", *cloud.options, "--home", str(tmp_path)])
    try:
        asyncio.run(eventually(lambda: [path for path in tmp_path.iterdir() if path.name != "lost+found"]))
        first.kill()
        first.wait()
        cloud.up()
        assert cloud.json("status")["State"] == "up"
    finally:
        first.kill()
        cloud.destroy()
    assert [path.name for path in tmp_path.iterdir()] == ["lost+found"]


def test_a_taken_port_is_one_line_and_nothing_is_started(tmp_path: Path) -> None:
    base = free_port_base()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 1))
        taken.listen()
        home = tmp_path / "cloud"
        tried = mallee(
            "up", "--hypervisor", "fake", "--port-base", str(base), "--home", str(home), check=False
        )  # fmt: skip
    assert tried.returncode == 1
    assert [line for line in tried.stderr.splitlines() if "mallee:" in line] == tried.stderr.strip().splitlines()[-1:]
    assert f"port {base + 1}" in tried.stderr
    assert "--port-base" in tried.stderr
    assert not home.exists()


@pytest.mark.root
@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--public-pool", "127.0.0.0/29", "choose another with --public-pool"),
        ("--uplink", "missing0", "this machine has no such interface"),
        ("--zones", "99", "choose 1 to"),
    ],
)
def test_what_the_machine_cannot_give_is_one_line_and_nothing_is_made(
    tmp_path: Path, option: str, value: str, told: str
) -> None:
    home = tmp_path / "cloud"
    ranges = dict(zip(*[iter(free_ranges())] * 2, strict=True)) | {option: value}
    given = [word for pair in ranges.items() for word in pair]
    tried = mallee("up", "--port-base", str(free_port_base()), "--home", str(home), *given, check=False)
    assert tried.returncode == 1
    assert told in tried.stderr
    assert len(tried.stderr.strip().splitlines()) == 1
    assert not home.exists()


def test_commands_without_a_cloud_say_how_to_make_one(tmp_path: Path) -> None:
    for arguments in (["status"], ["down"], ["destroy", "--yes"], ["accounts", "list"], ["credentials"]):
        tried = mallee(*arguments, "--home", str(tmp_path), check=False)
        assert tried.returncode == 1
        assert "mallee up" in tried.stderr
        assert len(tried.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    ["up", "down", "destroy", "status", "nodes", "credentials", "accounts create", "accounts list", "accounts delete",
     "images install", "walrus scrub", "walrus backup", "walrus restore", "walrus quota", "walrus usage",
     "walrus keys rotate", "walrus keys reseal"],
)  # fmt: skip
def test_each_command_speaks_json(command: str) -> None:
    assert "--json" in mallee(*command.split(), "--help").stdout


def test_destroy_asks_first(fake_cloud: RunningCloud) -> None:
    tried = fake_cloud.mallee("destroy", check=False)
    assert tried.returncode == 1
    assert "--yes" in tried.stderr
    assert fake_cloud.json("status")["State"] == "up"


@pytest.fixture
def unprivileged_home() -> Iterator[Path]:
    home = Path(f"/var/tmp/mallee-test-user-{os.getpid()}")
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY, NOBODY)
    yield home
    shutil.rmtree(home)


@pytest.mark.root
def test_another_user_changes_nothing_of_a_cloud(fake_cloud: RunningCloud) -> None:
    for arguments in (["up", "--no-image"], ["down"], ["destroy", "--yes"], ["status"], ["credentials"]):
        line = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", command(), *arguments]
        tried = subprocess.run(
            [*line, "--home", str(fake_cloud.home)], capture_output=True, text=True, timeout=60, check=False
        )
        assert tried.returncode == 1
        assert len(tried.stderr.strip().splitlines()) == 1, tried.stderr
        assert "root" in tried.stderr
    assert fake_cloud.json("status")["State"] == "up"


@pytest.mark.root
def test_a_user_without_rights_has_a_whole_cloud(unprivileged_home: Path) -> None:
    def as_user(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", command(), *arguments],
            env={"HOME": str(unprivileged_home), "PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    try:
        made = as_user("up", "--hypervisor", "fake", "--port-base", str(free_port_base()))
        lines = made.stdout.strip().splitlines()[-4:]
        assert lines[0] == f'eval "$({command()} credentials)"'
        assert "run-instances" in lines[3]
        services = json.loads(as_user("status", "--json").stdout)["Services"]
        owners = {Path(f"/proc/{service['Pid']}").stat().st_uid for service in services}
        assert owners == {NOBODY}
        processes.kill(next(s["Pid"] for s in services if s["Name"] == "clc-1"))
        as_user("up", "--no-image")
        as_user("down")
    finally:
        as_user("destroy", "--yes")
    assert not (unprivileged_home / ".local/state/mallee").exists()

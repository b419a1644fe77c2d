"""The AWS CLI, as a person types it."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.cloud_fixture import RunningCloud


class Shell:
    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._environment = environment
        self.folder = folder

    def __call__(self, command: str, *, status: int = 0) -> str:
        """What `command` printed; for one that fails with `status`, what it complained of."""
        done = subprocess.run(
            command, shell=True, env=self._environment, cwd=self.folder, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == status, f"{command}: {done.stdout}{done.stderr}"
        return (done.stderr if status else done.stdout).strip()

    def json(self, command: str) -> Any:
        return json.loads(self(command))


@pytest.fixture
def sh(fake_cloud: RunningCloud, tmp_path: Path) -> Shell:
    return Shell(fake_cloud.environment() | {"AWS_PAGER": ""}, tmp_path)


def wait(cloud: RunningCloud, state: str, instance: str) -> None:
    """The CLI itself looks every 15 s only."""
    cloud.client("ec2").get_waiter(state).wait(InstanceIds=[instance], WaiterConfig={"Delay": 1})


def test_who_am_i(sh: Shell, fake_cloud: RunningCloud) -> None:
    who = sh.json("aws sts get-caller-identity")
    account = fake_cloud.account().account_id
    assert who == {"UserId": account, "Account": account, "Arn": f"arn:aws:iam::{account}:root"}


def test_an_instance_from_key_to_end(sh: Shell, fake_cloud: RunningCloud) -> None:
    sh("aws ec2 create-key-pair --key-name cli --query KeyMaterial --output text > cli.pem && chmod 400 cli.pem")
    sh("ssh-keygen -y -f cli.pem > cli.pub")
    sh("aws ec2 import-key-pair --key-name cli-imported --public-key-material fileb://cli.pub")
    group = sh("aws ec2 create-security-group --group-name cli --description cli --query GroupId --output text")
    sh(f"aws ec2 authorize-security-group-ingress --group-id {group} --protocol tcp --port 22 --cidr 0.0.0.0/0")
    sh(f"aws ec2 authorize-security-group-ingress --group-name cli --protocol icmp --port -1 --source-group {group}")
    (sh.folder / "data.sh").write_text("#!/bin/sh\necho hello\n")
    instance = sh(
        f"aws ec2 run-instances --image-id {fake_cloud.image_id} --instance-type t2.nano --key-name cli"
        f" --security-group-ids {group} --associate-public-ip-address --user-data file://data.sh --count 1"
        " --tag-specifications 'ResourceType=instance,Tags=[{Key=Name,Value=cli}]'"
        " --query 'Instances[0].InstanceId' --output text"
    )
    wait(fake_cloud, "instance_running", instance)
    sh(f"aws ec2 wait instance-running --instance-ids {instance}")
    shown = sh(
        "aws ec2 describe-instances --filters Name=tag:Name,Values=cli Name=instance-state-name,Values=running"
        " --query 'Reservations[].Instances[].[InstanceId,PublicIpAddress]' --output text"
    )
    assert shown.split()[0] == instance
    assert shown.split()[1] != "None"
    sh(f"aws ec2 get-console-output --instance-id {instance} --output text")
    sh(f"aws ec2 reboot-instances --instance-ids {instance}")
    sh(f"aws ec2 create-tags --resources {instance} --tags Key=a,Value=b")
    assert sh.json(f"aws ec2 describe-tags --filters Name=resource-id,Values={instance}")["Tags"][1]["Key"] == "a"
    sh(f"aws ec2 terminate-instances --instance-ids {instance}")
    wait(fake_cloud, "instance_terminated", instance)
    sh(f"aws ec2 wait instance-terminated --instance-ids {instance}")
    sh(f"aws ec2 delete-security-group --group-id {group}")
    sh("aws ec2 delete-key-pair --key-name cli; aws ec2 delete-key-pair --key-name cli-imported")


def test_no_public_address_if_none_is_wanted(sh: Shell, fake_cloud: RunningCloud) -> None:
    subnet = sh("aws ec2 describe-subnets --query 'Subnets[0].SubnetId' --output text")
    made = sh.json(
        f"aws ec2 run-instances --image-id {fake_cloud.image_id} --instance-type t2.nano --subnet-id {subnet}"
        " --no-associate-public-ip-address --private-ip-address 172.31.3.3"
    )["Instances"][0]
    assert made["PrivateIpAddress"] == "172.31.3.3"
    assert "PublicIpAddress" not in made
    sh(f"aws ec2 terminate-instances --instance-ids {made['InstanceId']}")


def test_mistakes_are_explained(sh: Shell) -> None:
    for command, words in (
        ("aws ec2 describe-instances --instance-ids i-0123456789abcdef0", "(InvalidInstanceID.NotFound)"),
        ("aws ec2 describe-instances --filters Name=nonsense,Values=1", "The filter 'nonsense' is invalid"),
        ("aws ec2 describe-fpga-images", "(UnsupportedOperation)"),
        ("aws ec2 describe-regions --dry-run", "(DryRunOperation)"),
        ("aws s3api get-object-torrent --bucket nothing-here --key k torrent", "(NotImplemented)"),
        ("AWS_SECRET_ACCESS_KEY=wrong aws ec2 describe-regions", "(AuthFailure)"),
        ("AWS_SECRET_ACCESS_KEY=wrong aws sts get-caller-identity", "(SignatureDoesNotMatch)"),
        ("AWS_SECRET_ACCESS_KEY=wrong aws s3api list-buckets", "(SignatureDoesNotMatch)"),
        ("AWS_ACCESS_KEY_ID=AKIANOBODY aws ec2 describe-regions", "(AuthFailure)"),
        ("AWS_ACCESS_KEY_ID=AKIANOBODY aws sts get-caller-identity", "(InvalidClientTokenId)"),
        ("AWS_ACCESS_KEY_ID=AKIANOBODY aws s3api list-buckets", "(InvalidAccessKeyId)"),
        ("aws ec2 describe-regions --region eu-west-1", "(AuthFailure)"),
        ("aws ec2 describe-regions --no-sign-request", "(MissingAuthenticationToken)"),
        ("aws s3api list-buckets --no-sign-request", "(AccessDenied)"),
    ):
        complaint = sh(command, status=255)
        assert words in complaint, (command, complaint)


def test_s3_commands(sh: Shell) -> None:
    folder = sh.folder
    (folder / "tree" / "deep").mkdir(parents=True)
    (folder / "tree" / "one.txt").write_text("one")
    (folder / "tree" / "deep" / "zwei ü+%.txt").write_text("zwei")
    for path in (folder / "tree").rglob("*.txt"):
        # S3 tells whole seconds: what is stored in the second that it was written in looks older than it is.
        os.utime(path, (1_700_000_000, 1_700_000_000))
    (folder / "large").write_bytes(os.urandom(1 << 20) * 20)
    sh("aws s3 mb s3://cli-of-tests")
    sh("aws s3 sync tree s3://cli-of-tests/tree --quiet")
    sh("aws s3 cp large s3://cli-of-tests/large --quiet")
    sh("echo piped | aws s3 cp - s3://cli-of-tests/piped")
    listed = sh("aws s3 ls --recursive s3://cli-of-tests")
    assert [line.split(maxsplit=3)[3] for line in listed.splitlines()] == [
        "large",
        "piped",
        "tree/deep/zwei ü+%.txt",
        "tree/one.txt",
    ]
    assert "PRE tree/" in sh("aws s3 ls s3://cli-of-tests")
    assert "cli-of-tests" in sh("aws s3 ls")
    sh("aws s3 cp s3://cli-of-tests/large down --quiet && cmp large down")
    sh("aws s3 sync s3://cli-of-tests/tree back --quiet && diff -r tree back")
    assert sh("aws s3 sync tree s3://cli-of-tests/tree") == ""
    assert sh("aws s3 cp s3://cli-of-tests/piped -") == "piped"
    link = sh("aws s3 presign s3://cli-of-tests/piped --expires-in 60")
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == b"piped\n"
    sh("rm tree/one.txt && aws s3 sync tree s3://cli-of-tests/tree --delete --quiet")
    assert "one.txt" not in sh("aws s3 ls --recursive s3://cli-of-tests")
    assert "BucketNotEmpty" in sh("aws s3 rb s3://cli-of-tests", status=1)
    sh("aws s3 rm --recursive s3://cli-of-tests --quiet")
    sh("aws s3 rb s3://cli-of-tests")
    sh("aws s3api head-bucket --bucket cli-of-tests", status=255)


def test_s3api_commands(sh: Shell) -> None:
    (sh.folder / "body").write_text("0123456789")
    sh("aws s3api create-bucket --bucket api-of-tests")
    put = sh.json(
        "aws s3api put-object --bucket api-of-tests --key k --body body --checksum-algorithm SHA256 --metadata a=b,c=d"
    )
    assert put["ChecksumSHA256"]
    head = sh.json("aws s3api head-object --bucket api-of-tests --key k --checksum-mode ENABLED")
    assert head["Metadata"] == {"a": "b", "c": "d"}
    assert head["ChecksumSHA256"] == put["ChecksumSHA256"]
    sh("aws s3api get-object --bucket api-of-tests --key k --range bytes=2-4 part")
    assert (sh.folder / "part").read_text() == "234"
    sh("aws s3api put-object --bucket api-of-tests --key k --body body --if-none-match '*'", status=255)
    names = sh("aws s3api list-objects-v2 --bucket api-of-tests --query 'Contents[].Key' --output text")
    assert names == "k"
    sh("aws s3api delete-objects --bucket api-of-tests --delete 'Objects=[{Key=k}]'")
    sh("aws s3api delete-bucket --bucket api-of-tests")


@pytest.mark.parametrize("action", ["regions", "instance-types", "security-groups"])
@pytest.mark.parametrize("output", ["text", "table"])
def test_listings_print_in_every_format(sh: Shell, action: str, output: str) -> None:
    assert sh(f"aws ec2 describe-{action} --output {output}")

"""Key pairs through EC2's clients."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from tests.cloud.refusal import in_turn, refused
from tests.cloud_fixture import RunningCloud

SPECIFICATION = [{"ResourceType": "key-pair", "Tags": [{"Key": "purpose", "Value": "tests"}]}]


@pytest.fixture(scope="module")
def client(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2", "keys")


@pytest.fixture
def ec2(client: Any) -> Iterator[Any]:
    yield client
    for key in client.describe_key_pairs()["KeyPairs"]:
        client.delete_key_pair(KeyPairId=key["KeyPairId"])


@pytest.fixture
def public_key(tmp_path: Path) -> bytes:
    file = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@here", "-f", str(file)], check=True)
    return file.with_suffix(".pub").read_bytes()


def test_an_rsa_key_is_made_with_its_fingerprint(ec2: Any) -> None:
    made = ec2.create_key_pair(KeyName="made", TagSpecifications=SPECIFICATION)
    assert made["KeyMaterial"].startswith("-----BEGIN RSA PRIVATE KEY-----")
    private = serialization.load_pem_private_key(made["KeyMaterial"].encode(), None)
    der = private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert made["KeyFingerprint"].replace(":", "") == hashlib.sha1(der, usedforsecurity=False).hexdigest()
    assert made["Tags"] == [{"Key": "purpose", "Value": "tests"}]
    assert made["KeyPairId"].startswith("key-")
    ec2.get_waiter("key_pair_exists").wait(KeyNames=["made"])
    (shown,) = ec2.describe_key_pairs(KeyNames=["made"], IncludePublicKey=True)["KeyPairs"]
    assert shown["KeyType"] == "rsa"
    assert shown["KeyFingerprint"] == made["KeyFingerprint"]
    assert re.fullmatch("ssh-rsa [^ ]+ made\n", shown["PublicKey"])
    assert "PublicKey" not in ec2.describe_key_pairs()["KeyPairs"][0]


def test_an_ed25519_key_is_made(ec2: Any) -> None:
    made = ec2.create_key_pair(KeyName="small", KeyType="ed25519", KeyFormat="pem")
    assert made["KeyMaterial"].startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert serialization.load_ssh_private_key(made["KeyMaterial"].encode(), None)


def test_a_key_is_made_for_putty(ec2: Any) -> None:
    made = ec2.create_key_pair(KeyName="putty", KeyType="ed25519", KeyFormat="ppk")
    assert made["KeyMaterial"].startswith("PuTTY-User-Key-File-2: ssh-ed25519\r\n")
    assert "Comment: putty\r\n" in made["KeyMaterial"]


def test_an_openssh_key_is_imported(ec2: Any, public_key: bytes) -> None:
    made = ec2.import_key_pair(KeyName="mine", PublicKeyMaterial=public_key, TagSpecifications=SPECIFICATION)
    assert made["KeyName"] == "mine"
    (shown,) = ec2.describe_key_pairs(KeyPairIds=[made["KeyPairId"]], IncludePublicKey=True)["KeyPairs"]
    assert shown["KeyType"] == "ed25519"
    assert shown["PublicKey"].split()[:2] == public_key.decode().split()[:2]
    assert shown["Tags"] == [{"Key": "purpose", "Value": "tests"}]


@pytest.mark.parametrize(
    "material",
    [
        b"nonsense",
        b"",
        b"ssh-rsa",
        b"ssh-rsa AAAA",
        b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA not really",
        b"---- BEGIN SSH2 PUBLIC KEY ----\nx\n---- END SSH2 PUBLIC KEY ----",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        b"\x00\xff\xfe",
        b"ssh-dss AAAAB3NzaC1kc3MAAACBAP",
        b"A" * 100_000,
    ],
)
def test_what_is_no_public_key_is_refused(ec2: Any, material: bytes) -> None:
    with refused("InvalidKey.Format" if material else "MissingParameter"):
        ec2.import_key_pair(KeyName="bad", PublicKeyMaterial=material)
    assert ec2.describe_key_pairs()["KeyPairs"] == []


def test_a_name_is_taken_once(ec2: Any, public_key: bytes) -> None:
    ec2.create_key_pair(KeyName="one", KeyType="ed25519")
    with refused("InvalidKeyPair.Duplicate", words="The keypair 'one' already exists."):
        ec2.create_key_pair(KeyName="one", KeyType="ed25519")
    with refused("InvalidKeyPair.Duplicate"):
        ec2.import_key_pair(KeyName="one", PublicKeyMaterial=public_key)
    with refused("InvalidKeyPair.Duplicate"):
        ec2.create_key_pair(KeyName="one", DryRun=True)


def test_deleting_a_key_is_repeatable(ec2: Any) -> None:
    key = ec2.create_key_pair(KeyName="gone", KeyType="ed25519")
    answer = ec2.delete_key_pair(KeyName="gone")
    assert answer["Return"] is True
    assert answer["KeyPairId"] == key["KeyPairId"]
    assert ec2.delete_key_pair(KeyName="gone")["Return"] is True
    with refused("InvalidKeyPair.NotFound", words="The key pair 'gone' does not exist"):
        ec2.describe_key_pairs(KeyNames=["gone"])
    with refused("InvalidParameterValue", words=f"Invalid value '{key['KeyPairId']}' for keyPairId."):
        ec2.describe_key_pairs(KeyPairIds=[key["KeyPairId"]])


def test_a_dry_run_changes_nothing(ec2: Any, public_key: bytes) -> None:
    calls = in_turn(
        lambda: ec2.create_key_pair(KeyName="dry", DryRun=True),
        lambda: ec2.import_key_pair(KeyName="dry", PublicKeyMaterial=public_key, DryRun=True),
        lambda: ec2.delete_key_pair(KeyName="dry", DryRun=True),
    )
    for call in calls:
        with refused("DryRunOperation", 412):
            call()
    assert ec2.describe_key_pairs()["KeyPairs"] == []


def test_bad_arguments_are_refused(ec2: Any) -> None:
    for arguments, code in (
        ({"KeyName": ""}, "MissingParameter"),
        ({"KeyName": "x" * 256}, "InvalidParameterValue"),
        ({"KeyName": "schlüssel"}, "InvalidParameterValue"),
        ({"KeyName": "x", "KeyType": "dsa"}, "InvalidParameterValue"),
        ({"KeyName": "x", "KeyType": "dsa", "DryRun": True}, "InvalidParameterValue"),
        ({"KeyName": "x", "KeyFormat": "der"}, "InvalidParameterValue"),
        ({"KeyName": "x", "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "a"}]}]}, None),
        ({"KeyName": "x", "TagSpecifications": [{"ResourceType": "key-pair"}]}, None),
        ({"KeyName": "x", "TagSpecifications": [{"Tags": [{"Key": "a", "Value": "b"}]}]}, None),
    ):
        with refused(code or "InvalidParameterValue"):
            ec2.create_key_pair(**arguments)
    with refused("MissingParameter"):
        ec2.delete_key_pair()
    with refused("InvalidParameterCombination"):
        ec2.delete_key_pair(KeyName="a", KeyPairId="key-0123456789abcdef0")


def test_filters_select(ec2: Any) -> None:
    ec2.create_key_pair(KeyName="web-1", KeyType="ed25519", TagSpecifications=SPECIFICATION)
    ec2.create_key_pair(KeyName="web-2", KeyType="ed25519")
    ec2.create_key_pair(KeyName="db*", KeyType="ed25519")

    def names(*filters: tuple[str, list[str]]) -> list[str]:
        found = ec2.describe_key_pairs(Filters=[{"Name": n, "Values": v} for n, v in filters])
        return [key["KeyName"] for key in found["KeyPairs"]]

    assert names(("key-name", ["web-*"])) == ["web-1", "web-2"]
    assert names(("key-name", ["web-?", "nothing"])) == ["web-1", "web-2"]
    assert names(("key-name", ["db\\*"])) == ["db*"]
    assert names(("key-name", ["WEB-*"])) == []
    assert names(("tag:purpose", ["test*"])) == ["web-1"]
    assert names(("tag-key", ["purpose"]), ("key-name", ["*"])) == ["web-1"]
    assert names(("tag:purpose", ["tests"]), ("key-name", ["web-2"])) == []


def test_a_key_that_is_named_twice_is_shown_once(ec2: Any) -> None:
    key = ec2.create_key_pair(KeyName="twice", KeyType="ed25519")
    assert len(ec2.describe_key_pairs(KeyNames=["twice", "twice"])["KeyPairs"]) == 1
    assert len(ec2.describe_key_pairs(KeyPairIds=[key["KeyPairId"]] * 2)["KeyPairs"]) == 1
    with refused("InvalidParameterCombination"):
        ec2.describe_key_pairs(KeyNames=["twice"], KeyPairIds=[key["KeyPairId"]])


def test_accounts_do_not_see_each_others_keys(ec2: Any, fake_cloud: RunningCloud) -> None:
    key = ec2.create_key_pair(KeyName="private", KeyType="ed25519")
    other = fake_cloud.client("ec2", "neighbour")
    with refused("InvalidKeyPair.NotFound"):
        other.describe_key_pairs(KeyNames=["private"])
    with refused("InvalidParameterValue"):
        other.describe_key_pairs(KeyPairIds=[key["KeyPairId"]])
    other.delete_key_pair(KeyPairId=key["KeyPairId"])
    assert [k["KeyName"] for k in ec2.describe_key_pairs()["KeyPairs"]] == ["private"]

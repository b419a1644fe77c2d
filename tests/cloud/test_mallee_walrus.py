"""`mallee walrus` on a whole cloud with fake drivers."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.cloud_fixture import RunningCloud


def test_the_store_is_compared_and_copied(fake_cloud: RunningCloud, tmp_path: Path) -> None:
    s3 = fake_cloud.client("s3")
    s3.create_bucket(Bucket="copied")
    s3.put_object(Bucket="copied", Key="k", Body=bytes(100_000))
    shown = fake_cloud.json("walrus", "scrub")
    assert shown["Findings"] == []
    assert shown["ScrubbedBytes"] >= 100_000
    first = fake_cloud.json("walrus", "backup", str(tmp_path / "backup"))
    assert first["Blobs"] == first["NewBlobs"] > 0
    assert fake_cloud.json("walrus", "backup", str(tmp_path / "backup"))["NewBlobs"] == 0
    refused = fake_cloud.mallee("walrus", "restore", str(tmp_path / "backup"), "--replace", check=False)
    assert refused.returncode == 1
    assert "mallee down" in refused.stderr
    s3.delete_object(Bucket="copied", Key="k")
    s3.delete_bucket(Bucket="copied")


def test_a_quota_is_told_to_clients_and_to_the_operator(fake_cloud: RunningCloud) -> None:
    s3 = fake_cloud.client("s3")
    s3.create_bucket(Bucket="limited")
    shown = fake_cloud.json("walrus", "quota", "--bucket", "limited", "--bytes", "1K", "--objects", "2")
    assert shown == {"Bucket": "limited", "Bytes": 1024, "Objects": 2}
    s3.put_object(Bucket="limited", Key="k", Body=bytes(1024))
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket="limited", Key="l", Body=b"x")
    assert caught.value.response["Error"]["Code"] == "QuotaExceeded"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    admin = fake_cloud.json("accounts", "list")[0]["AccountId"]
    (held,) = [one for one in fake_cloud.json("walrus", "usage", admin) if one["Bucket"] == "limited"]
    assert (held["Objects"], held["Bytes"], held["QuotaBytes"], held["QuotaObjects"]) == (1, 1024, 1024, 2)
    assert any(one["AccountId"] == admin and one["Bytes"] >= 1024 for one in fake_cloud.json("walrus", "usage"))
    fake_cloud.json("walrus", "quota", "--bucket", "limited")
    s3.put_object(Bucket="limited", Key="l", Body=b"x")
    for key in ("k", "l"):
        s3.delete_object(Bucket="limited", Key=key)
    s3.delete_bucket(Bucket="limited")


def test_master_keys_are_rotated_while_the_store_serves(fake_cloud: RunningCloud) -> None:
    s3 = fake_cloud.client("s3")
    s3.create_bucket(Bucket="rotated")
    s3.put_object(Bucket="rotated", Key="k", Body=b"secret", ServerSideEncryption="AES256")
    path = fake_cloud.config.pki_path / "object.keys"
    there = path.stat()
    before = path.read_text().split()
    shown = fake_cloud.json("walrus", "keys", "rotate")
    assert (shown["Unopened"], shown["File"]) == ([], str(path))
    assert shown["Resealed"] >= 1
    assert path.read_text().split()[1:] == before
    assert (path.stat().st_uid, path.stat().st_mode) == (there.st_uid, there.st_mode)
    again = fake_cloud.json("walrus", "keys", "reseal")
    assert (again["Resealed"], again["Newest"]) == (0, shown["Newest"])
    assert s3.get_object(Bucket="rotated", Key="k")["Body"].read() == b"secret"
    s3.delete_object(Bucket="rotated", Key="k")
    s3.delete_bucket(Bucket="rotated")

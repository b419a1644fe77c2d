"""Two processes of Walrus share the buckets: clients see one store."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from common.shards import shard_of
from deploy import config_file
from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud, new_home, running
from tests.eventually import until
from tests.ports import free_port_base

HOMES = Path(tempfile.gettempdir()) / "mallee-test-shards"
BODY = os.urandom(6 << 20)


@pytest.fixture(scope="module")
def cloud() -> Iterator[RunningCloud]:
    options = ["--hypervisor", "fake", "--no-image", "--port-base", str(free_port_base()), "--walrus-processes", "2"]
    for made in running(RunningCloud(home=new_home(HOMES), options=options)):
        before = made.config
        walrus = dataclasses.replace(before.walrus, access_log_s=0.5)
        config_file.write(made.home / config_file.FILE_NAME, dataclasses.replace(before, walrus=walrus))
        made.up()
        yield made


@pytest.fixture(scope="module")
def s3(cloud: RunningCloud) -> Any:
    return cloud.client("s3", "sharer")


def name_in(shard: int, stem: str) -> str:
    """A bucket's name that the rule gives to that process."""
    return next(name for n in itertools.count() if shard_of(name := f"{stem}-{n}", 2) == shard)


@pytest.fixture(scope="module")
def pair(s3: Any) -> tuple[str, str]:
    """A bucket of each process."""
    first, second = name_in(0, "pair"), name_in(1, "pair")
    for name in (first, second):
        s3.create_bucket(Bucket=name)
    return first, second


def test_each_process_has_its_buckets_and_clients_see_all(s3: Any, cloud: RunningCloud, pair: tuple[str, str]) -> None:
    for name in pair:
        s3.put_object(Bucket=name, Key="whose", Body=name.encode())
        assert s3.get_object(Bucket=name, Key="whose")["Body"].read() == name.encode()
        assert [one["Key"] for one in s3.list_objects_v2(Bucket=name)["Contents"]] == ["whose"]
    for shard, name in enumerate(pair):
        assert name.encode() in _bytes_under(cloud.config.walrus_path(shard))
        assert name.encode() not in _bytes_under(cloud.config.walrus_path(1 - shard))


def _bytes_under(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("index.sqlite*"))


def test_buckets_are_listed_in_one_order_and_in_pages(cloud: RunningCloud) -> None:
    s3 = cloud.client("s3", "lister")
    made = sorted(name for stem in ("la", "lb", "lc") for name in (name_in(0, stem), name_in(1, stem)))
    for name in reversed(made):
        s3.create_bucket(Bucket=name)
    assert [one["Name"] for one in s3.list_buckets()["Buckets"]] == made
    for size in (1, 2, 4):
        pages = s3.get_paginator("list_buckets").paginate(PaginationConfig={"PageSize": size})
        shown = [[one["Name"] for one in page["Buckets"]] for page in pages]
        assert [len(page) for page in shown[:-1]] == [size] * (len(shown) - 1)
        assert list(itertools.chain(*shown)) == made
    assert [one["Name"] for one in s3.list_buckets(Prefix="lb")["Buckets"]] == [n for n in made if n.startswith("lb")]
    s3.delete_bucket(Bucket=made[0])
    assert [one["Name"] for one in s3.list_buckets()["Buckets"]] == made[1:]


@pytest.mark.parametrize("back", [False, True])
def test_a_copy_crosses_with_all_that_belongs_to_it(s3: Any, pair: tuple[str, str], back: bool) -> None:
    source, target = pair[::-1] if back else pair
    told = {"ContentType": "text/x", "CacheControl": "no-cache", "Metadata": {"a": "1"}, "Tagging": "t=1&u=2"}
    for key, body in (("small", b"small"), ("large", BODY), ("empty", b"")):
        put = s3.put_object(Bucket=source, Key=key, Body=body, ChecksumAlgorithm="SHA256", **told)
        done = s3.copy_object(Bucket=target, Key=f"{key}-copy", CopySource={"Bucket": source, "Key": key})
        assert done["CopyObjectResult"]["ETag"] == put["ETag"]
        got = s3.get_object(Bucket=target, Key=f"{key}-copy", ChecksumMode="ENABLED")
        assert got["Body"].read() == body
        assert (got["ContentType"], got["CacheControl"], got["Metadata"]) == ("text/x", "no-cache", {"a": "1"})
        assert got["ChecksumSHA256"] == put["ChecksumSHA256"]
        tags = s3.get_object_tagging(Bucket=target, Key=f"{key}-copy")["TagSet"]
        assert tags == [{"Key": "t", "Value": "1"}, {"Key": "u", "Value": "2"}]
    s3.copy_object(
        Bucket=target,
        Key="said-anew",
        CopySource={"Bucket": source, "Key": "small"},
        MetadataDirective="REPLACE",
        TaggingDirective="REPLACE",
    )
    anew = s3.get_object(Bucket=target, Key="said-anew")
    assert (anew["Metadata"], anew.get("TagCount")) == ({}, None)


def test_a_copy_across_is_refused_as_any_copy(s3: Any, cloud: RunningCloud, pair: tuple[str, str]) -> None:
    source, target = pair
    put = s3.put_object(Bucket=source, Key="guarded", Body=b"guarded")
    from_it = {"Bucket": target, "Key": "guarded-copy", "CopySource": {"Bucket": source, "Key": "guarded"}}
    with refused("PreconditionFailed", 412):
        s3.copy_object(**from_it, CopySourceIfNoneMatch=put["ETag"])
    with refused("PreconditionFailed", 412):
        s3.copy_object(**from_it, CopySourceIfMatch='"other"')
    with refused("NoSuchKey", 404):
        s3.copy_object(**from_it | {"CopySource": {"Bucket": source, "Key": "none"}})
    with refused("NoSuchBucket", 404):
        s3.copy_object(**from_it | {"CopySource": {"Bucket": name_in(0, "none"), "Key": "none"}})
    with refused("NoSuchKey", 404):
        s3.get_object(Bucket=target, Key="guarded-copy")
    stranger = cloud.client("s3", "stranger")
    own = name_in(1, "strangers")
    stranger.create_bucket(Bucket=own)
    with refused("AccessDenied", 403):
        stranger.copy_object(**from_it | {"Bucket": own})
    assert s3.copy_object(**from_it, CopySourceIfMatch=put["ETag"])["CopyObjectResult"]["ETag"] == put["ETag"]


def test_versions_and_keys_of_clients_cross(s3: Any) -> None:
    source, target = name_in(1, "versions"), name_in(0, "versions")
    for name in (source, target):
        s3.create_bucket(Bucket=name)
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    first = s3.put_object(Bucket=source, Key="a", Body=b"first")["VersionId"]
    s3.put_object(Bucket=source, Key="a", Body=b"second")
    marker = s3.delete_object(Bucket=source, Key="a")["VersionId"]
    done = s3.copy_object(Bucket=target, Key="a", CopySource={"Bucket": source, "Key": "a", "VersionId": first})
    assert done["CopySourceVersionId"] == first
    assert s3.get_object(Bucket=target, Key="a", VersionId=done["VersionId"])["Body"].read() == b"first"
    with refused("InvalidRequest", 400):
        s3.copy_object(Bucket=target, Key="a", CopySource={"Bucket": source, "Key": "a", "VersionId": marker})

    key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}
    its_key = {f"CopySource{name}": value for name, value in key.items()}
    s3.put_object(Bucket=source, Key="secret", Body=b"secret", **key)
    with refused("InvalidRequest", 400):
        s3.copy_object(Bucket=target, Key="secret", CopySource={"Bucket": source, "Key": "secret"})
    new = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "n" * 32}
    s3.copy_object(Bucket=target, Key="secret", CopySource={"Bucket": source, "Key": "secret"}, **its_key, **new)
    assert s3.get_object(Bucket=target, Key="secret", **new)["Body"].read() == b"secret"


def test_parts_are_copied_across(s3: Any, pair: tuple[str, str]) -> None:
    source, target = pair
    s3.put_object(Bucket=source, Key="whole", Body=BODY)
    upload = {"Bucket": target, "Key": "joined"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    cut = 5 << 20
    parts = []
    for number, (start, end) in enumerate(((0, cut), (cut, len(BODY))), start=1):
        done = s3.upload_part_copy(
            **upload,
            PartNumber=number,
            CopySource={"Bucket": source, "Key": "whole"},
            CopySourceRange=f"bytes={start}-{end - 1}",
        )
        parts.append({"PartNumber": number, "ETag": done["CopyPartResult"]["ETag"]})
    with refused("InvalidArgument", 400):
        s3.upload_part_copy(
            **upload,
            PartNumber=3,
            CopySource={"Bucket": source, "Key": "whole"},
            CopySourceRange=f"bytes=0-{len(BODY)}",
        )
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert s3.get_object(Bucket=target, Key="joined")["Body"].read() == BODY
    # And the joined one back.
    s3.copy_object(Bucket=source, Key="joined-back", CopySource={"Bucket": target, "Key": "joined"})
    assert s3.get_object(Bucket=source, Key="joined-back")["Body"].read() == BODY


def test_access_logs_go_to_a_bucket_of_the_other_process(s3: Any, pair: tuple[str, str]) -> None:
    logged, target = pair
    with refused("InvalidTargetBucketForLogging", 400):
        _log_into(s3, logged, name_in(1, "nowhere"))
    _log_into(s3, logged, target)

    def lines() -> list[str]:
        s3.put_object(Bucket=logged, Key="noted", Body=b"x")
        keys = [one["Key"] for one in s3.list_objects_v2(Bucket=target, Prefix="log-").get("Contents", [])]
        text = "".join(s3.get_object(Bucket=target, Key=key)["Body"].read().decode() for key in keys)
        return [line for line in text.splitlines() if "REST.PUT.OBJECT noted" in line]

    (line, *_) = until(lines, what="the log")
    assert f' "PUT /{logged}/noted HTTP/1.1" 200 ' in line
    s3.put_bucket_logging(Bucket=logged, BucketLoggingStatus={})


def _log_into(s3: Any, logged: str, target: str) -> None:
    enabled = {"TargetBucket": target, "TargetPrefix": "log-"}
    s3.put_bucket_logging(Bucket=logged, BucketLoggingStatus={"LoggingEnabled": enabled})


@pytest.mark.parametrize("shard", [0, 1])
def test_images_are_kept_where_their_object_is(cloud: RunningCloud, shard: int) -> None:
    s3, ec2 = cloud.client("s3", "imager"), cloud.client("ec2", "imager")
    bucket = name_in(shard, "images")
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="disk", Body=bytes([shard + 1]) * (1 << 20))
    image = ec2.register_image(Name=f"disk-{shard}", ImageLocation=f"{bucket}/disk")["ImageId"]
    s3.delete_object(Bucket=bucket, Key="disk")
    copy = ec2.copy_image(Name=f"copy-{shard}", SourceImageId=image, SourceRegion="us-east-1")["ImageId"]
    assert len(list((cloud.config.walrus_path(shard) / "pins").iterdir())) == 1
    ec2.deregister_image(ImageId=image)
    started = ec2.run_instances(ImageId=copy, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[started], WaiterConfig={"Delay": 1})
    ec2.terminate_instances(InstanceIds=[started])
    ec2.deregister_image(ImageId=copy)
    until(lambda: not list((cloud.config.walrus_path(shard) / "pins").iterdir()), what="the pins' end")


def test_one_process_that_is_away_takes_only_its_buckets_along(
    s3: Any, cloud: RunningCloud, pair: tuple[str, str]
) -> None:
    here, away = pair
    s3.put_object(Bucket=away, Key="kept", Body=b"kept")
    cloud.supervisor.stop_one("walrus-2")
    with refused("ServiceUnavailable", 503):
        s3.put_object(Bucket=away, Key="lost", Body=b"x")
    with refused("ServiceUnavailable", 503):
        s3.list_buckets()
    with refused("ServiceUnavailable", 503):
        s3.copy_object(Bucket=here, Key="copy", CopySource={"Bucket": away, "Key": "kept"})
    s3.put_object(Bucket=here, Key="goes-on", Body=b"x")
    assert s3.get_object(Bucket=here, Key="goes-on")["Body"].read() == b"x"
    refusal = cloud.mallee("walrus", "usage", check=False)
    assert (refusal.returncode, "walrus-2 does not run" in refusal.stderr) == (1, True)
    subprocess.run(["s6-svc", "-u", str(cloud.supervisor.folder / "walrus-2")], check=True)
    cloud.wait_ready("walrus-2")
    until(lambda: _is_back(s3, away), what="its buckets again")
    assert s3.get_object(Bucket=away, Key="kept")["Body"].read() == b"kept"
    assert {here, away} <= {one["Name"] for one in s3.list_buckets()["Buckets"]}


def _is_back(s3: Any, bucket: str) -> bool:
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        # Never that it is not there.
        return error.response["ResponseMetadata"]["HTTPStatusCode"] != 503
    return True


def test_an_accounts_quota_is_for_all_its_buckets(cloud: RunningCloud) -> None:
    s3 = cloud.client("s3", "limited")
    here, there = name_in(0, "limited"), name_in(1, "limited")
    for bucket in (here, there):
        s3.create_bucket(Bucket=bucket)
        s3.put_object(Bucket=bucket, Key="a", Body=b"a")
    cloud.mallee("walrus", "quota", "limited", "--objects", "2")
    for bucket in (here, there):
        with refused("QuotaExceeded", 403):
            s3.put_object(Bucket=bucket, Key="b", Body=b"b")
    shown = {one["AccountId"]: one for one in cloud.json("walrus", "usage")}[cloud.account("limited").account_id]
    assert (shown["Objects"], shown["QuotaObjects"]) == (2, 2)
    s3.delete_object(Bucket=there, Key="a")
    s3.put_object(Bucket=here, Key="b", Body=b"b")
    cloud.mallee("walrus", "quota", "--bucket", there, "--bytes", "0")
    with refused("QuotaExceeded", 403):
        s3.put_object(Bucket=there, Key="b", Body=b"b")


def test_a_backup_is_of_all_stores_and_brings_all_back(cloud: RunningCloud, tmp_path: Path) -> None:
    s3 = cloud.client("s3", "keeper")
    names = [name_in(0, "kept"), name_in(1, "kept")]
    for name in names:
        s3.create_bucket(Bucket=name)
        s3.put_object(Bucket=name, Key="large", Body=BODY)
    usage = {one["AccountId"]: one for one in cloud.json("walrus", "usage")}
    assert usage[cloud.account("keeper").account_id]["Bytes"] == 2 * len(BODY)
    shown = cloud.json("walrus", "usage", "keeper")
    assert [(one["Bucket"], one["Bytes"]) for one in shown] == [(name, len(BODY)) for name in sorted(names)]
    assert cloud.json("walrus", "scrub")["Findings"] == []
    folder = tmp_path / "backup"
    assert cloud.json("walrus", "backup", str(folder))["Findings"] == []
    for name in names:
        s3.delete_object(Bucket=name, Key="large")
    cloud.down()
    (folder / "walrus-2" / "manifest.json").rename(folder / "walrus-2" / "away")
    assert "holds no whole backup" in cloud.mallee("walrus", "restore", str(folder), "--replace", check=False).stderr
    (folder / "walrus-2" / "away").rename(folder / "walrus-2" / "manifest.json")
    assert cloud.json("walrus", "restore", str(folder), "--replace")["Findings"] == []
    cloud.up()
    for name in names:
        assert s3.get_object(Bucket=name, Key="large")["Body"].read() == BODY


def test_another_number_of_processes_is_refused_before_anything_stops(cloud: RunningCloud, s3: Any) -> None:
    before = cloud.config
    refusal = cloud.mallee("up", *cloud.options[:-1], "3", check=False)
    assert "among --walrus-processes 2 for good" in refusal.stderr
    edited = dataclasses.replace(before, walrus=dataclasses.replace(before.walrus, processes=1))
    file = cloud.home / config_file.FILE_NAME
    config_file.write(file, edited)
    refusal = cloud.mallee("up", check=False)
    assert "set it to 2 again" in " ".join(refusal.stderr.split())
    config_file.write(file, before)
    assert all(cloud.pid(member) for member in ("walrus-1", "walrus-2", "facade-1"))
    cloud.up()
    assert s3.list_buckets()["Buckets"]

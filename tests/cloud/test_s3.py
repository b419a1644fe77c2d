"""S3 by boto3 and the AWS CLI, through the facade and Walrus of a whole cloud."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from tests.cloud_fixture import RunningCloud

MIB = 1 << 20
LARGE = os.urandom(MIB) * 12


@pytest.fixture
def s3(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("s3")


@pytest.fixture
def bucket(s3: Any) -> Iterator[str]:
    name = f"bucket-{secrets.token_hex(6)}"
    s3.create_bucket(Bucket=name)
    yield name
    empty(s3, name)
    s3.delete_bucket(Bucket=name)


def empty(s3: Any, bucket: str) -> None:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        if keys := [{"Key": one["Key"]} for one in page.get("Contents", [])]:
            assert "Errors" not in s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})


def refused(code: str, status: int, call: Any, **arguments: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer: dict[str, Any] = caught.value.response  # type: ignore[assignment]
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)
    return answer


def test_a_bucket_lives(s3: Any, bucket: str) -> None:
    s3.create_bucket(Bucket=bucket)
    assert bucket in [one["Name"] for one in s3.list_buckets()["Buckets"]]
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None
    assert s3.head_bucket(Bucket=bucket)["BucketRegion"] == "us-east-1"
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    refused("BucketNotEmpty", 409, s3.delete_bucket, Bucket=bucket)
    refused("InvalidBucketName", 400, s3.create_bucket, Bucket="192.168.1.1")
    refused("NoSuchBucket", 404, s3.list_objects_v2, Bucket="no-such-bucket-here")
    refused("404", 404, s3.head_bucket, Bucket="no-such-bucket-here")


def test_a_bucket_of_another_account_is_closed(fake_cloud: RunningCloud, s3: Any, bucket: str) -> None:
    other = fake_cloud.client("s3", "other")
    refused("BucketAlreadyExists", 409, other.create_bucket, Bucket=bucket)
    refused("AccessDenied", 403, other.list_objects_v2, Bucket=bucket)
    refused("AccessDenied", 403, other.put_object, Bucket=bucket, Key="k", Body=b"")
    refused("403", 403, other.head_bucket, Bucket=bucket)
    assert other.list_buckets()["Buckets"] == []


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
@pytest.mark.parametrize("size", [0, 5, 12 * MIB])
def test_an_object_comes_back_with_its_checksum(s3: Any, bucket: str, algorithm: str, size: int) -> None:
    body = LARGE[:size]
    put = s3.put_object(
        Bucket=bucket, Key="a b/ü+%", Body=body, ChecksumAlgorithm=algorithm, Metadata={"Color": "red"},
        ContentType="text/plain", CacheControl="no-cache", ContentLanguage="de",
    )  # fmt: skip
    assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    assert put["ChecksumType"] == "FULL_OBJECT"
    found = s3.get_object(Bucket=bucket, Key="a b/ü+%", ChecksumMode="ENABLED")
    # Reading it, botocore compares the checksum.
    assert found["Body"].read() == body
    assert found[f"Checksum{algorithm}"] == put[f"Checksum{algorithm}"]
    assert (found["Metadata"], found["ContentType"]) == ({"color": "red"}, "text/plain")
    assert (found["CacheControl"], found["ContentLanguage"]) == ("no-cache", "de")
    head = s3.head_object(Bucket=bucket, Key="a b/ü+%")
    assert (head["ContentLength"], head["ETag"]) == (size, put["ETag"])


def test_a_body_of_unknown_length_comes_with_a_trailer(s3: Any, bucket: str) -> None:
    s3.upload_fileobj(io.BytesIO(LARGE[:100_000]), bucket, "k")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == LARGE[:100_000]


def test_ranges_and_conditions(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")["ETag"]
    part = s3.get_object(Bucket=bucket, Key="k", Range="bytes=2-4")
    assert (part["Body"].read(), part["ContentRange"]) == (b"234", "bytes 2-4/10")
    assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
    refused("InvalidRange", 416, s3.get_object, Bucket=bucket, Key="k", Range="bytes=10-")
    refused("304", 304, s3.get_object, Bucket=bucket, Key="k", IfNoneMatch=etag)
    refused("PreconditionFailed", 412, s3.get_object, Bucket=bucket, Key="k", IfMatch='"other"')
    refused("PreconditionFailed", 412, s3.put_object, Bucket=bucket, Key="k", Body=b"", IfNoneMatch="*")
    refused("NoSuchKey", 404, s3.get_object, Bucket=bucket, Key="other")
    refused("404", 404, s3.head_object, Bucket=bucket, Key="other")
    override = s3.get_object(Bucket=bucket, Key="k", ResponseContentType="x/y")
    assert override["ContentType"] == "x/y"


def test_wrong_digests_are_refused(s3: Any, bucket: str) -> None:
    put = {"Bucket": bucket, "Key": "k", "Body": b"abc"}
    refused("BadDigest", 400, s3.put_object, **put, ContentMD5="1B2M2Y8AsgTpgAmY7PhCfg==")
    refused("BadDigest", 400, s3.put_object, **put, ChecksumCRC32="AAAAAA==")
    refused("InvalidDigest", 400, s3.put_object, **put, ContentMD5="abc")
    refused("404", 404, s3.head_object, Bucket=bucket, Key="k")


def test_a_listing_comes_in_pages(s3: Any, bucket: str) -> None:
    for key in ("a/1", "a/2", "b", "c d", "e/\u00e9", "e/\U0001f600"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    for version in ("list_objects", "list_objects_v2"):
        pages = list(s3.get_paginator(version).paginate(Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 1}))
        assert len(pages) == 4
        assert [one["Key"] for page in pages for one in page.get("Contents", [])] == ["b", "c d"]
        assert [one["Prefix"] for page in pages for one in page.get("CommonPrefixes", [])] == ["a/", "e/"]
    under = s3.list_objects_v2(Bucket=bucket, Prefix="e/", FetchOwner=True)
    assert [one["Key"] for one in under["Contents"]] == ["e/\u00e9", "e/\U0001f600"]
    assert under["Contents"][0]["Owner"]["ID"]
    after = s3.list_objects_v2(Bucket=bucket, StartAfter="c d", EncodingType="url")
    assert (after["KeyCount"], after["Contents"][0]["Key"]) == (2, "e/%C3%A9")


def test_a_large_file_goes_in_parts(s3: Any, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(LARGE)
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    s3.upload_file(str(tmp_path / "large"), bucket, "large", Config=config, ExtraArgs={"Metadata": {"a": "b"}})
    head = s3.head_object(Bucket=bucket, Key="large", ChecksumMode="ENABLED")
    assert head["ETag"].endswith('-3"')
    assert head["Metadata"] == {"a": "b"}
    s3.download_file(bucket, "large", str(tmp_path / "back"), Config=config)
    assert (tmp_path / "back").read_bytes() == LARGE
    second = s3.get_object(Bucket=bucket, Key="large", PartNumber=2)
    assert (second["PartsCount"], second["Body"].read()) == (3, LARGE[5 * MIB : 10 * MIB])


def test_an_upload_by_hand(s3: Any, bucket: str) -> None:
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k")
    names = {"Bucket": bucket, "Key": "k", "UploadId": begun["UploadId"]}
    small = s3.upload_part(**names, PartNumber=1, Body=b"small")
    last = s3.upload_part(**names, PartNumber=2, Body=b"last")
    parts = [{"PartNumber": n, "ETag": part["ETag"]} for n, part in ((1, small), (2, last))]
    refused("EntityTooSmall", 400, s3.complete_multipart_upload, **names, MultipartUpload={"Parts": parts})
    backwards = {"Parts": parts[::-1]}
    refused("InvalidPartOrder", 400, s3.complete_multipart_upload, **names, MultipartUpload=backwards)
    missing = {"Parts": [{"PartNumber": 7, "ETag": '"x"'}]}
    refused("InvalidPart", 400, s3.complete_multipart_upload, **names, MultipartUpload=missing)
    assert [part["PartNumber"] for part in s3.list_parts(**names)["Parts"]] == [1, 2]
    assert [one["UploadId"] for one in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [begun["UploadId"]]
    for _ in range(2):
        done = s3.complete_multipart_upload(**names, MultipartUpload={"Parts": parts[1:]})
        assert done["ETag"].endswith('-1"')
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"last"
    refused("NoSuchUpload", 404, s3.abort_multipart_upload, **names)


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_presigned_addresses_need_no_key(fake_cloud: RunningCloud, bucket: str, version: str) -> None:
    signer = fake_cloud.client("s3", signature_version=version)
    put = signer.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"})
    # The old signature covers the content type, and urllib would add one.
    request = urllib.request.Request(put, data=b"hello", method="PUT", headers={"Content-Type": ""})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    get = signer.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    with urllib.request.urlopen(get) as answer:
        assert answer.read() == b"hello"


def test_the_aws_cli_copies_lists_and_removes(fake_cloud: RunningCloud, bucket: str, tmp_path: Path) -> None:
    def aws(*arguments: str) -> str:
        done = subprocess.run(
            ["aws", "s3", *arguments], env=fake_cloud.environment(), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "large").write_bytes(LARGE)
    (folder / "sub" / "small").write_bytes(b"small")
    aws("sync", str(folder), f"s3://{bucket}/copy", "--no-progress")
    assert "PRE sub/" in aws("ls", f"s3://{bucket}/copy/")
    aws("sync", f"s3://{bucket}/copy", str(tmp_path / "back"), "--no-progress")
    assert (tmp_path / "back" / "large").read_bytes() == LARGE
    assert (tmp_path / "back" / "sub" / "small").read_bytes() == b"small"
    aws("rm", "--recursive", f"s3://{bucket}/copy")
    assert aws("ls", f"s3://{bucket}", "--recursive") == ""

"""Multipart uploads through S3's clients, and boto3's transfers."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import boto3
import pytest
from boto3.s3.transfer import TransferConfig

from tests.cloud.refusal import in_turn, refused
from tests.cloud_fixture import RunningCloud

BUCKET = "multipart-of-tests"
MIB = 1 << 20
FIRST, LAST = b"a" * (5 * MIB), b"the end"


@pytest.fixture(scope="module")
def s3(fake_cloud: RunningCloud) -> Any:
    client = fake_cloud.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


def begin(s3: Any, key: str, **more: Any) -> dict[str, str]:
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=key, **more)["UploadId"]
    return {"Bucket": BUCKET, "Key": key, "UploadId": upload}


def parts(s3: Any, upload: dict[str, str], *bodies: bytes, **more: Any) -> list[dict[str, Any]]:
    found = []
    for number, body in enumerate(bodies, 1):
        answer = s3.upload_part(**upload, PartNumber=number, Body=body, **more)
        sums = {name: value for name, value in answer.items() if name.startswith("Checksum")}
        found.append({"PartNumber": number, "ETag": answer["ETag"], **sums})
    return found


def test_parts_become_an_object(s3: Any) -> None:
    upload = begin(s3, "parts", ContentType="text/plain", Metadata={"made": "in parts"})
    sent = parts(s3, upload, FIRST, LAST)
    listed = s3.list_parts(**upload)
    assert [(p["PartNumber"], p["Size"], p["ETag"]) for p in listed["Parts"]] == [
        (1, len(FIRST), sent[0]["ETag"]),
        (2, len(LAST), sent[1]["ETag"]),
    ]
    assert listed["StorageClass"] == "STANDARD"
    assert listed["IsTruncated"] is False
    done = s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent})
    digests = b"".join(hashlib.md5(body, usedforsecurity=False).digest() for body in (FIRST, LAST))
    assert done["ETag"] == f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-2"'
    assert done["Bucket"] == BUCKET
    assert done["Key"] == "parts"
    assert done["Location"] == f"{s3.meta.endpoint_url}/{BUCKET}/parts"
    got = s3.get_object(Bucket=BUCKET, Key="parts")
    assert got["Body"].read() == FIRST + LAST
    assert got["Metadata"] == {"made": "in parts"}
    assert got["ContentType"] == "text/plain"
    second = s3.get_object(Bucket=BUCKET, Key="parts", PartNumber=2)
    assert second["Body"].read() == LAST
    assert second["PartsCount"] == 2
    assert second["ContentRange"] == f"bytes {len(FIRST)}-{len(FIRST) + len(LAST) - 1}/{len(FIRST) + len(LAST)}"
    with refused("InvalidPartNumber", 416):
        s3.get_object(Bucket=BUCKET, Key="parts", PartNumber=3)
    # Completing again answers the same.
    assert s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent})["ETag"] == done["ETag"]
    with refused("NoSuchUpload", 404):
        s3.upload_part(**upload, PartNumber=3, Body=b"late")


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "SHA1", "SHA256"])
def test_composite_checksums(s3: Any, algorithm: str) -> None:
    upload = begin(s3, f"composite-{algorithm}", ChecksumAlgorithm=algorithm)
    sent = parts(s3, upload, FIRST, LAST, ChecksumAlgorithm=algorithm)
    assert all(f"Checksum{algorithm}" in part for part in sent)
    done = s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent})
    assert done[f"Checksum{algorithm}"].endswith("-2")
    head = s3.head_object(Bucket=BUCKET, Key=upload["Key"], ChecksumMode="ENABLED")
    assert head["ChecksumType"] == "COMPOSITE"
    assert head[f"Checksum{algorithm}"] == done[f"Checksum{algorithm}"]


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME"])
def test_full_object_checksums(s3: Any, algorithm: str) -> None:
    upload = begin(s3, f"full-{algorithm}", ChecksumAlgorithm=algorithm, ChecksumType="FULL_OBJECT")
    sent = parts(s3, upload, FIRST, LAST, ChecksumAlgorithm=algorithm)
    done = s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent}, ChecksumType="FULL_OBJECT")
    whole = s3.put_object(Bucket=BUCKET, Key="whole", Body=FIRST + LAST, ChecksumAlgorithm=algorithm)
    assert done[f"Checksum{algorithm}"] == whole[f"Checksum{algorithm}"]
    assert done["ChecksumType"] == "FULL_OBJECT"


def test_an_upload_is_aborted(s3: Any) -> None:
    upload = begin(s3, "aborted")
    sent = parts(s3, upload, LAST)
    assert s3.abort_multipart_upload(**upload)["ResponseMetadata"]["HTTPStatusCode"] == 204
    calls = in_turn(
        lambda: s3.abort_multipart_upload(**upload),
        lambda: s3.list_parts(**upload),
        lambda: s3.upload_part(**upload, PartNumber=1, Body=b"x"),
        lambda: s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent}),
    )
    for call in calls:
        with refused("NoSuchUpload", 404):
            call()
    with refused("404", 404):
        s3.head_object(Bucket=BUCKET, Key="aborted")


def test_a_bad_completion_is_refused_and_the_upload_stays(s3: Any) -> None:
    upload = begin(s3, "bad")
    first, second = parts(s3, upload, b"small", b"second")
    for given, code in (
        ([first, second], "EntityTooSmall"),
        ([second, first], "InvalidPartOrder"),
        ([first, first], "InvalidPartOrder"),
        ([first | {"ETag": '"0123456789abcdef0123456789abcdef"'}], "InvalidPart"),
        ([first | {"PartNumber": 7}], "InvalidPart"),
        ([], "InvalidRequest"),
    ):
        with refused(code):
            s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": given})
    with refused("MalformedXML"):
        s3.complete_multipart_upload(**upload)
    for number in (0, 10001, -1):
        with refused("InvalidArgument"):
            s3.upload_part(**upload, PartNumber=number, Body=b"x")
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [second]})
    assert s3.get_object(Bucket=BUCKET, Key="bad")["Body"].read() == b"second"


def test_a_part_is_replaced(s3: Any) -> None:
    upload = begin(s3, "replaced")
    parts(s3, upload, b"old")
    sent = parts(s3, upload, b"new")
    assert len(s3.list_parts(**upload)["Parts"]) == 1
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent})
    assert s3.get_object(Bucket=BUCKET, Key="replaced")["Body"].read() == b"new"


def test_uploads_and_parts_are_listed_in_pages(s3: Any) -> None:
    begun = [begin(s3, f"listed/{name}") for name in ("a", "b", "b", "c/d", "c/e")]
    where = {"Bucket": BUCKET, "Prefix": "listed/"}
    everything = s3.list_multipart_uploads(**where)["Uploads"]
    assert sorted(u["UploadId"] for u in everything) == sorted(u["UploadId"] for u in begun)
    pages = list(s3.get_paginator("list_multipart_uploads").paginate(**where, PaginationConfig={"PageSize": 1}))
    assert [u["UploadId"] for page in pages for u in page["Uploads"]] == [u["UploadId"] for u in everything]
    grouped = s3.list_multipart_uploads(**where, Delimiter="/")
    assert [u["Key"] for u in grouped["Uploads"]] == ["listed/a", "listed/b", "listed/b"]
    assert grouped["CommonPrefixes"] == [{"Prefix": "listed/c/"}]
    parts(s3, begun[0], *[b"x"] * 5)
    pages = list(s3.get_paginator("list_parts").paginate(**begun[0], PaginationConfig={"PageSize": 2}))
    assert [[p["PartNumber"] for p in page["Parts"]] for page in pages] == [[1, 2], [3, 4], [5]]
    for upload in begun:
        s3.abort_multipart_upload(**upload)
    assert "Uploads" not in s3.list_multipart_uploads(**where)


def test_an_upload_id_belongs_to_its_key(s3: Any) -> None:
    upload = begin(s3, "mine")
    with refused("NoSuchUpload", 404):
        s3.upload_part(**upload | {"Key": "other"}, PartNumber=1, Body=b"x")
    for nonsense in ("nonsense", "../../etc/passwd", "x" * 5000, "ü"):
        with refused("NoSuchUpload", 404):
            s3.list_parts(Bucket=BUCKET, Key="mine", UploadId=nonsense)
    s3.abort_multipart_upload(**upload)


def test_a_completion_may_demand_that_nothing_is_there(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="taken", Body=b"first")
    upload = begin(s3, "taken")
    sent = parts(s3, upload, b"second")
    with refused("PreconditionFailed", 412):
        s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent}, IfNoneMatch="*")
    s3.delete_object(Bucket=BUCKET, Key="taken")
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent}, IfNoneMatch="*")


def test_a_file_of_64_mib_goes_up_and_down_in_parallel_parts(s3: Any, tmp_path: Path) -> None:
    body = os.urandom(MIB) * 64
    s3.upload_fileobj(io.BytesIO(body), BUCKET, "large", Config=TransferConfig(max_concurrency=8))
    head = s3.head_object(Bucket=BUCKET, Key="large")
    assert head["ContentLength"] == len(body)
    assert head["ETag"].endswith('-8"')
    down = tmp_path / "large"
    s3.download_file(BUCKET, "large", str(down), Config=TransferConfig(max_concurrency=8))
    assert hashlib.sha256(down.read_bytes()).digest() == hashlib.sha256(body).digest()


def test_the_resource_api_works(fake_cloud: RunningCloud, tmp_path: Path) -> None:
    keys = fake_cloud.account()
    s3 = boto3.resource(
        "s3",
        aws_access_key_id=keys.access_key_id,
        aws_secret_access_key=keys.secret_access_key,
        region_name="us-east-1",
        endpoint_url=fake_cloud.endpoint_url,
    )
    bucket = s3.create_bucket(Bucket="resources-of-tests")
    bucket.wait_until_exists()
    file = tmp_path / "up"
    file.write_bytes(b"from a file")
    bucket.upload_file(str(file), "dir/file", ExtraArgs={"ContentType": "text/plain", "Metadata": {"a": "b"}})
    item = bucket.Object("dir/file")
    item.wait_until_exists()
    assert item.metadata == {"a": "b"}
    assert item.get()["Body"].read() == b"from a file"
    bucket.put_object(Key="other", Body=b"x")
    assert [found.key for found in bucket.objects.all()] == ["dir/file", "other"]
    assert [found.key for found in bucket.objects.filter(Prefix="dir/")] == ["dir/file"]
    bucket.objects.all().delete()
    assert list(bucket.objects.all()) == []
    assert "resources-of-tests" in {found.name for found in s3.buckets.all()}
    bucket.delete()
    bucket.wait_until_not_exists()


def test_a_completion_names_as_many_parts_as_there_may_be(s3: Any) -> None:
    upload = {"Bucket": BUCKET, "Key": "many", "UploadId": "0" * 52}
    named = [
        {"PartNumber": n, "ETag": '"' + "0" * 32 + '"', "ChecksumSHA256": "A" * 43 + "="} for n in range(1, 10_002)
    ]
    with refused("NoSuchUpload", 404):
        s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": named[:-1]})
    with refused("MalformedXML", 400):
        s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": named})

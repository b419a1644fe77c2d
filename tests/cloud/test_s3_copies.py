"""Copies and attributes of objects through S3's clients."""

from __future__ import annotations

import io
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud

BUCKET = "copies-of-tests"
OTHER = "copies-go-here"
MIB = 1 << 20
BODY = b"0123456789abcdef" * (6 * MIB // 16)


@pytest.fixture(scope="module")
def s3(fake_cloud: RunningCloud) -> Any:
    client = fake_cloud.client("s3")
    client.create_bucket(Bucket=BUCKET)
    client.create_bucket(Bucket=OTHER)
    client.put_object(Bucket=BUCKET, Key="ä b/k+", Body=BODY, ContentType="text/plain", Metadata={"a": "1"})
    return client


def test_an_object_is_copied_into_another_bucket(s3: Any) -> None:
    source = {"Bucket": BUCKET, "Key": "ä b/k+"}
    done = s3.copy_object(Bucket=OTHER, Key="copy", CopySource=source)
    head = s3.head_object(Bucket=BUCKET, Key="ä b/k+")
    assert done["CopyObjectResult"]["ETag"] == head["ETag"]
    got = s3.get_object(Bucket=OTHER, Key="copy")
    assert got["Body"].read() == BODY
    assert (got["ContentType"], got["Metadata"]) == ("text/plain", {"a": "1"})
    with refused("PreconditionFailed", 412):
        s3.copy_object(Bucket=OTHER, Key="copy", CopySource=source, CopySourceIfNoneMatch=head["ETag"])
    with refused("InvalidRequest"):
        s3.copy_object(Bucket=BUCKET, Key="ä b/k+", CopySource=source)
    with refused("NoSuchKey", 404):
        s3.copy_object(Bucket=BUCKET, Key="copy", CopySource=f"{BUCKET}/never")
    s3.copy_object(
        Bucket=OTHER, Key="copy", CopySource=f"{OTHER}/copy", MetadataDirective="REPLACE", Metadata={"b": "2"}
    )
    assert s3.head_object(Bucket=OTHER, Key="copy")["Metadata"] == {"b": "2"}


def test_a_large_object_is_copied_in_parts_by_boto3(s3: Any) -> None:
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    s3.copy({"Bucket": BUCKET, "Key": "ä b/k+"}, OTHER, "managed", Config=config)
    body = io.BytesIO()
    s3.download_fileobj(OTHER, "managed", body)
    assert body.getvalue() == BODY
    told = s3.get_object_attributes(
        Bucket=OTHER, Key="managed", ObjectAttributes=["ETag", "Checksum", "ObjectParts", "ObjectSize", "StorageClass"]
    )
    assert told["ObjectSize"] == len(BODY)
    assert told["ETag"].endswith("-2")
    assert told["StorageClass"] == "STANDARD"
    assert told["ObjectParts"] == {"TotalPartsCount": 2}


def test_a_part_is_copied_to_the_letter_of_its_range(s3: Any) -> None:
    upload = {"Bucket": OTHER, "Key": "parts"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    source = {"CopySource": {"Bucket": BUCKET, "Key": "ä b/k+"}, "PartNumber": 1}
    with refused("InvalidArgument"):
        s3.upload_part_copy(**upload, **source, CopySourceRange=f"bytes=0-{len(BODY)}")
    done = s3.upload_part_copy(**upload, **source, CopySourceRange="bytes=5-15")["CopyPartResult"]
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": done["ETag"]}]})
    assert s3.get_object(Bucket=OTHER, Key="parts")["Body"].read() == BODY[5:16]

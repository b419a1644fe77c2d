"""Encryption through S3's clients: asked for, by the bucket's default, with keys of the client's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud

BUCKET = "encrypted"
SECRET = b"what nobody else may read. "
BODY = SECRET * 300_000
KEY, OTHER = os.urandom(32), os.urandom(32)
MINE = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": KEY}
THEIRS = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": OTHER}


@pytest.fixture(scope="module")
def s3(fake_cloud: RunningCloud) -> Any:
    client = fake_cloud.client("s3", "encryption")
    client.create_bucket(Bucket=BUCKET)
    return client


def on_disk(cloud: RunningCloud) -> bytes:
    root = Path(cloud.home) / "walrus"
    return b"".join(path.read_bytes() for path in [*root.glob("blobs/**/*"), *root.glob("index*")] if path.is_file())


def posted(form: Any) -> urllib3.BaseHTTPResponse:
    fields = {**form["fields"], "file": ("f", b"y")}
    answer = urllib3.request("POST", form["url"], fields=fields, timeout=30)
    assert answer.status == 204, answer.data
    return answer


def test_what_the_store_encrypts_is_read_like_anything_else(s3: Any, fake_cloud: RunningCloud) -> None:
    put = s3.put_object(Bucket=BUCKET, Key="own", Body=BODY, ServerSideEncryption="AES256")
    got = s3.get_object(Bucket=BUCKET, Key="own")
    assert got["Body"].read() == BODY
    for told in (put, got, s3.head_object(Bucket=BUCKET, Key="own")):
        assert told["ServerSideEncryption"] == "AES256"
    assert s3.get_object(Bucket=BUCKET, Key="own", Range="bytes=65530-65550")["Body"].read() == BODY[65530:65551]
    assert SECRET not in on_disk(fake_cloud)
    keys = Path(fake_cloud.home) / "pki" / "object.keys"
    assert keys.stat().st_mode & 0o777 == 0o600


def test_an_upload_in_parts_is_encrypted_and_copied(s3: Any) -> None:
    for key, asked, read in (("parts", {"ServerSideEncryption": "AES256"}, {}), ("parts-mine", MINE, MINE)):
        begun = s3.create_multipart_upload(Bucket=BUCKET, Key=key, **asked)
        where = {"Bucket": BUCKET, "Key": key, "UploadId": begun["UploadId"]}
        one = s3.upload_part(**where, PartNumber=1, Body=BODY, **read)
        source = {f"CopySource{name}": value for name, value in read.items()}
        s3.put_object(Bucket=BUCKET, Key=f"{key}-source", Body=BODY, **asked)
        copied = s3.upload_part_copy(**where, PartNumber=2, CopySource=f"{BUCKET}/{key}-source", **read, **source)
        etags = [one["ETag"], copied["CopyPartResult"]["ETag"]]
        done = s3.complete_multipart_upload(
            **where, MultipartUpload={"Parts": [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, 1)]}
        )
        assert done.get("ServerSideEncryption") == asked.get("ServerSideEncryption")
        for told in (begun, one, copied):
            assert told.get("SSECustomerAlgorithm") == read.get("SSECustomerAlgorithm")
        assert s3.get_object(Bucket=BUCKET, Key=key, **read)["Body"].read() == BODY * 2
        assert s3.get_object(Bucket=BUCKET, Key=key, PartNumber=2, **read)["Body"].read() == BODY


def test_a_clients_key_is_needed_to_read(s3: Any, fake_cloud: RunningCloud) -> None:
    s3.put_object(Bucket=BUCKET, Key="mine", Body=BODY, **MINE)
    assert s3.get_object(Bucket=BUCKET, Key="mine", **MINE)["Body"].read() == BODY
    assert s3.head_object(Bucket=BUCKET, Key="mine", **MINE)["SSECustomerAlgorithm"] == "AES256"
    with refused("InvalidRequest", 400):
        s3.get_object(Bucket=BUCKET, Key="mine")
    with refused("400", 400):
        s3.head_object(Bucket=BUCKET, Key="mine")
    with refused("AccessDenied", 403):
        s3.get_object(Bucket=BUCKET, Key="mine", **THEIRS)
    with refused("403", 403):
        s3.head_object(Bucket=BUCKET, Key="mine", **THEIRS)
    source = {f"CopySource{name}": value for name, value in MINE.items()}
    s3.copy_object(Bucket=BUCKET, Key="theirs", CopySource=f"{BUCKET}/mine", **source, **THEIRS)
    assert s3.get_object(Bucket=BUCKET, Key="theirs", **THEIRS)["Body"].read() == BODY
    with refused("InvalidArgument", 400):
        s3.put_object(Bucket=BUCKET, Key="mine", Body=b"", SSECustomerAlgorithm="AES256", SSECustomerKey=b"short")
    with refused("InvalidEncryptionAlgorithmError", 400):
        s3.put_object(Bucket=BUCKET, Key="mine", Body=b"", SSECustomerAlgorithm="DES", SSECustomerKey=KEY)
    assert KEY not in on_disk(fake_cloud)


def test_a_bucket_encrypts_what_is_put_without_a_word(s3: Any) -> None:
    none = "ServerSideEncryptionConfigurationNotFoundError"
    with refused(none, 404):
        s3.get_bucket_encryption(Bucket=BUCKET)
    rules = [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": False}]
    s3.put_bucket_encryption(Bucket=BUCKET, ServerSideEncryptionConfiguration={"Rules": rules})
    assert s3.get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]["Rules"] == rules
    assert s3.put_object(Bucket=BUCKET, Key="default", Body=b"x")["ServerSideEncryption"] == "AES256"
    form = s3.generate_presigned_post(BUCKET, "form")
    posted(form)
    assert s3.head_object(Bucket=BUCKET, Key="form")["ServerSideEncryption"] == "AES256"
    s3.delete_bucket_encryption(Bucket=BUCKET)
    with refused(none, 404):
        s3.get_bucket_encryption(Bucket=BUCKET)
    assert "ServerSideEncryption" not in s3.put_object(Bucket=BUCKET, Key="plain", Body=b"x")
    kms = [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}]
    with refused("NotImplemented", 501):
        s3.put_bucket_encryption(Bucket=BUCKET, ServerSideEncryptionConfiguration={"Rules": kms})


@pytest.mark.parametrize("action", ["HeadObject", "GetObject"])
def test_a_reader_does_not_choose_the_encryption(s3: Any, action: str) -> None:
    s3.put_object(Bucket=BUCKET, Key="read", Body=b"x", ServerSideEncryption="AES256")

    def ask(params: Any, **_: Any) -> None:
        params["headers"]["x-amz-server-side-encryption"] = "AES256"

    s3.meta.events.register(f"before-call.s3.{action}", ask)
    try:
        with refused({"HeadObject": "400", "GetObject": "InvalidArgument"}[action], 400):
            {"HeadObject": s3.head_object, "GetObject": s3.get_object}[action](Bucket=BUCKET, Key="read")
    finally:
        s3.meta.events.unregister(f"before-call.s3.{action}", ask)


def test_a_form_asks_for_encryption(s3: Any) -> None:
    fields = {"x-amz-server-side-encryption": "AES256"}
    form = s3.generate_presigned_post(BUCKET, "asked", Fields=fields, Conditions=[fields])
    assert posted(form).headers["x-amz-server-side-encryption"] == "AES256"
    assert s3.head_object(Bucket=BUCKET, Key="asked")["ServerSideEncryption"] == "AES256"

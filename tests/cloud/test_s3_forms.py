"""Browser forms and Signature Version 2 against the whole cloud."""

from __future__ import annotations

import base64
import http.client
import os
from typing import Any

import pytest
from urllib3.filepost import encode_multipart_formdata

from tests.cloud_fixture import RunningCloud

BUCKET = "forms-of-tests"


@pytest.fixture(scope="module")
def s3(fake_cloud: RunningCloud) -> Any:
    client = fake_cloud.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


def post(cloud: RunningCloud, fields: dict[str, str], body: bytes) -> tuple[int, bytes]:
    form, content_type = encode_multipart_formdata([*fields.items(), ("file", ("f", body))])
    connection = http.client.HTTPConnection("127.0.0.1", cloud.config.facade.port, timeout=30)
    connection.request("POST", f"/{BUCKET}", form, {"Content-Type": content_type})
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.parametrize("version", ["s3v4", "s3"])
def test_a_browser_brings_an_object_with_a_signed_form(fake_cloud: RunningCloud, s3: Any, version: str) -> None:
    fields = {"Content-Type": "text/x", "x-amz-meta-a": "1"}
    made = fake_cloud.client("s3", signature_version=version).generate_presigned_post(
        BUCKET,
        "dir/${filename}",
        Fields=fields,
        Conditions=[{"Content-Type": "text/x"}, {"x-amz-meta-a": "1"}, ["content-length-range", 0, 2_000_000]],
    )["fields"]
    body = os.urandom(1_500_000)
    assert post(fake_cloud, made, body)[0] == 204
    got = s3.get_object(Bucket=BUCKET, Key="dir/f")
    assert (got["Body"].read(), got["ContentType"], got["Metadata"]) == (body, "text/x", {"a": "1"})
    status, answer = post(fake_cloud, made, body * 2)
    assert (status, b"<Code>EntityTooLarge</Code>" in answer) == (400, True)
    assert s3.head_object(Bucket=BUCKET, Key="dir/f")["ContentLength"] == len(body)


def test_a_form_says_what_its_file_is_and_is_held_to_it(fake_cloud: RunningCloud, s3: Any) -> None:
    for name, value, code in (
        ("Content-MD5", base64.b64encode(b"x" * 16).decode(), b"BadDigest"),
        ("x-amz-checksum-crc32", base64.b64encode(b"1234").decode(), b"BadDigest"),
        ("x-amz-storage-class", "NONE", b"InvalidStorageClass"),
        ("key", "k" * 1025, b"KeyTooLongError"),
    ):
        conditions = [{name: value}] if name != "key" else []
        made = s3.generate_presigned_post(BUCKET, "k${filename}", Conditions=conditions)["fields"]
        status, answer = post(fake_cloud, made | {name: value}, b"bytes")
        assert (status, b"<Code>%s</Code>" % code in answer) == (400, True), answer
    xml = "<Tagging><TagSet><Tag><Key>a b</Key><Value>1+2</Value></Tag></TagSet></Tagging>"
    made = s3.generate_presigned_post(BUCKET, "held", Conditions=[{"tagging": xml}])["fields"]
    assert post(fake_cloud, made | {"tagging": xml}, b"bytes")[0] == 204
    assert s3.get_object_tagging(Bucket=BUCKET, Key="held")["TagSet"] == [{"Key": "a b", "Value": "1+2"}]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("x-amz-algorithm", "AWS5", b"Only AWS4-HMAC-SHA256 is supported"),
        ("x-amz-date", "yesterday", b"X-Amz-Date must be formated via ISO8601 Long format"),
        ("x-amz-credential", "me", b"the Credential is mal-formed"),
        ("x-amz-credential", "me/20300101/nowhere-1/s3/aws4_request", b"the region 'nowhere-1' is wrong"),
    ],
)
def test_a_form_that_does_not_say_who_signed_it_is_refused(
    fake_cloud: RunningCloud, s3: Any, field: str, value: str, message: bytes
) -> None:
    signed = fake_cloud.client("s3", signature_version="s3v4").generate_presigned_post(BUCKET, "k")["fields"]
    status, answer = post(fake_cloud, signed | {field: value}, b"bytes")
    assert (status, b"<Code>InvalidArgument</Code>" in answer, message in answer) == (400, True, True), answer


def test_a_form_of_nobody_is_refused_where_nothing_is_open(fake_cloud: RunningCloud, s3: Any) -> None:
    status, answer = post(fake_cloud, {"key": "nobodys"}, b"x")
    assert (status, b"<Code>AccessDenied</Code>" in answer) == (403, True)
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET, Prefix="nobodys")


def test_a_client_of_the_older_signature_does_all_it_used_to(fake_cloud: RunningCloud, s3: Any) -> None:
    old = fake_cloud.client("s3", signature_version="s3")
    body = os.urandom(6_000_000)
    old.put_object(Bucket=BUCKET, Key="old/a b+ü", Body=body, Metadata={"m": "1"})
    assert old.get_object(Bucket=BUCKET, Key="old/a b+ü")["Body"].read() == body
    upload = old.create_multipart_upload(Bucket=BUCKET, Key="old/parts")["UploadId"]
    part = old.upload_part(Bucket=BUCKET, Key="old/parts", UploadId=upload, PartNumber=1, Body=body)
    old.complete_multipart_upload(
        Bucket=BUCKET,
        Key="old/parts",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    keys = [{"Key": entry["Key"]} for entry in old.list_objects_v2(Bucket=BUCKET, Prefix="old/")["Contents"]]
    assert [entry["Key"] for entry in keys] == ["old/a b+ü", "old/parts"]
    assert "Errors" not in old.delete_objects(Bucket=BUCKET, Delete={"Objects": keys})

"""What test suites of other stores ask of S3: odd headers, names and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.handlers import validate_bucket_name

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud

BUCKET = "strangers-of-tests"


@pytest.fixture(scope="module")
def s3(fake_cloud: RunningCloud) -> Any:
    client = fake_cloud.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


def put_with(client: Any, event: str, headers: dict[str, str]) -> Callable[[], Any]:
    """`event`: before-call, ahead of the signature, or before-send, behind it."""

    def change(**given: Any) -> None:
        (given["params"]["headers"] if "params" in given else given["request"].headers).update(headers)

    def put() -> Any:
        client.meta.events.register(f"{event}.s3.PutObject", change)
        return client.put_object(Bucket=BUCKET, Key="odd", Body=b"bar")

    return put


@pytest.mark.parametrize("name", ["dot.-dash", "dash-.dot", "dot..dot", "UPPER", "under_score", "192.168.5.123", "ab"])
def test_a_name_that_is_no_host_name_is_refused(fake_cloud: RunningCloud, name: str) -> None:
    client = fake_cloud.client("s3")
    client.meta.events.unregister("before-parameter-build.s3", validate_bucket_name)
    with refused("InvalidBucketName"):
        client.create_bucket(Bucket=name)


@pytest.mark.parametrize(
    ("version", "event", "headers", "code", "status"),
    [
        ("s3v4", "before-call", {"Content-MD5": ""}, "InvalidDigest", 400),
        ("s3v4", "before-call", {"Content-MD5": "YWJyYWNhZGFicmE="}, "InvalidDigest", 400),
        ("s3v4", "before-call", {"x-amz-checksum-crc32": ""}, "InvalidRequest", 400),
        ("s3v4", "before-send", {"Authorization": ""}, "AccessDenied", 403),
        ("s3v4", "before-send", {"Authorization": "alone"}, "InvalidArgument", 400),
        ("s3v4", "before-send", {"X-Amz-Date": ""}, "AccessDenied", 403),
        ("s3v4", "before-send", {"X-Amz-Date": "Bad Date"}, "AccessDenied", 403),
        ("s3v4", "before-send", {"X-Amz-Date": "20100707T215304Z"}, "RequestTimeTooSkewed", 403),
        ("s3", "before-call", {"x-amz-date": ""}, "AccessDenied", 403),
        ("s3", "before-call", {"x-amz-date": "Tue, 07 Jul 1950 21:53:04 GMT"}, "AccessDenied", 403),
        ("s3", "before-call", {"x-amz-date": "Tue, 07 Jul 9999 21:53:04 GMT"}, "RequestTimeTooSkewed", 403),
    ],
)
def test_a_head_that_cannot_be_meant_is_refused(
    fake_cloud: RunningCloud, s3: Any, version: str, event: str, headers: dict[str, str], code: str, status: int
) -> None:
    put = put_with(fake_cloud.client("s3", signature_version=version), event, headers)
    with refused(code, status):
        put()


def test_a_page_of_nothing_is_empty(s3: Any) -> None:
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="begun")["UploadId"]
    for found in (
        s3.list_multipart_uploads(Bucket=BUCKET, MaxUploads=0),
        s3.list_object_versions(Bucket=BUCKET, MaxKeys=0),
    ):
        assert (found["IsTruncated"], found.keys() & {"Uploads", "Versions"}) == (False, set())
    s3.abort_multipart_upload(Bucket=BUCKET, Key="begun", UploadId=upload)


@pytest.mark.parametrize(
    ("header", "tags"),
    [
        ("foo=bar&bar", {"foo": "bar", "bar": ""}),
        ("&&&", {}),
        ("key=&", {"key": ""}),
        ("key++key=value%2B", {"key  key": "value+"}),
    ],
)
def test_a_tag_of_a_header_may_be_a_name_alone_and_no_tag_is_none(s3: Any, header: str, tags: dict[str, str]) -> None:
    s3.put_object(Bucket=BUCKET, Key="tagged", Tagging=header)
    found = s3.get_object_tagging(Bucket=BUCKET, Key="tagged")["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in found} == tags


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("=", "InvalidArgument"),
        ("key%", "InvalidArgument"),
        ("a=b,c=d", "InvalidArgument"),
        ("key=v?", "InvalidTag"),
        ("aws:key=v", "InvalidTag"),
    ],
)
def test_a_header_that_is_no_list_of_tags_is_refused(s3: Any, header: str, code: str) -> None:
    with refused(code, 400):
        s3.put_object(Bucket=BUCKET, Key="tagged", Tagging=header)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("bucket/%ZZ", "Invalid copy source encoding"),
        ("bucket/%C3", "Invalid copy source encoding"),
        ("192.168.1.1/key", "Invalid copy source bucket name"),
        ("my-buc@k/key", "Invalid copy source bucket name"),
        ("bucket/", "Copy Source must mention the source bucket and key"),
        ("bucket/key?versionId=", "Version id cannot be the empty string"),
    ],
)
def test_a_source_that_cannot_be_one_is_refused(fake_cloud: RunningCloud, s3: Any, source: str, message: str) -> None:
    # The client would encode it.
    put = put_with(fake_cloud.client("s3"), "before-call", {"x-amz-copy-source": source})
    with refused("InvalidArgument", 400, message):
        put()


def test_a_part_without_its_upload_is_no_object(s3: Any, fake_cloud: RunningCloud) -> None:
    def add(params: dict[str, Any], **_: Any) -> None:
        params["url"] += "?partNumber=1"

    client = fake_cloud.client("s3")
    client.meta.events.register("before-call.s3.PutObject", add)
    with refused("InvalidArgument", 400, "This operation does not accept partNumber without uploadId"):
        client.put_object(Bucket=BUCKET, Key="part", Body=b"x")
    with refused("404", 404):
        s3.head_object(Bucket=BUCKET, Key="part")


def test_markers_and_kinds_that_mean_nothing_are_told_apart(s3: Any) -> None:
    upload = {"Bucket": BUCKET, "Key": "begun"}
    with refused("InvalidRequest", 400, "Value for x-amz-checksum-type header is invalid."):
        s3.create_multipart_upload(**upload, ChecksumAlgorithm="CRC32", ChecksumType="WHOLE")
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    with refused("InvalidArgument", 400, "PartNumber must be >= 1"):
        s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 0, "ETag": "x"}]})
    # Without a key marker it is not heeded.
    listed = s3.list_multipart_uploads(Bucket=BUCKET, UploadIdMarker=upload["UploadId"])
    assert (listed.get("UploadIdMarker", ""), len(listed["Uploads"])) == ("", 1)
    s3.abort_multipart_upload(**upload)
    with refused("InvalidArgument", 400, "Invalid attribute name specified."):
        s3.get_object_attributes(Bucket=BUCKET, Key="tagged", ObjectAttributes=["ETag", "Colour"])


def test_the_parts_of_an_object_are_named_in_full(s3: Any) -> None:
    made = s3.create_multipart_upload(Bucket=BUCKET, Key="parts", ChecksumAlgorithm="SHA256")
    upload = {"Bucket": BUCKET, "Key": "parts", "UploadId": made["UploadId"]}
    sent = s3.upload_part(**upload, PartNumber=1, Body=b"x", ChecksumAlgorithm="SHA256")
    with refused("MalformedXML"):
        s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1}]})
    part = {"PartNumber": 1, "ETag": sent["ETag"]}
    with refused("InvalidRequest", 400, "It was missing for part 1 in the request."):
        s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [part]})
    part["ChecksumSHA256"] = sent["ChecksumSHA256"]
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [part]})


def test_only_a_bucket_that_locks_may_be_asked_to_break_a_lock(s3: Any) -> None:
    said = "only applicable to Object Lock enabled buckets"
    with refused("InvalidArgument", 400, said):
        s3.delete_object(Bucket=BUCKET, Key="none", BypassGovernanceRetention=True)
    with refused("InvalidArgument", 400, said):
        s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "none"}]}, BypassGovernanceRetention=True)

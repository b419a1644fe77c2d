"""Objects through S3's clients: bodies, headers, checksums, ranges, conditions."""

from __future__ import annotations

import base64
import hashlib
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud

BUCKET = "objects-of-tests"
ALGORITHMS = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]


@pytest.fixture(scope="module")
def s3(fake_cloud: RunningCloud) -> Any:
    client = fake_cloud.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


def test_an_object_comes_back_as_it_was_put(s3: Any) -> None:
    put = s3.put_object(Bucket=BUCKET, Key="plain", Body=b"hello", ContentType="text/plain")
    assert put["ETag"] == f'"{hashlib.md5(b"hello", usedforsecurity=False).hexdigest()}"'
    assert put["ChecksumCRC32"] == base64.b64encode(zlib.crc32(b"hello").to_bytes(4, "big")).decode()
    got = s3.get_object(Bucket=BUCKET, Key="plain")
    assert got["Body"].read() == b"hello"
    assert got["ContentType"] == "text/plain"
    assert got["ContentLength"] == 5
    assert got["AcceptRanges"] == "bytes"
    assert got["ETag"] == put["ETag"]
    assert got["ChecksumCRC32"] == put["ChecksumCRC32"]
    assert abs(got["LastModified"] - datetime.now(UTC)) < timedelta(minutes=1)
    assert got["Metadata"] == {}
    head = s3.head_object(Bucket=BUCKET, Key="plain")
    assert (head["ContentLength"], head["ETag"], head["ContentType"]) == (5, put["ETag"], "text/plain")
    assert "ChecksumCRC32" not in head
    assert s3.head_object(Bucket=BUCKET, Key="plain", ChecksumMode="ENABLED")["ChecksumType"] == "FULL_OBJECT"
    s3.get_waiter("object_exists").wait(Bucket=BUCKET, Key="plain")


def test_an_empty_object_is_an_object(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="empty")
    got = s3.get_object(Bucket=BUCKET, Key="empty")
    assert got["Body"].read() == b""
    assert got["ContentType"] == "binary/octet-stream"
    with refused("InvalidRange", 416):
        s3.get_object(Bucket=BUCKET, Key="empty", Range="bytes=0-0")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_checksum_is_computed_and_shown(s3: Any, algorithm: str) -> None:
    put = s3.put_object(Bucket=BUCKET, Key=f"sum-{algorithm}.", Body=b"checked" * 1000, ChecksumAlgorithm=algorithm)
    name = f"Checksum{algorithm}"
    assert put[name]
    assert put["ChecksumType"] == "FULL_OBJECT"
    head = s3.head_object(Bucket=BUCKET, Key=f"sum-{algorithm}.", ChecksumMode="ENABLED")
    assert head[name] == put[name]
    again = s3.put_object(Bucket=BUCKET, Key=f"sum-{algorithm}.", Body=b"checked" * 1000, **{name: put[name]})
    assert again[name] == put[name]
    with refused("BadDigest"):
        s3.put_object(Bucket=BUCKET, Key="wrong", Body=b"other", **{name: put[name]})
    with refused("InvalidRequest"):
        s3.put_object(Bucket=BUCKET, Key="wrong", Body=b"other", **{name: "nonsense"})
    (listed,) = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"sum-{algorithm}.")["Contents"]
    assert listed["ChecksumAlgorithm"] == [algorithm]


def test_a_wrong_md5_stores_nothing(s3: Any) -> None:
    with refused("BadDigest"):
        s3.put_object(Bucket=BUCKET, Key="md5", Body=b"x", ContentMD5=base64.b64encode(bytes(16)).decode())
    with refused("InvalidDigest"):
        s3.put_object(Bucket=BUCKET, Key="md5", Body=b"x", ContentMD5="nonsense")
    with refused("404", 404):
        s3.head_object(Bucket=BUCKET, Key="md5")


@pytest.mark.parametrize(
    ("wanted", "expected", "content_range"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=4-", b"456789", "bytes 4-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-30", b"0123456789", "bytes 0-9/10"),
        ("bytes=5-500", b"56789", "bytes 5-9/10"),
        ("bytes=9-9", b"9", "bytes 9-9/10"),
    ],
)
def test_a_range_is_answered_in_part(s3: Any, wanted: str, expected: bytes, content_range: str) -> None:
    s3.put_object(Bucket=BUCKET, Key="digits", Body=b"0123456789")
    got = s3.get_object(Bucket=BUCKET, Key="digits", Range=wanted)
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert got["Body"].read() == expected
    assert got["ContentRange"] == content_range
    assert got["ContentLength"] == len(expected)


@pytest.mark.parametrize("wanted", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_a_range_behind_the_end_is_refused(s3: Any, wanted: str) -> None:
    s3.put_object(Bucket=BUCKET, Key="digits", Body=b"0123456789")
    with refused("InvalidRange", 416) as found:
        s3.get_object(Bucket=BUCKET, Key="digits", Range=wanted)
    assert found.response["Error"]["ActualObjectSize"] == "10"
    assert found.response["Error"]["RangeRequested"] == wanted


@pytest.mark.parametrize("wanted", ["bytes=3-1", "lines=0-1", "bytes=", "bytes=a-b", "0-3", "bytes=0-1,3-4"])
def test_a_range_that_is_none_is_ignored(s3: Any, wanted: str) -> None:
    s3.put_object(Bucket=BUCKET, Key="digits", Body=b"0123456789")
    got = s3.get_object(Bucket=BUCKET, Key="digits", Range=wanted)
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert got["Body"].read() == b"0123456789"


def test_conditions_on_reading(s3: Any) -> None:
    etag = s3.put_object(Bucket=BUCKET, Key="conditional", Body=b"x")["ETag"]
    changed = s3.head_object(Bucket=BUCKET, Key="conditional")["LastModified"]
    where = {"Bucket": BUCKET, "Key": "conditional"}
    for call in (s3.get_object, s3.head_object):
        assert call(**where, IfMatch=etag)
        assert call(**where, IfNoneMatch='"other"')
        assert call(**where, IfUnmodifiedSince=changed)
        assert call(**where, IfModifiedSince=changed - timedelta(days=1))
        for condition, status in (
            ({"IfMatch": '"other"'}, 412),
            ({"IfUnmodifiedSince": changed - timedelta(days=1)}, 412),
            ({"IfNoneMatch": etag}, 304),
            ({"IfNoneMatch": "*"}, 304),
            ({"IfModifiedSince": changed}, 304),
        ):
            with pytest.raises(ClientError) as caught:
                call(**where, **condition)
            assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status, condition
        # What has not been yet is no date to compare with.
        assert call(**where, IfModifiedSince=changed + timedelta(days=1))
    # Both: If-None-Match counts, If-Modified-Since does not.
    assert s3.get_object(**where, IfNoneMatch='"other"', IfModifiedSince=changed)
    assert s3.get_object(**where, IfMatch=etag, IfUnmodifiedSince=changed - timedelta(days=1))


def test_conditions_on_writing(s3: Any) -> None:
    where = {"Bucket": BUCKET, "Key": "once"}
    s3.delete_object(**where)
    etag = s3.put_object(**where, Body=b"1", IfNoneMatch="*")["ETag"]
    with refused("PreconditionFailed", 412) as found:
        s3.put_object(**where, Body=b"2", IfNoneMatch="*")
    assert found.response["Error"]["Condition"] == "If-None-Match"
    s3.put_object(**where, Body=b"3", IfMatch=etag)
    with refused("PreconditionFailed", 412):
        s3.put_object(**where, Body=b"4", IfMatch=etag)
    with refused("NoSuchKey", 404):
        s3.put_object(Bucket=BUCKET, Key="never", Body=b"4", IfMatch=etag)
    with refused("NotImplemented", 501):
        s3.put_object(**where, Body=b"4", IfNoneMatch=etag)
    with refused("NotImplemented", 501) as found:
        s3.put_object(**where, Body=b"4", IfMatch=etag, IfNoneMatch="*")
    assert found.response["Error"]["Header"] == "If-Match,If-None-Match"
    assert s3.get_object(**where)["Body"].read() == b"3"


def test_headers_of_an_object_are_kept_and_can_be_overridden(s3: Any) -> None:
    headers = {
        "CacheControl": "max-age=3",
        "ContentDisposition": 'attachment; filename="ü.txt"'.encode().decode("latin-1"),
        "ContentEncoding": "gzip",
        "ContentLanguage": "de",
        "ContentType": "text/x; charset=utf-8",
        "Expires": "Thu, 01 Dec 2033 16:00:00 GMT",
    }
    del headers["ContentDisposition"]
    s3.put_object(Bucket=BUCKET, Key="headers", Body=b"x", **headers)
    got = s3.get_object(Bucket=BUCKET, Key="headers")
    assert {name: got[name] for name in headers if name != "Expires"} == {
        name: value for name, value in headers.items() if name != "Expires"
    }
    assert got["ExpiresString"] == headers["Expires"]
    overridden = s3.get_object(
        Bucket=BUCKET,
        Key="headers",
        ResponseContentType="text/html",
        ResponseCacheControl="no-cache",
        ResponseContentDisposition="inline",
        ResponseContentLanguage="en",
        ResponseContentEncoding="identity",
    )
    assert overridden["ContentType"] == "text/html"
    assert overridden["CacheControl"] == "no-cache"
    assert overridden["ContentDisposition"] == "inline"
    assert overridden["ContentLanguage"] == "en"
    assert overridden["ContentEncoding"] == "identity"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("deflate, gzip", "deflate, gzip"),
        ("gzip, aws-chunked", "gzip"),
        ("AWS-chunked,gzip", "gzip"),
        ("aws-chunked, aws-chunked", None),
    ],
)
def test_an_encoding_is_kept_without_what_was_only_for_the_way(s3: Any, sent: str, kept: str | None) -> None:
    s3.put_object(Bucket=BUCKET, Key="encoded", ContentEncoding=sent)
    assert s3.head_object(Bucket=BUCKET, Key="encoded").get("ContentEncoding") == kept


def test_user_metadata_is_kept(s3: Any) -> None:
    metadata = {"plain": "value", "CamelCase": "Kept", "spaces": "a  b", "dash-ed": "1", "empty": ""}
    s3.put_object(Bucket=BUCKET, Key="meta", Body=b"x", Metadata=metadata)
    got = s3.head_object(Bucket=BUCKET, Key="meta")["Metadata"]
    assert got == {name.lower(): value for name, value in metadata.items()}
    with refused("MetadataTooLarge"):
        s3.put_object(Bucket=BUCKET, Key="meta", Body=b"x", Metadata={"big": "x" * 2049})
    s3.put_object(Bucket=BUCKET, Key="meta", Body=b"x", Metadata={"big": "x" * (2048 - 3)})
    assert s3.head_object(Bucket=BUCKET, Key="meta")["Metadata"] == {"big": "x" * 2045}


def test_what_is_not_there(s3: Any) -> None:
    with refused("NoSuchKey", 404, "The specified key does not exist.") as found:
        s3.get_object(Bucket=BUCKET, Key="absent")
    assert found.response["Error"]["Key"] == "absent"
    with refused("404", 404):
        s3.head_object(Bucket=BUCKET, Key="absent")
    with refused("NoSuchBucket", 404, "The specified bucket does not exist") as found:
        s3.get_object(Bucket="no-such-bucket-of-tests", Key="absent")
    assert found.response["Error"]["BucketName"] == "no-such-bucket-of-tests"
    with refused("NoSuchBucket", 404):
        s3.put_object(Bucket="no-such-bucket-of-tests", Key="absent", Body=b"x")
    with refused("NoSuchBucket", 404):
        s3.delete_object(Bucket="no-such-bucket-of-tests", Key="absent")
    assert s3.delete_object(Bucket=BUCKET, Key="absent")["ResponseMetadata"]["HTTPStatusCode"] == 204


@pytest.mark.parametrize(
    "key",
    [
        "a//b",
        "/leading",
        "//",
        "trailing/",
        ".",
        "..",
        "../up",
        "a/../b",
        "a/./b",
        "%2F",
        "a%2Fb",
        "%",
        "%zz",
        "a b",
        " lead",
        "trail ",
        "a+b",
        "ünï😀",
        "e\u0301",
        "\u00e9",
        "?query=1",
        "#hash",
        "&amp;<>'\"",
        "a\\b",
        "tab\there",
        "line\nbreak",
        "cr\rhere",
        "~!@$^*()-_=[]{}|;:,.`",
        "x" * 1024,
        "ü" * 512,
        "\u200b",
        "uploads",
        "soap",
    ],
)
def test_any_key_is_kept_byte_for_byte(s3: Any, key: str) -> None:
    body = key.encode()
    s3.put_object(Bucket=BUCKET, Key=key, Body=body)
    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == body
    assert s3.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == len(body)
    assert key in [o["Key"] for p in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET) for o in p["Contents"]]
    assert key in [o["Key"] for p in s3.get_paginator("list_objects").paginate(Bucket=BUCKET) for o in p["Contents"]]
    answer = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key}]})
    assert [deleted["Key"] for deleted in answer["Deleted"]] == [key]
    with refused("404", 404):
        s3.head_object(Bucket=BUCKET, Key=key)


def test_a_key_has_a_greatest_length(s3: Any) -> None:
    with refused("KeyTooLongError") as found:
        s3.put_object(Bucket=BUCKET, Key="x" * 1025, Body=b"")
    assert found.response["Error"]["MaxSizeAllowed"] == "1024"
    with refused("KeyTooLongError"):
        s3.get_object(Bucket=BUCKET, Key="ü" * 513)


def test_a_thousand_objects_are_deleted_at_once(s3: Any) -> None:
    for number in range(5):
        s3.put_object(Bucket=BUCKET, Key=f"bulk/{number}", Body=b"x")
    keys = [{"Key": f"bulk/{number}"} for number in range(1000)]
    answer = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": keys})
    assert sorted(d["Key"] for d in answer["Deleted"]) == sorted(k["Key"] for k in keys)
    assert "Errors" not in answer
    quiet = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": keys, "Quiet": True})
    assert "Deleted" not in quiet
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="bulk/")["KeyCount"] == 0
    with refused("MalformedXML"):
        s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [*keys, {"Key": "one more"}]})
    with refused("MalformedXML"):
        s3.delete_objects(Bucket=BUCKET, Delete={"Objects": []})


def test_what_this_cloud_does_not_honour_is_refused(s3: Any) -> None:
    for change in (
        {"ACL": "public-read"},
        {"ServerSideEncryption": "aws:kms"},
        {"StorageClass": "nonsense"},
        {"GrantRead": 'uri="http://acs.amazonaws.com/groups/global/AllUsers"'},
    ):
        with pytest.raises(ClientError) as caught:
            s3.put_object(Bucket=BUCKET, Key="refused", Body=b"x", **change)
        status = caught.value.response["ResponseMetadata"]["HTTPStatusCode"]
        assert status in (400, 501), (change, caught.value.response)
    with refused("404", 404):
        s3.head_object(Bucket=BUCKET, Key="refused")

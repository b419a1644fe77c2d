"""Buckets through S3's clients."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.cloud.refusal import in_turn, refused
from tests.cloud_fixture import RunningCloud


@pytest.fixture(scope="module")
def s3(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("s3", "buckets")


def test_a_bucket_is_made_found_and_deleted(s3: Any, fake_cloud: RunningCloud) -> None:
    made = s3.create_bucket(Bucket="life-of-a-bucket")
    assert made["Location"] == "/life-of-a-bucket"
    assert s3.create_bucket(Bucket="life-of-a-bucket")["ResponseMetadata"]["HTTPStatusCode"] == 200
    s3.get_waiter("bucket_exists").wait(Bucket="life-of-a-bucket")
    assert s3.head_bucket(Bucket="life-of-a-bucket")["BucketRegion"] == "us-east-1"
    assert s3.get_bucket_location(Bucket="life-of-a-bucket")["LocationConstraint"] is None
    for told in (s3.list_objects, s3.list_objects_v2, s3.head_bucket):
        headers = told(Bucket="life-of-a-bucket")["ResponseMetadata"]["HTTPHeaders"]
        assert headers["x-amz-bucket-region"] == "us-east-1"
        with pytest.raises(ClientError) as caught:
            getattr(fake_cloud.client("s3", "stranger-of-buckets"), told.__name__)(Bucket="life-of-a-bucket")
        assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"] == "us-east-1"
    assert s3.list_buckets(BucketRegion="eu-west-1").get("Buckets", []) == []
    with refused("InvalidArgument", 400, "Argument value nowhere is not a valid AWS Region"):
        s3.list_buckets(BucketRegion="nowhere")
    listed = s3.list_buckets()
    assert listed["Owner"]["ID"] == fake_cloud.account("buckets").canonical_user_id
    (shown,) = [bucket for bucket in listed["Buckets"] if bucket["Name"] == "life-of-a-bucket"]
    assert abs(shown["CreationDate"] - datetime.now(UTC)) < timedelta(minutes=1)
    s3.put_object(Bucket="life-of-a-bucket", Key="x", Body=b"")
    with refused("BucketNotEmpty", 409, "The bucket you tried to delete is not empty"):
        s3.delete_bucket(Bucket="life-of-a-bucket")
    s3.delete_object(Bucket="life-of-a-bucket", Key="x")
    assert s3.delete_bucket(Bucket="life-of-a-bucket")["ResponseMetadata"]["HTTPStatusCode"] == 204
    s3.get_waiter("bucket_not_exists").wait(Bucket="life-of-a-bucket")
    with refused("NoSuchBucket", 404):
        s3.delete_bucket(Bucket="life-of-a-bucket")
    with refused("NoSuchBucket", 404):
        s3.get_bucket_location(Bucket="life-of-a-bucket")
    with refused("404", 404):
        s3.head_bucket(Bucket="life-of-a-bucket")


@pytest.mark.parametrize(
    "name",
    [
        "Capital",
        "ab",
        "x" * 64,
        "under_score",
        "-dash",
        "dash-",
        ".dot",
        "dot.",
        "two..dots",
        "192.168.5.4",
        "xn--punycode",
        "sthree-mine",
        "ends-s3alias",
        "ends--ol-s3",
        "sp ace",
        "ümlaut",
        "amzn-s3-demo-x",
    ],
)
def test_a_bad_name_is_refused(fake_cloud: RunningCloud, name: str) -> None:
    s3 = fake_cloud.client("s3", "buckets", parameter_validation=False)
    s3.meta.events.unregister("before-parameter-build.s3")
    from botocore import handlers

    s3.meta.events.unregister("before-parameter-build.s3", handlers.validate_bucket_name)
    with refused("InvalidBucketName") as found:
        s3.create_bucket(Bucket=name)
    assert found.response["Error"]["BucketName"] == name


@pytest.mark.parametrize("name", ["abc", "x" * 63, "with.dots", "0123", "a-b.c-1"])
def test_good_names_are_taken(s3: Any, name: str) -> None:
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="k", Body=b"v")
    assert s3.get_object(Bucket=name, Key="k")["Body"].read() == b"v"
    s3.delete_object(Bucket=name, Key="k")
    s3.delete_bucket(Bucket=name)


def test_a_name_is_taken_once_in_the_cloud(s3: Any, fake_cloud: RunningCloud) -> None:
    s3.create_bucket(Bucket="mine-alone")
    other = fake_cloud.client("s3", "neighbour")
    with refused("BucketAlreadyExists", 409):
        other.create_bucket(Bucket="mine-alone")
    assert other.list_buckets()["Buckets"] == []
    calls = in_turn(
        lambda: other.list_objects_v2(Bucket="mine-alone"),
        lambda: other.put_object(Bucket="mine-alone", Key="x", Body=b"x"),
        lambda: other.get_object(Bucket="mine-alone", Key="x"),
        lambda: other.delete_object(Bucket="mine-alone", Key="x"),
        lambda: other.delete_bucket(Bucket="mine-alone"),
        lambda: other.create_multipart_upload(Bucket="mine-alone", Key="x"),
        lambda: other.list_multipart_uploads(Bucket="mine-alone"),
        lambda: other.get_bucket_location(Bucket="mine-alone"),
    )
    for call in calls:
        with refused("AccessDenied", 403):
            call()
    calls = in_turn(
        lambda: other.head_bucket(Bucket="mine-alone"),
        lambda: other.head_object(Bucket="mine-alone", Key="x"),
    )
    for call in calls:
        with refused("403", 403):
            call()
    s3.delete_bucket(Bucket="mine-alone")


def test_a_bucket_stands_in_this_region(s3: Any) -> None:
    with refused("IllegalLocationConstraintException"):
        s3.create_bucket(Bucket="elsewhere", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})


def test_what_a_bucket_cannot_be_is_refused(s3: Any) -> None:
    for change, code in (
        ({"ACL": "public-read"}, "InvalidBucketAclWithObjectOwnership"),
        ({"ACL": "public-read", "ObjectOwnership": "ObjectWriter"}, "InvalidBucketAclWithBlockPublicAccessError"),
        ({"ObjectOwnership": "Nobody"}, "InvalidArgument"),
        ({"GrantRead": "id=1"}, "InvalidArgument"),
    ):
        with refused(code, 400):
            s3.create_bucket(Bucket="refused-bucket", **change)
    with refused("404", 404):
        s3.head_bucket(Bucket="refused-bucket")


def test_buckets_are_listed_in_pages(fake_cloud: RunningCloud) -> None:
    s3 = fake_cloud.client("s3", "pages")
    names = [f"page-{number}" for number in range(5)]
    for name in reversed(names):
        s3.create_bucket(Bucket=name)
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == names
    pages = list(s3.get_paginator("list_buckets").paginate(PaginationConfig={"PageSize": 2}))
    assert [[bucket["Name"] for bucket in page["Buckets"]] for page in pages] == [names[:2], names[2:4], names[4:]]
    only = s3.list_buckets(Prefix="page-3")
    assert [bucket["Name"] for bucket in only["Buckets"]] == ["page-3"]
    assert only["Prefix"] == "page-3"
    with refused("InvalidArgument"):
        s3.list_buckets(ContinuationToken="nonsense")
    for bad in (0, 10001):
        with pytest.raises(ClientError):
            fake_cloud.client("s3", "pages", parameter_validation=False).list_buckets(MaxBuckets=bad)


def test_another_owner_is_not_the_expected_one(s3: Any, fake_cloud: RunningCloud) -> None:
    s3.create_bucket(Bucket="expected")
    mine, other = fake_cloud.account("buckets").account_id, fake_cloud.account("neighbour").account_id
    s3.put_object(Bucket="expected", Key="x", Body=b"", ExpectedBucketOwner=mine)
    with refused("AccessDenied", 403):
        s3.put_object(Bucket="expected", Key="x", Body=b"", ExpectedBucketOwner=other)
    with refused("AccessDenied", 403):
        s3.list_objects_v2(Bucket="expected", ExpectedBucketOwner=other)
    with refused("403", 403):
        s3.head_bucket(Bucket="expected", ExpectedBucketOwner=other)


@pytest.mark.parametrize(
    ("action", "more"),
    [
        ("get_object_torrent", {"Key": "k"}),
        ("rename_object", {"Key": "k", "RenameSource": "x"}),
        ("get_bucket_abac", {}),
    ],
)
def test_what_is_not_built_says_so(s3: Any, action: str, more: dict[str, str]) -> None:
    s3.create_bucket(Bucket="expected")
    with refused("NotImplemented", 501):
        getattr(s3, action)(Bucket="expected", **more)

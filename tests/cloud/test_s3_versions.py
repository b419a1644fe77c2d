"""Versions, delete markers, tags and locks through S3's clients."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.cloud.refusal import Refusal, refused
from tests.cloud_fixture import RunningCloud

BUCKET = "versions-of-tests"
LOCKED = "locks-of-tests"


@pytest.fixture(scope="module")
def s3(fake_cloud: RunningCloud) -> Any:
    client = fake_cloud.client("s3")
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="old", Body=b"old")
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    client.create_bucket(Bucket=LOCKED, ObjectLockEnabledForBucket=True)
    return client


def headers_of(refusal: Refusal) -> dict[str, str]:
    found: dict[str, str] = refusal.response["ResponseMetadata"]["HTTPHeaders"]
    return found


def test_every_put_is_a_version(s3: Any) -> None:
    versions = [s3.put_object(Bucket=BUCKET, Key="old", Body=b"v%d" % number)["VersionId"] for number in range(2)]
    got = s3.get_object(Bucket=BUCKET, Key="old")
    assert (got["VersionId"], got["Body"].read()) == (versions[1], b"v1")
    got = s3.get_object(Bucket=BUCKET, Key="old", VersionId="null")
    assert (got["VersionId"], got["Body"].read()) == ("null", b"old")
    assert s3.head_object(Bucket=BUCKET, Key="old", VersionId=versions[0])["VersionId"] == versions[0]
    listed = s3.list_object_versions(Bucket=BUCKET, Prefix="old")["Versions"]
    assert [one["VersionId"] for one in listed] == [versions[1], versions[0], "null"]
    assert [one["IsLatest"] for one in listed] == [True, False, False]
    assert [one["Size"] for one in listed] == [2, 2, 3]


def test_a_deleted_key_says_so_in_headers(s3: Any) -> None:
    version = s3.put_object(Bucket=BUCKET, Key="deleted", Body=b"x")["VersionId"]
    gone = s3.delete_object(Bucket=BUCKET, Key="deleted")
    assert gone["DeleteMarker"] is True
    for ask in (s3.get_object, s3.head_object):
        with refused("404" if ask == s3.head_object else "NoSuchKey", 404) as found:
            ask(Bucket=BUCKET, Key="deleted")
        assert headers_of(found)["x-amz-delete-marker"] == "true"
        assert headers_of(found)["x-amz-version-id"] == gone["VersionId"]
        with refused("405" if ask == s3.head_object else "MethodNotAllowed", 405) as found:
            ask(Bucket=BUCKET, Key="deleted", VersionId=gone["VersionId"])
        assert headers_of(found)["allow"] == "DELETE"
        assert "last-modified" in headers_of(found)
    with refused("NoSuchVersion", 404):
        s3.get_object(Bucket=BUCKET, Key="deleted", VersionId="0" * 32)
    (marker,) = s3.list_object_versions(Bucket=BUCKET, Prefix="deleted")["DeleteMarkers"]
    assert (marker["VersionId"], marker["IsLatest"]) == (gone["VersionId"], True)
    again = s3.delete_object(Bucket=BUCKET, Key="deleted", VersionId=gone["VersionId"])
    assert again["DeleteMarker"] is True
    assert s3.get_object(Bucket=BUCKET, Key="deleted")["VersionId"] == version


def test_a_bucket_is_emptied_as_clients_do_it(fake_cloud: RunningCloud, s3: Any) -> None:
    s3.create_bucket(Bucket="emptied")
    s3.put_bucket_versioning(Bucket="emptied", VersioningConfiguration={"Status": "Enabled"})
    for number in range(5):
        s3.put_object(Bucket="emptied", Key=f"k{number % 2}", Body=b"x")
    s3.delete_object(Bucket="emptied", Key="k0")
    with refused("BucketNotEmpty", 409):
        s3.delete_bucket(Bucket="emptied")
    pages = s3.get_paginator("list_object_versions").paginate(Bucket="emptied", PaginationConfig={"PageSize": 2})
    for page in pages:
        found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        keys = [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in found]
        assert len(s3.delete_objects(Bucket="emptied", Delete={"Objects": keys})["Deleted"]) == len(keys)
    s3.delete_bucket(Bucket="emptied")


def test_tags_come_with_the_object_and_change_beside_it(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="tagged", Body=b"x", Tagging="a=1&b=%20c")
    assert s3.get_object(Bucket=BUCKET, Key="tagged")["TagCount"] == 2
    assert s3.get_object_tagging(Bucket=BUCKET, Key="tagged")["TagSet"] == [
        {"Key": "a", "Value": "1"},
        {"Key": "b", "Value": " c"},
    ]
    wanted = [{"Key": "only", "Value": "this"}]
    put = s3.put_object_tagging(Bucket=BUCKET, Key="tagged", Tagging={"TagSet": wanted})
    got = s3.get_object_tagging(Bucket=BUCKET, Key="tagged")
    assert (got["TagSet"], got["VersionId"]) == (wanted, put["VersionId"])
    s3.delete_object_tagging(Bucket=BUCKET, Key="tagged")
    assert s3.get_object_tagging(Bucket=BUCKET, Key="tagged")["TagSet"] == []
    with refused("NoSuchKey", 404):
        s3.get_object_tagging(Bucket=BUCKET, Key="never")
    with refused("InvalidTag"):
        s3.put_object_tagging(Bucket=BUCKET, Key="tagged", Tagging={"TagSet": [{"Key": "k" * 129, "Value": ""}]})


def test_a_locked_version_outlives_its_deletion(s3: Any) -> None:
    assert s3.get_bucket_versioning(Bucket=LOCKED)["Status"] == "Enabled"
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    version = s3.put_object(
        Bucket=LOCKED, Key="k", Body=b"x", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until
    )["VersionId"]
    head = s3.head_object(Bucket=LOCKED, Key="k")
    assert (head["ObjectLockMode"], head["ObjectLockRetainUntilDate"]) == ("GOVERNANCE", until)
    with refused("AccessDenied", 403):
        s3.delete_object(Bucket=LOCKED, Key="k", VersionId=version)
    (error,) = s3.delete_objects(Bucket=LOCKED, Delete={"Objects": [{"Key": "k", "VersionId": version}]})["Errors"]
    assert (error["Code"], error["VersionId"]) == ("AccessDenied", version)
    later = until + timedelta(hours=1)
    s3.put_object_retention(Bucket=LOCKED, Key="k", Retention={"Mode": "GOVERNANCE", "RetainUntilDate": later})
    assert s3.get_object_retention(Bucket=LOCKED, Key="k")["Retention"] == {
        "Mode": "GOVERNANCE",
        "RetainUntilDate": later,
    }
    s3.put_object_legal_hold(Bucket=LOCKED, Key="k", LegalHold={"Status": "ON"})
    with refused("AccessDenied", 403):
        s3.delete_object(Bucket=LOCKED, Key="k", VersionId=version, BypassGovernanceRetention=True)
    s3.put_object_legal_hold(Bucket=LOCKED, Key="k", LegalHold={"Status": "OFF"})
    assert s3.get_object_legal_hold(Bucket=LOCKED, Key="k")["LegalHold"]["Status"] == "OFF"
    s3.delete_object(Bucket=LOCKED, Key="k", VersionId=version, BypassGovernanceRetention=True)


def test_a_bucket_locks_by_default(s3: Any) -> None:
    wanted = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}}
    s3.put_object_lock_configuration(Bucket=LOCKED, ObjectLockConfiguration=wanted)
    assert s3.get_object_lock_configuration(Bucket=LOCKED)["ObjectLockConfiguration"] == wanted
    version = s3.put_object(Bucket=LOCKED, Key="default", Body=b"x")["VersionId"]
    assert s3.head_object(Bucket=LOCKED, Key="default")["ObjectLockMode"] == "GOVERNANCE"
    with refused("AccessDenied", 403):
        s3.delete_object(Bucket=LOCKED, Key="default", VersionId=version)
    with refused("InvalidBucketState", 409):
        s3.put_bucket_versioning(Bucket=LOCKED, VersioningConfiguration={"Status": "Suspended"})
    with refused("ObjectLockConfigurationNotFoundError", 404):
        s3.get_object_lock_configuration(Bucket=BUCKET)
    with refused("NoSuchObjectLockConfiguration", 404):
        s3.get_object_legal_hold(Bucket=LOCKED, Key="default")
    s3.delete_object(Bucket=LOCKED, Key="default", VersionId=version, BypassGovernanceRetention=True)

"""Listings of objects through S3's clients."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud

BUCKET = "listings-of-tests"
KEYS = sorted(
    ["a", "a/1", "a/2", "a//3", "b/x y", "b/ü", "b/+", "b/%2F", "c", "..", "d/&<>", "😀", "\uffff", "z\\", "Z"],
    key=lambda key: key.encode(),
)


@pytest.fixture(scope="module")
def s3(fake_cloud: RunningCloud) -> Any:
    client = fake_cloud.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for key in KEYS:
        client.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    return client


@pytest.fixture(params=["list_objects", "list_objects_v2"])
def listing(request: pytest.FixtureRequest, s3: Any) -> Any:
    def keys(**more: Any) -> tuple[list[str], list[str]]:
        pages = s3.get_paginator(request.param).paginate(Bucket=BUCKET, **more)
        found: tuple[list[str], list[str]] = ([], [])
        for page in pages:
            found[0].extend(entry["Key"] for entry in page.get("Contents", []))
            found[1].extend(entry["Prefix"] for entry in page.get("CommonPrefixes", []))
        return found

    return keys


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("delimiter", ["/", "", "//", "ü", " "])
def test_every_page_size_shows_the_same(listing: Any, size: int, delimiter: str) -> None:
    more = {"Delimiter": delimiter} if delimiter else {}
    keys, prefixes = listing(PaginationConfig={"PageSize": size}, **more)
    inside = [key for key in KEYS if delimiter and delimiter in key]
    assert keys == [key for key in KEYS if key not in inside]
    assert prefixes == list(dict.fromkeys(key.partition(delimiter)[0] + delimiter for key in inside))


@pytest.mark.parametrize("prefix", ["a", "a/", "b/", "b/x ", "b/ü", "b/%", "nothing", "😀", "b/+", "d/&"])
def test_prefixes_select(listing: Any, prefix: str) -> None:
    assert listing(Prefix=prefix)[0] == [key for key in KEYS if key.startswith(prefix)]


def test_a_listing_tells_what_it_was_asked(s3: Any) -> None:
    page = s3.list_objects_v2(Bucket=BUCKET, Prefix="b/", Delimiter="/", MaxKeys=2, StartAfter="b/+", FetchOwner=True)
    assert page["Name"] == BUCKET
    assert (page["Prefix"], page["Delimiter"], page["MaxKeys"], page["StartAfter"]) == ("b/", "/", 2, "b/+")
    assert page["KeyCount"] == 2
    assert [entry["Key"] for entry in page["Contents"]] == ["b/x y", "b/ü"]
    assert page["IsTruncated"] is False
    (first, _) = page["Contents"]
    assert first["Size"] == 5
    assert first["StorageClass"] == "STANDARD"
    assert first["Owner"]["ID"]
    assert first["ETag"].startswith('"')
    assert "Owner" not in s3.list_objects_v2(Bucket=BUCKET, MaxKeys=1)["Contents"][0]
    assert "Owner" in s3.list_objects(Bucket=BUCKET, MaxKeys=1)["Contents"][0]


def test_no_keys_asked_for_are_no_keys(s3: Any) -> None:
    for call in (s3.list_objects, s3.list_objects_v2):
        page = call(Bucket=BUCKET, MaxKeys=0)
        assert "Contents" not in page
        assert page["IsTruncated"] is False
        assert page["MaxKeys"] == 0
        assert call(Bucket=BUCKET, MaxKeys=5000)["MaxKeys"] in (1000, 5000)


def test_a_marker_goes_on_behind_it(s3: Any) -> None:
    page = s3.list_objects(Bucket=BUCKET, Marker="b/", MaxKeys=1)
    assert page["Marker"] == "b/"
    assert page["Contents"][0]["Key"] == "b/%2F"
    assert page["IsTruncated"] is True
    grouped = s3.list_objects(Bucket=BUCKET, Delimiter="/", MaxKeys=1, Marker="a")
    assert grouped["NextMarker"] == "a/"
    assert grouped["CommonPrefixes"] == [{"Prefix": "a/"}]
    after = s3.list_objects(Bucket=BUCKET, Delimiter="/", MaxKeys=1, Marker="a/")
    assert after["CommonPrefixes"] == [{"Prefix": "b/"}]


def test_bad_questions_are_refused(s3: Any) -> None:
    for change in ({"MaxKeys": -1}, {"EncodingType": "base64"}):
        with refused("InvalidArgument"):
            s3.list_objects_v2(Bucket=BUCKET, **change)
        with refused("InvalidArgument"):
            s3.list_objects(Bucket=BUCKET, **change)
    for token in ("nonsense", "", "ü"):
        with refused("InvalidArgument"):
            s3.list_objects_v2(Bucket=BUCKET, ContinuationToken=token)
    with refused("NoSuchBucket", 404):
        s3.list_objects_v2(Bucket="no-such-bucket-of-tests")

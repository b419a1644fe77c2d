"""What owners set on buckets, through S3's clients."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cloud.refusal import refused
from tests.cloud_fixture import RunningCloud


@pytest.fixture(scope="module")
def s3(fake_cloud: RunningCloud) -> Any:
    client = fake_cloud.client("s3", "settings")
    client.create_bucket(Bucket="settings")
    return client


def test_versioning_is_unset_until_it_is_set(s3: Any) -> None:
    assert "Status" not in s3.get_bucket_versioning(Bucket="settings")
    for status in ("Enabled", "Suspended"):
        s3.put_bucket_versioning(Bucket="settings", VersioningConfiguration={"Status": status})
        assert s3.get_bucket_versioning(Bucket="settings")["Status"] == status
    with refused("IllegalVersioningConfigurationException", 400):
        s3.put_bucket_versioning(Bucket="settings", VersioningConfiguration={})
    with refused("MalformedXML", 400):
        s3.put_bucket_versioning(Bucket="settings", VersioningConfiguration={"Status": "On"})
    with refused("NoSuchBucket", 404):
        s3.get_bucket_versioning(Bucket="settings-of-nobody")


def test_tags_of_a_bucket_are_replaced_as_a_whole(s3: Any) -> None:
    with refused("NoSuchTagSet", 404, "The TagSet does not exist"):
        s3.get_bucket_tagging(Bucket="settings")
    for tags in ([{"Key": "a", "Value": "1"}, {"Key": "größe", "Value": ""}], [{"Key": "b", "Value": "x y"}]):
        s3.put_bucket_tagging(Bucket="settings", Tagging={"TagSet": tags})
        assert s3.get_bucket_tagging(Bucket="settings")["TagSet"] == tags
    for key, value in (("aws:x", ""), ("k" * 129, ""), ("k", "v" * 257), ("k!", "")):
        with refused("InvalidTag", 400):
            s3.put_bucket_tagging(Bucket="settings", Tagging={"TagSet": [{"Key": key, "Value": value}]})
    twice = [{"Key": "k", "Value": "1"}, {"Key": "k", "Value": "2"}]
    with refused("InvalidTag", 400, "Cannot provide multiple Tags with the same key"):
        s3.put_bucket_tagging(Bucket="settings", Tagging={"TagSet": twice})
    with refused("BadRequest", 400, "Bucket tag count cannot be greater than 50"):
        s3.put_bucket_tagging(Bucket="settings", Tagging={"TagSet": [{"Key": f"k{n}", "Value": ""} for n in range(51)]})
    assert s3.get_bucket_tagging(Bucket="settings")["TagSet"] == [{"Key": "b", "Value": "x y"}]
    s3.delete_bucket_tagging(Bucket="settings")
    with refused("NoSuchTagSet", 404):
        s3.get_bucket_tagging(Bucket="settings")


def test_a_bucket_may_be_made_with_tags(s3: Any) -> None:
    tags = [{"Key": "team", "Value": "x"}]
    s3.create_bucket(Bucket="settings-tagged", CreateBucketConfiguration={"Tags": tags})
    assert s3.get_bucket_tagging(Bucket="settings-tagged")["TagSet"] == tags


def test_acceleration_is_kept(s3: Any) -> None:
    assert "Status" not in s3.get_bucket_accelerate_configuration(Bucket="settings")
    s3.put_bucket_accelerate_configuration(Bucket="settings", AccelerateConfiguration={"Status": "Enabled"})
    assert s3.get_bucket_accelerate_configuration(Bucket="settings")["Status"] == "Enabled"
    s3.create_bucket(Bucket="settings.dotted")
    with refused("InvalidRequest", 400):
        s3.put_bucket_accelerate_configuration(Bucket="settings.dotted", AccelerateConfiguration={"Status": "Enabled"})


def test_what_cannot_be_configured_is_not(s3: Any) -> None:
    for kind in ("analytics", "inventory", "metrics", "intelligent_tiering"):
        found = getattr(s3, f"list_bucket_{kind}_configurations")(Bucket="settings")
        assert found["IsTruncated"] is False
        for verb in ("get", "delete"):
            with refused("NoSuchConfiguration", 404, "The specified configuration does not exist."):
                getattr(s3, f"{verb}_bucket_{kind}_configuration")(Bucket="settings", Id="x")
    with refused("ReplicationConfigurationNotFoundError", 404):
        s3.get_bucket_replication(Bucket="settings")
    s3.delete_bucket_replication(Bucket="settings")
    with refused("NotImplemented", 501):
        s3.put_bucket_metrics_configuration(Bucket="settings", Id="x", MetricsConfiguration={"Id": "x"})


def test_lifecycle_rules_come_back_as_they_went(s3: Any) -> None:
    with refused("NoSuchLifecycleConfiguration", 404, "The lifecycle configuration does not exist"):
        s3.get_bucket_lifecycle_configuration(Bucket="settings")
    rules: list[dict[str, Any]] = [
        {"ID": "logs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}},
        {
            "ID": "old",
            "Status": "Disabled",
            "Filter": {"And": {"Prefix": "a", "Tags": [{"Key": "k", "Value": "v"}], "ObjectSizeGreaterThan": 5}},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 7, "NewerNoncurrentVersions": 2},
        },
        {
            "ID": "uploads",
            "Status": "Enabled",
            "Prefix": "",
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2},
        },
    ]
    s3.put_bucket_lifecycle_configuration(Bucket="settings", LifecycleConfiguration={"Rules": rules})
    assert s3.get_bucket_lifecycle_configuration(Bucket="settings")["Rules"] == rules
    with refused("InvalidArgument", 400, "must be a positive integer"):
        rule: dict[str, Any] = {"Status": "Enabled", "Filter": {}, "Expiration": {"Days": 0}}
        s3.put_bucket_lifecycle_configuration(Bucket="settings", LifecycleConfiguration={"Rules": [rule]})
    with refused("NotImplemented", 501):
        rule = {"Status": "Enabled", "Filter": {}, "Transitions": [{"Days": 1, "StorageClass": "GLACIER"}]}
        s3.put_bucket_lifecycle_configuration(Bucket="settings", LifecycleConfiguration={"Rules": [rule]})
    s3.delete_bucket_lifecycle(Bucket="settings")
    with refused("NoSuchLifecycleConfiguration", 404):
        s3.get_bucket_lifecycle_configuration(Bucket="settings")

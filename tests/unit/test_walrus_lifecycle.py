"""What lifecycle rules say is due, and which rules there may be."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CloudError
from mallee.s3.v1.lifecycle_pb2 import BucketLifecycleConfiguration
from services.walrus import configs
from services.walrus.lifecycle import DAY_MS, Calendar, Rules, Version, checked

NOON = 100 * DAY_MS + DAY_MS // 2


def configured(*rules: dict[str, Any]) -> BucketLifecycleConfiguration:
    shaped = [{"id": f"r{at}", "status": "Enabled", "filter": {}, **rule} for at, rule in enumerate(rules)]
    return ParseDict({"rules": shaped}, BucketLifecycleConfiguration(), ignore_unknown_fields=False)


def rules(*given: dict[str, Any]) -> Rules:
    return Rules(checked(configured(*given)), Calendar())


def version(**changes: Any) -> Version:
    standard: dict[str, Any] = {"key": b"logs/a", "size": 10, "modified_ms": NOON, "tags": {}}
    return Version(**(standard | changes))


def test_days_end_at_the_next_midnight() -> None:
    due = rules({"expiration": {"days": 1}})
    assert due.expires(version()) == (102 * DAY_MS, "r0")
    assert not due.is_due(version(), 102 * DAY_MS - 1)
    assert due.is_due(version(), 102 * DAY_MS)
    assert due.expires(version(modified_ms=100 * DAY_MS)) == (101 * DAY_MS, "r0")


def test_a_date_is_the_same_for_all_and_the_earliest_rule_counts() -> None:
    due = rules(
        {"expiration": {"days": 30}},
        {"expiration": {"date": "1970-04-20T00:00:00Z"}},
        {"expiration": {"days": 1}, "status": "Disabled"},
        {"expiration": {"days": 2}, "filter": {"prefix": "other/"}},
    )
    assert due.expires(version()) == (109 * DAY_MS, "r1")


@pytest.mark.parametrize(
    ("chosen", "covered"),
    [
        ({}, True),
        ({"prefix": "logs/"}, True),
        ({"prefix": "log/"}, False),
        ({"tag": {"key": "k", "value": "v"}}, True),
        ({"tag": {"key": "k", "value": "w"}}, False),
        ({"object_size_greater_than": 9}, True),
        ({"object_size_greater_than": 10}, False),
        ({"object_size_less_than": 11}, True),
        ({"object_size_less_than": 10}, False),
        ({"and_value": {"prefix": "logs/", "tags": [{"key": "k", "value": "v"}, {"key": "l", "value": ""}]}}, True),
        ({"and_value": {"prefix": "logs/", "tags": [{"key": "k", "value": "v"}, {"key": "m", "value": ""}]}}, False),
        ({"and_value": {"object_size_greater_than": 5, "object_size_less_than": 20}}, True),
    ],
)
def test_a_filter_covers_what_has_all_it_names(chosen: dict[str, Any], covered: bool) -> None:
    due = rules({"expiration": {"days": 1}, "filter": chosen})
    assert due.is_due(version(tags={"k": "v", "l": ""}), NOON + 3 * DAY_MS) is covered


def test_noncurrent_versions_go_by_their_own_age_and_number() -> None:
    late = NOON + 50 * DAY_MS
    due = rules({"noncurrent_version_expiration": {"noncurrent_days": 5, "newer_noncurrent_versions": 2}})
    assert not due.is_due(version(), late)
    for newer, gone in ((0, False), (1, False), (2, True), (9, True)):
        old = version(noncurrent_ms=NOON, newer_noncurrent=newer)
        assert due.is_due(old, late) is gone
        assert not due.is_due(old, NOON + 5 * DAY_MS)
    assert not rules({"expiration": {"days": 1}}).is_due(version(noncurrent_ms=NOON), late)


def test_a_delete_marker_goes_when_it_hides_nothing() -> None:
    marker = version(is_marker=True, size=0)
    alone = version(is_marker=True, size=0, is_only=True)
    for rule in ({"expired_object_delete_marker": True}, {"days": 1}):
        due = rules({"expiration": rule})
        assert not due.is_due(marker, NOON + 9 * DAY_MS)
        assert due.is_due(alone, NOON + 9 * DAY_MS)
    assert not rules({"expiration": {"date": "1970-01-02T00:00:00Z"}}).is_due(alone, NOON)
    tagged = rules({"expiration": {"days": 1}, "filter": {"tag": {"key": "k", "value": "v"}}})
    assert not tagged.is_due(alone, NOON + 9 * DAY_MS)


def test_uploads_are_given_up_by_prefix() -> None:
    due = rules({"abort_incomplete_multipart_upload": {"days_after_initiation": 2}, "filter": {"prefix": "a/"}})
    assert due.upload_is_due(b"a/x", NOON, NOON + 3 * DAY_MS)
    assert not due.upload_is_due(b"a/x", NOON, NOON + DAY_MS)
    assert not due.upload_is_due(b"b/x", NOON, NOON + 9 * DAY_MS)


@given(st.integers(1, 4000), st.integers(0, 10**13))
def test_nothing_expires_before_its_days_are_over(days: int, start: int) -> None:
    end = Calendar().after(start, days)
    assert start + days * DAY_MS <= end < start + (days + 1) * DAY_MS
    assert end % DAY_MS == 0


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ({"expiration": {"days": 0}}, "InvalidArgument"),
        ({"expiration": {"date": "2030-01-01T10:00:00Z"}}, "InvalidArgument"),
        ({"expiration": {}}, "MalformedXML"),
        ({"expiration": {"days": 1, "date": "2030-01-01T00:00:00Z"}}, "MalformedXML"),
        ({}, "InvalidRequest"),
        ({"expiration": {"days": 1}, "status": "On"}, "MalformedXML"),
        ({"expiration": {"days": 1}, "prefix": "a"}, "MalformedXML"),
        ({"expiration": {"days": 1}, "id": "x" * 256}, "InvalidArgument"),
        ({"expiration": {"days": 1}, "filter": {"prefix": "a", "tag": {"key": "k"}}}, "MalformedXML"),
        ({"expiration": {"days": 1}, "filter": {"and_value": {"prefix": "a"}}}, "MalformedXML"),
        ({"expiration": {"days": 1}, "filter": {"tag": {"key": "aws:x"}}}, "InvalidTag"),
        (
            {"expiration": {"expired_object_delete_marker": True}, "filter": {"tag": {"key": "k"}}},
            "InvalidRequest",
        ),
        (
            {"abort_incomplete_multipart_upload": {"days_after_initiation": 1}, "filter": {"tag": {"key": "k"}}},
            "InvalidRequest",
        ),
        ({"abort_incomplete_multipart_upload": {}}, "InvalidArgument"),
        ({"noncurrent_version_expiration": {}}, "MalformedXML"),
        ({"noncurrent_version_expiration": {"noncurrent_days": 0}}, "InvalidArgument"),
        (
            {"expiration": {"days": 1}, "filter": {"and_value": {"tags": [{"key": "k"}, {"key": "k"}]}}},
            "InvalidRequest",
        ),
        (
            {"noncurrent_version_expiration": {"noncurrent_days": 1, "newer_noncurrent_versions": 101}},
            "InvalidArgument",
        ),
        (
            {
                "expiration": {"days": 1},
                "filter": {"and_value": {"object_size_greater_than": 5, "object_size_less_than": 6}},
            },
            "InvalidRequest",
        ),
    ],
)
def test_rules_that_mean_nothing_are_refused(rule: dict[str, Any], code: str) -> None:
    with pytest.raises(CloudError) as refused:
        checked(configured(rule))
    assert refused.value.code == code


def test_rules_have_ids_and_no_two_the_same() -> None:
    made = checked(configured({"id": "", "expiration": {"days": 1}}, {"id": "", "expiration": {"days": 1}}))
    assert all(rule.id for rule in made.rules)
    with pytest.raises(CloudError, match="must be unique"):
        checked(configured({"id": "a", "expiration": {"days": 1}}, {"id": "a", "expiration": {"days": 1}}))
    with pytest.raises(CloudError):
        checked(BucketLifecycleConfiguration())


def test_configurations_that_are_large_are_read_and_forgotten() -> None:
    read: list[bytes] = []

    @configs.remembered(large=1)
    def reader(body: bytes) -> int:
        read.append(body)
        return len(body)

    small, large, other = b"s", b"l" * 5000, b"o" * 5000
    for body in (small, large, large, small, other, large, small):
        assert reader(body) == len(body)
    assert read == [small, large, other, large]

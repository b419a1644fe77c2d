"""Rules of a bucket's lifecycle: what may be configured, and what is due of a version at a time. Pure.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/intro-lifecycle-rules.html. There is one kind of storage here: a
transition to another class would mean nothing, and the contract has none.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final
from urllib.parse import quote

from google.protobuf.message import Message

from common.errors import InvalidArgument
from mallee.s3.v1.lifecycle_pb2 import BucketLifecycleConfiguration, LifecycleRule, LifecycleRuleFilter
from services.walrus import configs, errors, tags
from services.walrus.drivers.base import Bucket, Object, Upload

DAY_MS: Final = 24 * 3600 * 1000
# The last midnight that a date can tell, 9999-12-31.
_LAST_MS: Final = 253_402_214_400_000
_RULES: Final = 1000
_ID_CHARACTERS: Final = 255
_NEWER_VERSIONS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What rules ask about one version of an object, or about a delete marker."""

    key: bytes
    size: int
    modified_ms: int
    tags: Mapping[str, str]
    is_marker: bool = False
    # None: it is the current one. Else since when it is not.
    noncurrent_ms: int | None = None
    # Noncurrent versions of the key that are newer.
    newer_noncurrent: int = 0
    # No other version of the key is there.
    is_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """How long a day lasts, so that tests and operators in a hurry can turn it."""

    day_ms: int = DAY_MS

    def after(self, start_ms: int, days: int) -> int:
        """S3 adds the days and goes on to the next midnight UTC. What has no date is told as the last that there is."""
        end = start_ms + days * self.day_ms
        return min(-(-end // self.day_ms) * self.day_ms, _LAST_MS)


class Rules:
    """A bucket's configuration, ready to be asked about many versions."""

    def __init__(self, configuration: BucketLifecycleConfiguration, calendar: Calendar) -> None:
        self._rules = [_Rule(rule) for rule in configuration.rules if rule.status == "Enabled"]
        self._calendar = calendar

    def asks_for_tags(self) -> bool:
        return any(rule.tags for rule in self._rules)

    def expires(self, version: Version) -> tuple[int, str] | None:
        """When the current version expires, in milliseconds since 1970, and by which rule: the earliest."""
        found = [
            (at, rule.id)
            for rule in self._rules
            if (at := self._expiry_of(rule.rule, version)) is not None and rule.covers(version)
        ]
        return min(found, default=None)

    def is_due(self, version: Version, now_ms: int) -> bool:
        """It is to go: a current object by expiring, a noncurrent version or a lone delete marker for good."""
        if version.noncurrent_ms is None:
            expiry = self.expires(version)
            return expiry is not None and expiry[0] <= now_ms
        return any(self._noncurrent_due(rule.rule, version, now_ms) and rule.covers(version) for rule in self._rules)

    def aborts(self, key: bytes, started_ms: int) -> tuple[int, str] | None:
        """When an upload that is not completed is aborted, and by which rule: the earliest."""
        found = [
            (
                self._calendar.after(started_ms, rule.rule.abort_incomplete_multipart_upload.days_after_initiation),
                rule.id,
            )
            for rule in self._rules
            if rule.rule.HasField("abort_incomplete_multipart_upload") and key.startswith(rule.prefix)
        ]
        return min(found, default=None)

    def upload_is_due(self, key: bytes, started_ms: int, now_ms: int) -> bool:
        abort = self.aborts(key, started_ms)
        return abort is not None and abort[0] <= now_ms

    def _expiry_of(self, rule: LifecycleRule, version: Version) -> int | None:
        expiration = rule.expiration
        if version.is_marker:
            # By `Days` too a marker that hides nothing any more is cleaned up.
            if version.is_only and expiration.expired_object_delete_marker:
                return version.modified_ms
            return (
                self._calendar.after(version.modified_ms, expiration.days)
                if version.is_only and expiration.HasField("days")
                else None
            )
        if expiration.HasField("days"):
            return self._calendar.after(version.modified_ms, expiration.days)
        if expiration.HasField("date"):
            return expiration.date.seconds * 1000
        return None

    def _noncurrent_due(self, rule: LifecycleRule, version: Version, now_ms: int) -> bool:
        if not rule.HasField("noncurrent_version_expiration") or version.noncurrent_ms is None:
            return False
        expiration = rule.noncurrent_version_expiration
        old = self._calendar.after(version.noncurrent_ms, expiration.noncurrent_days) <= now_ms
        return old and version.newer_noncurrent >= expiration.newer_noncurrent_versions


class _Rule:
    def __init__(self, rule: LifecycleRule) -> None:
        self.rule = rule
        self.id = rule.id
        chosen = rule.filter
        both = chosen.and_value
        self.prefix = (rule.prefix or chosen.prefix or both.prefix).encode()
        self.tags = {tag.key: tag.value for tag in ([chosen.tag] if chosen.HasField("tag") else both.tags)}
        self._greater = _bound(chosen, "object_size_greater_than")
        self._less = _bound(chosen, "object_size_less_than")

    def covers(self, version: Version) -> bool:
        if not version.key.startswith(self.prefix):
            return False
        if version.is_marker:
            # It has neither tags nor a size.
            return not self.tags and self._greater is None and self._less is None
        return (
            all(version.tags.get(key) == value for key, value in self.tags.items())
            and (self._greater is None or version.size > self._greater)
            and (self._less is None or version.size < self._less)
        )


def _bound(chosen: LifecycleRuleFilter, field: str) -> int | None:
    for place in (chosen, chosen.and_value):
        if _given(place, field):
            return int(getattr(place, field))
    return None


def rules_of(bucket: Bucket, calendar: Calendar) -> Rules | None:
    body = bucket.configs.get(configs.kind_of(BucketLifecycleConfiguration))
    return None if body is None else _read(body, calendar)


# Every read and write of an object asks.
@configs.remembered(large=4)
def _read(body: bytes, calendar: Calendar) -> Rules:
    return Rules(BucketLifecycleConfiguration.FromString(body), calendar)


def expiration_of(bucket: Bucket, current: Object, calendar: Calendar) -> str | None:
    """x-amz-expiration of a current version. None: no rule ever takes it."""
    rules = rules_of(bucket, calendar)
    if rules is None:
        return None
    version = Version(key=current.key, size=current.size, modified_ms=current.modified_ms, tags=current.tags)
    expiry = rules.expires(version)
    if expiry is None:
        return None
    at_ms, rule_id = expiry
    return f'expiry-date="{formatdate(at_ms // 1000, usegmt=True)}", rule-id="{quote(rule_id)}"'


def abort_of(bucket: Bucket, upload: Upload, calendar: Calendar) -> tuple[int, str] | None:
    """For x-amz-abort-date and x-amz-abort-rule-id: milliseconds since 1970, and the rule. None: no rule aborts it."""
    configuration = configs.find(bucket, BucketLifecycleConfiguration)
    return Rules(configuration, calendar).aborts(upload.key, upload.started_ms) if configuration is not None else None


def checked(configuration: BucketLifecycleConfiguration) -> BucketLifecycleConfiguration:
    """With an id for every rule. Raises InvalidArgument in S3's words."""
    if not 0 < len(configuration.rules) <= _RULES:
        raise errors.malformed_xml()
    for rule in configuration.rules:
        if not rule.id:
            rule.id = secrets.token_hex(24)
        _check_rule(rule)
    ids = [rule.id for rule in configuration.rules]
    if len(set(ids)) < len(ids):
        raise _argument("Rule ID must be unique. Found same ID for one or more rules", rule_id=ids[0])
    return configuration


def _check_rule(rule: LifecycleRule) -> None:
    if len(rule.id) > _ID_CHARACTERS:
        raise _argument(f"ID length should not exceed allowed limit of {_ID_CHARACTERS}", rule_id=rule.id[:64])
    if rule.status not in ("Enabled", "Disabled") or rule.HasField("prefix") == rule.HasField("filter"):
        raise errors.malformed_xml()
    actions = ("expiration", "noncurrent_version_expiration", "abort_incomplete_multipart_upload")
    if not _given(rule, *actions):
        raise errors.invalid_request("At least one action needs to be specified in a rule")
    _check_filter(rule)
    _check_expiration(rule)
    _check_noncurrent(rule)
    _check_abort(rule)


def _check_filter(rule: LifecycleRule) -> None:
    chosen = rule.filter
    both = chosen.and_value
    alone = ("prefix", "tag", "object_size_greater_than", "object_size_less_than", "and_value")
    if _given(chosen, *alone) > 1:
        raise errors.malformed_xml()
    together = _given(both, "prefix", "object_size_greater_than", "object_size_less_than") + len(both.tags)
    if chosen.HasField("and_value") and together < 2:
        raise errors.malformed_xml()
    if len({tag.key for tag in both.tags}) < len(both.tags):
        raise errors.invalid_request("Duplicate Tag Keys are not allowed.")
    tags.checked_tags([chosen.tag] if chosen.HasField("tag") else both.tags, most=tags.OBJECT_TAGS)
    greater, less = _bound(chosen, "object_size_greater_than"), _bound(chosen, "object_size_less_than")
    if (greater is not None and greater < 0) or (less is not None and less < 1):
        raise _argument("'ObjectSize' filters must not be negative", rule_id=rule.id)
    if greater is not None and less is not None and greater + 1 >= less:
        raise errors.invalid_request("'ObjectSizeLessThan' has to be a value greater than 'ObjectSizeGreaterThan'.")


def _check_expiration(rule: LifecycleRule) -> None:
    if not rule.HasField("expiration"):
        return
    expiration = rule.expiration
    if _given(expiration, "date", "days", "expired_object_delete_marker") != 1:
        raise errors.malformed_xml()
    if expiration.HasField("days") and expiration.days <= 0:
        raise _argument("'Days' for Expiration action must be a positive integer", rule_id=rule.id)
    if expiration.HasField("date") and (expiration.date.seconds * 1000 + expiration.date.nanos) % DAY_MS:
        date = expiration.date.ToJsonString()
        raise errors.invalid_argument("'Date' must be at midnight GMT", name="Date", value=date)
    if expiration.expired_object_delete_marker and _names_objects(rule):
        raise errors.invalid_request(f"{_filter_of(rule)} cannot be used with ExpiredObjectDeleteMarker action.")


def _check_noncurrent(rule: LifecycleRule) -> None:
    if not rule.HasField("noncurrent_version_expiration"):
        return
    expiration = rule.noncurrent_version_expiration
    if not _given(expiration, "noncurrent_days", "newer_noncurrent_versions"):
        raise errors.malformed_xml()
    if expiration.noncurrent_days <= 0:
        raise _argument(
            "'NoncurrentDays' for NoncurrentVersionExpiration action must be a positive integer", rule_id=rule.id
        )
    if expiration.HasField("newer_noncurrent_versions"):
        if not 0 < expiration.newer_noncurrent_versions <= _NEWER_VERSIONS:
            raise _argument(
                "'NewerNoncurrentVersions' for NoncurrentVersionExpiration action must be a positive integer up to "
                f"{_NEWER_VERSIONS}",
                rule_id=rule.id,
            )
        if not rule.HasField("filter"):
            raise errors.invalid_request("NewerNoncurrentVersions requires the Filter element in the rule")


def _check_abort(rule: LifecycleRule) -> None:
    if not rule.HasField("abort_incomplete_multipart_upload"):
        return
    if rule.abort_incomplete_multipart_upload.days_after_initiation <= 0:
        raise _argument(
            "'DaysAfterInitiation' for AbortIncompleteMultipartUpload action must be a positive integer",
            rule_id=rule.id,
        )
    if _names_objects(rule):
        raise errors.invalid_request(f"{_filter_of(rule)} cannot be used with AbortIncompleteMultipartUpload action.")


def _names_objects(rule: LifecycleRule) -> bool:
    """It speaks of tags or sizes, which uploads and delete markers do not have."""
    return bool(_Rule(rule).tags) or _sizes(rule)


def _sizes(rule: LifecycleRule) -> bool:
    return any(_bound(rule.filter, f"object_size_{side}_than") is not None for side in ("greater", "less"))


def _filter_of(rule: LifecycleRule) -> str:
    return "Object size based filter" if _sizes(rule) else "Tag based filter"


def _given(message: Message, *fields: str) -> int:
    """How many of them are set."""
    return sum(message.HasField(field) for field in fields)


def _argument(message: str, *, rule_id: str) -> InvalidArgument:
    return errors.invalid_argument(message, name="ID", value=rule_id)

"""Rules of object lock: what may be asked for, and what may follow on what stands. Pure.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from mallee.s3.v1.object_lock_pb2 import ObjectLockConfiguration
from services.walrus import configs, errors
from services.walrus.drivers.base import Bucket, Object
from services.walrus.drivers.versions import Bypass, Retention, check_unlocked

MODES: Final = ("GOVERNANCE", "COMPLIANCE")
ENABLED: Final = "Enabled"
_DAY_MS: Final = 24 * 3600 * 1000
_LONGEST: Final = {"Days": 36_500, "Years": 100}


def is_locking(bucket: Bucket) -> bool:
    return configs.find(bucket, ObjectLockConfiguration) is not None


def check_locking(bucket: Bucket) -> None:
    if not is_locking(bucket):
        raise errors.invalid_request("Bucket is missing Object Lock Configuration")


def check_configuration(wanted: ObjectLockConfiguration) -> None:
    if wanted.object_lock_enabled != ENABLED:
        raise errors.malformed_xml()
    if not wanted.HasField("rule"):
        return
    default = wanted.rule.default_retention
    if default.mode not in MODES or default.HasField("days") == default.HasField("years"):
        raise errors.malformed_xml()
    name, length = ("Days", default.days) if default.HasField("days") else ("Years", default.years)
    if length < 1:
        raise errors.invalid_argument(
            "Default retention period must be a positive integer value.", name=name, value=str(length)
        )
    if length > _LONGEST[name]:
        raise errors.invalid_argument("Default retention period too large.", name=name, value=str(length))


def with_default(bucket: Bucket, new: Object) -> Object:
    """A version that says nothing of its own is retained as the bucket says."""
    found = configs.find(bucket, ObjectLockConfiguration)
    if found is None or not found.HasField("rule"):
        return new
    default = found.rule.default_retention
    until_ms = new.modified_ms + (default.days or default.years * 365) * _DAY_MS
    return new if new.retention else replace(new, retention=Retention(mode=default.mode, until_ms=until_ms))


def retention_sent(bucket: Bucket, request: Any, now_ms: int) -> Retention | None:
    """In the headers of a write."""
    mode, dated = request.object_lock_mode, request.HasField("object_lock_retain_until_date")
    if not mode and not dated:
        return None
    if not mode or not dated:
        raise errors.invalid_argument(
            "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied",
            name="x-amz-object-lock-retain-until-date" if mode else "x-amz-object-lock-mode",
            value="",
        )
    if mode not in MODES:
        raise errors.invalid_argument("Unknown wormMode directive.", name="x-amz-object-lock-mode", value=mode)
    check_locking(bucket)
    name = "x-amz-object-lock-retain-until-date"
    return future(mode, request.object_lock_retain_until_date, now_ms, name=name)


def legal_hold_sent(bucket: Bucket, request: Any) -> bool | None:
    status = request.object_lock_legal_hold_status
    if not status:
        return None
    if status not in ("ON", "OFF"):
        raise errors.invalid_argument(
            "Legal Hold must be either of 'ON' or 'OFF'", name="x-amz-object-lock-legal-hold", value=status
        )
    check_locking(bucket)
    return bool(status == "ON")


def future(mode: str, until: Any, now_ms: int, *, name: str = "RetainUntilDate") -> Retention:
    until_ms = until.seconds * 1000 + until.nanos // 1_000_000
    if until_ms <= now_ms:
        raise errors.invalid_argument(
            "The retain until date must be in the future!", name=name, value=until.ToJsonString()
        )
    return Retention(mode=mode, until_ms=until_ms)


def check_change(now: Retention | None, wanted: Retention | None, *, now_ms: int, bypass: Bypass) -> None:
    """A lock may always become a longer one of its mode; less only where it may be broken.

    Raises Denied (AccessDenied).
    """
    if now and wanted and wanted.mode == now.mode and wanted.until_ms >= now.until_ms:
        return
    check_unlocked(now, None, now_ms, bypass)

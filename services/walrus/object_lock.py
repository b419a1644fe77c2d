"""Locks as their owner sets and reads them: of a bucket, and of one version (retention and legal hold)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from common.errors import NotFound, WrongState
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import object_lock_pb2 as pb
from services.walrus import configs, errors, lock, reading, versioning, wire
from services.walrus import object as object_rules
from services.walrus.drivers.base import Object
from services.walrus.drivers.versions import Bypass
from services.walrus.store import Store


async def put_configuration(
    store: Store, request: pb.PutObjectLockConfigurationRequest, caller: Caller | None
) -> pb.PutObjectLockConfigurationOutput:
    bucket = await store.bucket_for(request, caller)
    lock.check_configuration(request.object_lock_configuration)
    if versioning.state_of(bucket) != versioning.ENABLED:
        raise WrongState(
            "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration", code="InvalidBucketState"
        )
    await configs.put(store, bucket, request.object_lock_configuration)
    return pb.PutObjectLockConfigurationOutput()


async def get_configuration(
    store: Store, request: pb.GetObjectLockConfigurationRequest, caller: Caller | None
) -> pb.GetObjectLockConfigurationOutput:
    bucket = await store.bucket_for(request, caller)
    found = configs.find(bucket, pb.ObjectLockConfiguration)
    if found is None:
        raise errors.not_configured(
            bucket.name,
            "ObjectLockConfigurationNotFoundError",
            "Object Lock configuration does not exist for this bucket",
        )
    return pb.GetObjectLockConfigurationOutput(object_lock_configuration=found)


async def put_retention(
    store: Store, request: pb.PutObjectRetentionRequest, caller: Caller | None
) -> pb.PutObjectRetentionOutput:
    bucket = await store.bucket_for(request, caller)
    now_ms, wanted = store.now_ms(), None
    sent = request.retention
    if sent.mode or sent.HasField("retain_until_date"):
        if sent.mode not in lock.MODES or not sent.HasField("retain_until_date"):
            raise errors.malformed_xml()
        wanted = lock.future(sent.mode, sent.retain_until_date, now_ms)
    bypass = Bypass.GOVERNANCE if request.bypass_governance_retention else Bypass.NONE

    def change(now: Object) -> Object:
        lock.check_locking(bucket)
        lock.check_change(now.retention, wanted, now_ms=now_ms, bypass=bypass)
        return replace(now, retention=wanted)

    await reading.change(store, bucket, request, caller, change)
    return pb.PutObjectRetentionOutput()


async def get_retention(
    store: Store, request: pb.GetObjectRetentionRequest, caller: Caller | None
) -> pb.GetObjectRetentionOutput:
    found = await _find(store, request, caller)
    if found.retention is None:
        raise _none(found)
    return pb.GetObjectRetentionOutput(
        retention=pb.ObjectLockRetention(
            mode=found.retention.mode, retain_until_date=wire.moment(found.retention.until_ms)
        )
    )


async def put_legal_hold(
    store: Store, request: pb.PutObjectLegalHoldRequest, caller: Caller | None
) -> pb.PutObjectLegalHoldOutput:
    bucket = await store.bucket_for(request, caller)

    def change(now: Object) -> Object:
        lock.check_locking(bucket)
        if request.legal_hold.status not in ("ON", "OFF"):
            raise errors.malformed_xml()
        return replace(now, legal_hold=bool(request.legal_hold.status == "ON"))

    await reading.change(store, bucket, request, caller, change)
    return pb.PutObjectLegalHoldOutput()


async def get_legal_hold(
    store: Store, request: pb.GetObjectLegalHoldRequest, caller: Caller | None
) -> pb.GetObjectLegalHoldOutput:
    found = await _find(store, request, caller)
    if found.legal_hold is None:
        raise _none(found)
    return pb.GetObjectLegalHoldOutput(legal_hold=pb.ObjectLockLegalHold(status="ON" if found.legal_hold else "OFF"))


async def _find(store: Store, request: Any, caller: Caller | None) -> Object:
    bucket = await store.bucket_for(request, caller)
    found = await reading.find(store, bucket, object_rules.checked_key(request.key), request, caller)
    lock.check_locking(bucket)
    return found


def _none(found: Object) -> NotFound:
    return NotFound(
        "The specified object does not have a ObjectLock configuration",
        code="NoSuchObjectLockConfiguration",
        details={"Key": errors.shown(found.key)},
    )

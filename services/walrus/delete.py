"""DeleteObject and DeleteObjects: of a version for good, or by a marker before all versions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from common.errors import CloudError, InvalidArgument
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import object_pb2
from services.walrus import access, conditions, errors, lock, ownership, versioning, wire
from services.walrus import object as object_rules
from services.walrus.drivers.base import Bucket
from services.walrus.drivers.versions import NULL, Bypass, Deletion, Expectation, Gone, Marker, Removal
from services.walrus.store import Store
from services.walrus.tell import removed

_KEYS_LIMIT: Final = 1000


async def delete_object(
    store: Store, request: object_pb2.DeleteObjectRequest, caller: Caller | None
) -> object_pb2.DeleteObjectOutput:
    bucket = await store.bucket_for(request, caller)
    versioning.asked_by(request)
    expect = replace(
        conditions.expectation(request.if_match, ""),
        size=request.if_match_size if request.HasField("if_match_size") else None,
        modified_s=wire.seconds_of(request, "if_match_last_modified_time"),
    )
    deletion = _deletion(store, bucket, request, caller, expect=expect, bypass=_bypass(bucket, request))
    (outcome,) = await store.index.delete(bucket, [deletion], now_ms=store.now_ms())
    if isinstance(outcome, CloudError):
        raise outcome
    store.changed(deletion.events)
    answer = object_pb2.DeleteObjectOutput()
    if request.version_id or isinstance(deletion.what, Marker):
        answer.version_id = versioning.shown(deletion.what.version_id)
        if outcome is Gone.MARKER:
            answer.delete_marker = True
    return answer


async def delete_objects(
    store: Store, request: object_pb2.DeleteObjectsRequest, caller: Caller | None
) -> object_pb2.DeleteObjectsOutput:
    """The facade has checked the digests of the XML body that named the keys (`checksum_algorithm` was for it)."""
    bucket = await store.bucket_for(request, caller)
    wanted, quiet = request.delete.objects, request.delete.quiet
    if not 1 <= len(wanted) <= _KEYS_LIMIT:
        raise errors.malformed_xml()
    bypass = _bypass(bucket, request)
    outcomes: dict[int, Gone | CloudError] = {}
    deletions: dict[int, Deletion] = {}
    for place, one in enumerate(wanted):
        try:
            expect = replace(
                conditions.expectation(one.e_tag, ""),
                size=one.size if one.HasField("size") else None,
                modified_s=wire.seconds_of(one, "last_modified_time"),
            )
            _check_access(store, bucket, request, one, caller)
            if one.HasField("version_id") and not versioning.is_one(one.version_id):
                raise errors.no_such_version(object_rules.checked_key(one.key), one.version_id)
            deletions[place] = _deletion(store, bucket, one, caller, expect=expect, bypass=bypass)
        except CloudError as refusal:
            outcomes[place] = refusal
    done = await store.index.delete(bucket, list(deletions.values()), now_ms=store.now_ms())
    outcomes.update(zip(deletions, done, strict=True))
    store.changed([event for deletion in deletions.values() for event in deletion.events])
    answer = object_pb2.DeleteObjectsOutput()
    for place, one in enumerate(wanted):
        outcome = outcomes[place]
        if isinstance(outcome, CloudError):
            version_id = one.version_id or None
            answer.errors.add(key=one.key, version_id=version_id, code=outcome.code, message=outcome.message)
        elif not quiet:
            _tell(answer.deleted.add(key=one.key), one, deletions[place], outcome)
    return answer


def _tell(told: object_pb2.DeletedObject, one: object_pb2.ObjectIdentifier, deletion: Deletion, outcome: Gone) -> None:
    if one.version_id:
        told.version_id = one.version_id
    if outcome is Gone.MARKER:
        told.delete_marker = True
        told.delete_marker_version_id = versioning.shown(deletion.what.version_id)


def _deletion(
    store: Store, bucket: Bucket, one: Any, caller: Caller | None, *, expect: Expectation, bypass: Bypass
) -> Deletion:
    key = object_rules.checked_key(one.key)
    version_id = versioning.asked(one.version_id)
    if version_id is None and versioning.state_of(bucket):
        marker = Marker(
            key=key,
            version_id=versioning.new_id(bucket),
            modified_ms=store.now_ms(),
            owner_id=ownership.writer_of(bucket, caller) if caller else "",
        )
        return Deletion(what=marker, expect=expect, events=removed(store, bucket, marker, caller))
    what = Removal(key=key, version_id=version_id or NULL, bypass=bypass)
    return Deletion(what=what, expect=expect, events=removed(store, bucket, what, caller))


def _check_access(
    store: Store,
    bucket: Bucket,
    request: object_pb2.DeleteObjectsRequest,
    one: object_pb2.ObjectIdentifier,
    caller: Caller | None,
) -> None:
    if caller is None or access.is_everyday(bucket, caller):
        return
    alone = object_pb2.DeleteObjectRequest(
        bucket=bucket.name,
        key=one.key,
        version_id=one.version_id or None,
        bypass_governance_retention=request.bypass_governance_retention,
        request_payer=request.request_payer,
    )
    access.check(bucket, alone, caller, store.now_ms())


def _bypass(bucket: Bucket, request: Any) -> Bypass:
    if request.HasField("bypass_governance_retention") and not lock.is_locking(bucket):
        name = "x-amz-bypass-governance-retention"
        raise InvalidArgument(
            f"{name} is only applicable to Object Lock enabled buckets.",
            code="InvalidArgument",
            details={"ArgumentName": name},
        )
    return Bypass.GOVERNANCE if request.bypass_governance_retention else Bypass.NONE

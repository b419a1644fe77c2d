"""DeleteObject and DeleteObjects."""

from __future__ import annotations

from typing import Final

from common.errors import CloudError, InvalidArgument
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import object_pb2
from services.walrus import conditions
from services.walrus import object as object_rules
from services.walrus.drivers.versions import Deletion, Removal
from services.walrus.store import Store
from services.walrus.tell import removed

_KEYS_LIMIT: Final = 1000


async def delete_object(
    store: Store, request: object_pb2.DeleteObjectRequest, caller: Caller | None
) -> object_pb2.DeleteObjectOutput:
    bucket = await store.bucket(request.bucket, caller, request.expected_bucket_owner)
    what = Removal(key=object_rules.checked_key(request.key))
    events = removed(store, bucket, what, caller)
    deletion = Deletion(what=what, expect=conditions.expectation(request.if_match, ""), events=events)
    (outcome,) = await store.index.delete(bucket, [deletion], now_ms=store.now_ms())
    if isinstance(outcome, CloudError):
        raise outcome
    store.changed(events)
    return object_pb2.DeleteObjectOutput()


async def delete_objects(
    store: Store, request: object_pb2.DeleteObjectsRequest, caller: Caller | None
) -> object_pb2.DeleteObjectsOutput:
    """The facade has checked the digests of the XML body that named the keys (`checksum_algorithm` was for it)."""
    bucket = await store.bucket(request.bucket, caller, request.expected_bucket_owner)
    wanted, quiet = request.delete.objects, request.delete.quiet
    if not 1 <= len(wanted) <= _KEYS_LIMIT:
        raise InvalidArgument(
            "The XML you provided was not well-formed or did not validate against our published schema",
            code="MalformedXML",
        )
    outcomes: dict[int, CloudError | None] = {}
    deletions: dict[int, Deletion] = {}
    for place, one in enumerate(wanted):
        outcomes[place] = None
        try:
            key = object_rules.checked_key(one.key)
            expect = conditions.expectation(one.e_tag, "")
            what = Removal(key=key)
            events = removed(store, bucket, what, caller)
            deletions[place] = Deletion(what=what, expect=expect, events=events)
        except CloudError as refusal:
            outcomes[place] = refusal
    done = await store.index.delete(bucket, list(deletions.values()), now_ms=store.now_ms())
    for place, outcome in zip(deletions, done, strict=True):
        outcomes[place] = outcome if isinstance(outcome, CloudError) else None
    store.changed([event for deletion in deletions.values() for event in deletion.events])
    answer = object_pb2.DeleteObjectsOutput()
    for place, error in outcomes.items():
        if error is not None:
            answer.errors.add(key=wanted[place].key, code=error.code, message=error.message)
        elif not quiet:
            answer.deleted.add(key=wanted[place].key)
    return answer

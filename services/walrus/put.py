"""PutObject: acknowledged when the bytes, the name they are found by and the index row are on disk."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from typing import Any

from common.errors import Denied
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import object_pb2
from services.walrus import accounts, conditions, encryption, lifecycle, payment, versioning, wire
from services.walrus import object as object_rules
from services.walrus.body import announced, next_message, received
from services.walrus.drivers.base import Bucket, Object
from services.walrus.drivers.versions import ANYTHING, NULL, Expectation
from services.walrus.errors import invalid_request
from services.walrus.extras import extras_of, version_of
from services.walrus.store import Store
from services.walrus.tell import created


async def put_object(
    store: Store,
    messages: AsyncIterator[object_pb2.PutObjectStream],
    caller: Caller | None,
    *,
    most_bytes: int = object_rules.PUT_BYTES,
) -> object_pb2.PutObjectOutput:
    request = (await header_of(store, messages)).header
    bucket = await store.bucket_for(request, caller)
    key = object_rules.checked_key(request.key)
    encrypted = encryption.of_new(store, bucket, request)
    await accounts.check_grantees(store.accounts, request, bucket.owner_id)
    extras = extras_of(bucket, request, caller, now_ms=store.now_ms(), encryption=encrypted)
    attributes = object_rules.checked_attributes(wire.headers_of(request), request.metadata)
    expect = conditions.expectation(request.if_match, request.if_none_match)
    claim = announced(request)
    await _check_early(store, bucket, key, expect, claim.length)
    may_be = functools.partial(check_quota, store, bucket, key)
    async with received(
        store, messages, claim, may_inline=True, most_bytes=most_bytes, encryption=encrypted, may_be=may_be
    ) as body:
        new = Object(
            key=key,
            size=body.size,
            etag=body.etag,
            modified_ms=store.now_ms(),
            checksum=body.checksum,
            attributes=attributes,
            content=body.content,
        )
        bucket, new = await version_of(store, bucket, new, extras)
        events = created(store, bucket, "Put", caller, new)
        await body.settle(store, store.index.put_object(bucket, new, expect, events))
    store.changed(events)
    version_id = versioning.told(bucket, new.version_id)
    answer = object_pb2.PutObjectOutput(
        e_tag=wire.quoted(new.etag),
        version_id=version_id,
        expiration=lifecycle.expiration_of(bucket, new, store.calendar),
    )
    wire.set_checksum(answer, new.checksum)
    encryption.tell(answer, request, new.encryption)
    await payment.tell(store, answer, request, caller)
    return answer


async def header_of(store: Store, messages: AsyncIterator[Any]) -> Any:
    """Every stream begins with it."""
    message = await next_message(store, messages)
    if message.WhichOneof("part") != "header":
        raise invalid_request("The stream does not begin with its header.")
    return message


async def _check_early(store: Store, bucket: Bucket, key: bytes, expect: Expectation, length: int | None) -> None:
    """Spares a body that cannot be stored. What counts is the check in the index's own step."""
    if expect != ANYTHING:
        now = await store.index.find_object(bucket, key)
        expect.check(key, now.etag if isinstance(now, Object) else None)
    if length is not None:
        await check_quota(store, bucket, key, length)


async def check_quota(store: Store, bucket: Bucket, key: bytes, size: int) -> None:
    """Raises Denied (QuotaExceeded) if an object of that size would be refused now."""
    try:
        await store.index.quotas.check(bucket, size=size, objects=1)
    except Denied:
        # It is less than that where it takes another one's place.
        replaces = versioning.new_id(bucket) == NULL
        replaced = await store.index.find_object(bucket, key, NULL) if replaces else None
        if replaced is None:
            raise
        freed = replaced.size if isinstance(replaced, Object) else 0
        await store.index.quotas.check(bucket, size=size - freed, objects=0)

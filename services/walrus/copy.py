"""CopyObject and UploadPartCopy.

A blob is immutable, so a copy of a whole one is another name of the same bytes where the engine can give it one. All
else goes through like a body of a client's: chunk by chunk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import copy_pb2
from services.walrus import (
    accounts,
    conditions,
    digests,
    encryption,
    errors,
    lifecycle,
    versioning,
    wire,
)
from services.walrus import object as object_rules
from services.walrus.body import Body, copied, shared
from services.walrus.copy_source import (
    TRIES,
    Replaced,
    Source,
    always_replaced,
    chunks_of,
    source_of,
    span_of,
    tags_of,
    tell_payment,
)
from services.walrus.drivers.base import Attributes, Bucket, Object, Part, Single, Upload
from services.walrus.encryption import Encryption
from services.walrus.extras import extras_of, version_of
from services.walrus.multipart import checked_part_number, find_upload
from services.walrus.put import check_quota
from services.walrus.ranges import Span
from services.walrus.store import Store
from services.walrus.tell import created

# What is not copied with an object, but said anew.
_SAID_ANEW: Final = ("StorageClass", "WebsiteRedirectLocation")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What is to become of the source's bytes."""

    # None: all of them.
    span: Span | None
    algorithm: str
    encryption: Encryption | None


async def copy_object(
    store: Store, request: copy_pb2.CopyObjectRequest, caller: Caller | None
) -> copy_pb2.CopyObjectOutput:
    bucket = await store.bucket_for(request, caller)
    object_rules.checked_key(request.key)
    _check_directives(request)
    await accounts.check_grantees(store.accounts, request, bucket.owner_id)
    for _ in range(TRIES):
        with suppress(Replaced):
            async with source_of(store, request, caller) as source:
                new = await _put_copy(store, bucket, request, caller, source)
            answer = _object_copied(store, bucket, request, source, new)
            await tell_payment(store, answer, source, caller)
            return answer
    raise always_replaced()


async def copy_part(
    store: Store, request: copy_pb2.UploadPartCopyRequest, caller: Caller | None
) -> copy_pb2.UploadPartCopyOutput:
    bucket = await store.bucket_for(request, caller)
    checked_part_number(request)
    upload = await find_upload(store, bucket, request, caller)
    for _ in range(TRIES):
        with suppress(Replaced):
            async with source_of(store, request, caller) as source:
                part = await _put_part(store, upload, request, caller, source)
            store.reclaim()
            answer = _part_copied(request, source, upload, part)
            await tell_payment(store, answer, source, caller)
            return answer
    raise always_replaced()


async def _put_copy(
    store: Store, bucket: Bucket, request: copy_pb2.CopyObjectRequest, caller: Caller | None, source: Source
) -> Object:
    key = object_rules.checked_key(request.key)
    object_rules.check_copy_size(source.found.size)
    attributes = _attributes(request, source.found)
    _check_changes(request, bucket, key, source, attributes)
    tags = tags_of(store, request, source, caller)
    encrypted = encryption.of_new(store, bucket, request)
    extras = extras_of(bucket, request, caller, now_ms=store.now_ms(), tags=tags, encryption=encrypted)
    algorithm = request.checksum_algorithm.upper() or _algorithm(source.found)
    wanted = _Wanted(span=None, algorithm=algorithm, encryption=encrypted)
    await check_quota(store, bucket, key, source.found.size)
    async with _body(store, source, wanted, caller, may_inline=True) as body:
        copy = Object(
            key=key,
            size=body.size,
            etag=body.etag,
            modified_ms=store.now_ms(),
            checksum=body.checksum,
            attributes=attributes,
            content=body.content,
        )
        bucket, new = await version_of(store, bucket, copy, extras)
        events = created(store, bucket, "Copy", caller, new)
        expect = conditions.expectation(request.if_match, request.if_none_match)
        await body.settle(store, store.index.put_object(bucket, new, expect, events))
    store.changed(events)
    return new


async def _put_part(
    store: Store, upload: Upload, request: copy_pb2.UploadPartCopyRequest, caller: Caller | None, source: Source
) -> Part:
    span = span_of(request.copy_source_range, source.found.size)
    object_rules.check_copy_size(span.end - span.start if span else source.found.size)
    encrypted = encryption.of_part(store, request, upload)
    wanted = _Wanted(span=span, algorithm=upload.algorithm, encryption=encrypted)
    async with _body(store, source, wanted, caller, may_inline=False) as body:
        assert isinstance(body.content, Single)
        part = Part(
            number=request.part_number,
            size=body.size,
            etag=body.etag,
            modified_ms=store.now_ms(),
            checksum=body.checksum,
            blob=body.content.blob,
        )
        await body.settle(store, store.index.put_part(upload, part))
    return part


def _object_copied(
    store: Store, bucket: Bucket, request: copy_pb2.CopyObjectRequest, source: Source, new: Object
) -> copy_pb2.CopyObjectOutput:
    answer = copy_pb2.CopyObjectOutput(
        expiration=lifecycle.expiration_of(bucket, new, store.calendar),
        version_id=versioning.told(bucket, new.version_id),
        copy_source_version_id=source.version_id,
    )
    answer.copy_object_result.e_tag = wire.quoted(new.etag)
    answer.copy_object_result.last_modified.CopyFrom(wire.timestamp(new.modified_ms))
    wire.set_checksum(answer.copy_object_result, new.checksum)
    encryption.tell(answer, request, new.encryption)
    return answer


def _part_copied(
    request: copy_pb2.UploadPartCopyRequest, source: Source, upload: Upload, part: Part
) -> copy_pb2.UploadPartCopyOutput:
    answer = copy_pb2.UploadPartCopyOutput(copy_source_version_id=source.version_id)
    answer.copy_part_result.e_tag = wire.quoted(part.etag)
    answer.copy_part_result.last_modified.CopyFrom(wire.timestamp(part.modified_ms))
    if upload.algorithm_chosen:
        wire.set_checksum(answer.copy_part_result, part.checksum, with_kind=False)
    encryption.tell(answer, request, upload.encryption)
    return answer


@asynccontextmanager
async def _body(
    store: Store, source: Source, wanted: _Wanted, caller: Caller | None, *, may_inline: bool
) -> AsyncIterator[Body]:
    """Raises Replaced."""
    span, algorithm = wanted.span, wanted.algorithm
    found, size = source.found, span.end - span.start if span else source.found.size
    async with AsyncExitStack() as stack:
        if span is None and wanted.encryption is None and _may_share(found, algorithm):
            body = await stack.enter_async_context(shared(store, found))
            if body is not None:
                yield body
                return
        chunks = await stack.enter_async_context(chunks_of(store, source, span, caller))
        yield await stack.enter_async_context(
            copied(store, chunks, size=size, algorithm=algorithm, may_inline=may_inline, encryption=wanted.encryption)
        )


def _may_share(found: Object, algorithm: str) -> bool:
    """What is known of the bytes is known of the copy, and they need no other key."""
    checksum = found.checksum
    return (
        isinstance(found.content, Single)
        and checksum is not None
        and checksum.algorithm == algorithm
        and not checksum.composite
        and not found.encryption
    )


def _algorithm(found: Object) -> str:
    return found.checksum.algorithm if found.checksum else digests.DEFAULT


def _check_directives(request: copy_pb2.CopyObjectRequest) -> None:
    for name, value in (("metadata", request.metadata_directive), ("tagging", request.tagging_directive)):
        if value not in ("", "COPY", "REPLACE"):
            raise errors.invalid_argument(f"Unknown {name} directive.", name=f"x-amz-{name}-directive", value=value)


def _attributes(request: copy_pb2.CopyObjectRequest, found: Object) -> Attributes:
    said = wire.headers_of(request)
    if request.metadata_directive == "REPLACE":
        return object_rules.checked_attributes(said, request.metadata)
    kept = dict(found.attributes.headers) | {name: said[name] for name in _SAID_ANEW}
    return object_rules.checked_attributes(kept, found.attributes.metadata)


def _check_changes(
    request: copy_pb2.CopyObjectRequest, bucket: Bucket, key: bytes, source: Source, attributes: Attributes
) -> None:
    found = source.found
    same_bucket = source.bucket is not None and source.bucket.id == bucket.id
    onto_itself = same_bucket and found.key == key and "?versionId=" not in request.copy_source
    same_algorithm = request.checksum_algorithm.upper() in ("", _algorithm(found))
    # Said anew even if it is what the object has; by the bucket, too.
    encryption_said = request.server_side_encryption or request.sse_customer_algorithm
    if encryption_said or request.storage_class or encryption.is_said(bucket):
        return
    if onto_itself and request.metadata_directive != "REPLACE" and attributes == found.attributes and same_algorithm:
        raise errors.invalid_request(
            "This copy request is illegal because it is trying to copy an object to itself without changing the "
            "object's metadata, storage class, website redirect location or encryption attributes."
        )

"""CopyObject and UploadPartCopy.

A blob is immutable, so a copy of a whole one is another name of the same bytes where the engine can give it one. All
else goes through like a body of a client's: chunk by chunk.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from common.errors import CloudError, NotFound, WrongState
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import copy_pb2, object_pb2, object_tagging_pb2
from services.walrus import (
    accounts,
    conditions,
    digests,
    encryption,
    errors,
    get,
    lifecycle,
    lock,
    payment,
    reading,
    versioning,
    wire,
)
from services.walrus import object as object_rules
from services.walrus.body import Body, copied, shared
from services.walrus.bucket import is_name
from services.walrus.drivers.base import Attributes, Bucket, Object, Part, Single, Upload
from services.walrus.encryption import Encryption
from services.walrus.extras import BAD_ESCAPE, extras_of
from services.walrus.multipart import checked_part_number, find_upload
from services.walrus.put import check_quota, committed
from services.walrus.ranges import Span
from services.walrus.store import Store
from services.walrus.tell import created

# How often a source may be replaced while it is read before we give up.
_TRIES: Final = 5
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d+)\Z")
# What is not copied with an object, but said anew.
_SAID_ANEW: Final = ("StorageClass", "WebsiteRedirectLocation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    bucket: Bucket
    found: Object
    # What asks for these bytes and no others.
    request: object_pb2.GetObjectRequest


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
    for _ in range(_TRIES):
        with suppress(_Replaced):
            async with _source(store, request, caller) as source:
                new = await _put_copy(store, bucket, request, caller, source)
            answer = _object_copied(store, bucket, request, source, new)
            await payment.tell(store, answer, source.request, caller)
            return answer
    raise _always_replaced()


async def copy_part(
    store: Store, request: copy_pb2.UploadPartCopyRequest, caller: Caller | None
) -> copy_pb2.UploadPartCopyOutput:
    bucket = await store.bucket_for(request, caller)
    checked_part_number(request)
    upload = await find_upload(store, bucket, request, caller)
    for _ in range(_TRIES):
        with suppress(_Replaced):
            async with _source(store, request, caller) as source:
                part = await _put_part(store, upload, request, caller, source)
            store.reclaim()
            answer = _part_copied(request, source, upload, part)
            await payment.tell(store, answer, source.request, caller)
            return answer
    raise _always_replaced()


async def _put_copy(
    store: Store, bucket: Bucket, request: copy_pb2.CopyObjectRequest, caller: Caller | None, source: Source
) -> Object:
    key = object_rules.checked_key(request.key)
    object_rules.check_copy_size(source.found.size)
    attributes = _attributes(request, source.found)
    _check_changes(request, bucket, key, source, attributes)
    tags = _tags(store, request, source, caller)
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
            version_id=versioning.new_id(bucket),
        )
        new = lock.with_default(bucket, extras.onto(copy))
        events = created(store, bucket, "Copy", caller, new)
        expect = conditions.expectation(request.if_match, request.if_none_match)
        await committed(store, body, store.index.put_object(bucket, new, expect, events))
    store.changed(events)
    return new


async def _put_part(
    store: Store, upload: Upload, request: copy_pb2.UploadPartCopyRequest, caller: Caller | None, source: Source
) -> Part:
    span = _span(request.copy_source_range, source.found.size)
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
        await committed(store, body, store.index.put_part(upload, part))
    return part


def _object_copied(
    store: Store, bucket: Bucket, request: copy_pb2.CopyObjectRequest, source: Source, new: Object
) -> copy_pb2.CopyObjectOutput:
    answer = copy_pb2.CopyObjectOutput(
        expiration=lifecycle.expiration_of(bucket, new, store.calendar),
        version_id=versioning.told(bucket, new.version_id),
        copy_source_version_id=versioning.told(source.bucket, source.found.version_id),
    )
    answer.copy_object_result.e_tag = wire.quoted(new.etag)
    answer.copy_object_result.last_modified.CopyFrom(wire.timestamp(new.modified_ms))
    wire.set_checksum(answer.copy_object_result, new.checksum)
    encryption.tell(answer, request, new.encryption)
    return answer


def _part_copied(
    request: copy_pb2.UploadPartCopyRequest, source: Source, upload: Upload, part: Part
) -> copy_pb2.UploadPartCopyOutput:
    answer = copy_pb2.UploadPartCopyOutput(
        copy_source_version_id=versioning.told(source.bucket, source.found.version_id)
    )
    answer.copy_part_result.e_tag = wire.quoted(part.etag)
    answer.copy_part_result.last_modified.CopyFrom(wire.timestamp(part.modified_ms))
    if upload.algorithm_chosen:
        wire.set_checksum(answer.copy_part_result, part.checksum, with_kind=False)
    encryption.tell(answer, request, upload.encryption)
    return answer


class _Replaced(Exception):
    """The source is not the one any more that was found."""


def _always_replaced() -> CloudError:
    return errors.store_failed("the source of the copy is replaced all the time")


@asynccontextmanager
async def _source(store: Store, request: Any, caller: Caller | None) -> AsyncIterator[Source]:
    """If the caller may read it and the conditions hold. Its blob stays for as long."""
    name, key, version_id = _read_source(request.copy_source)
    ask = object_pb2.GetObjectRequest(
        bucket=name,
        key=key,
        version_id=version_id or None,
        expected_bucket_owner=request.expected_source_bucket_owner,
        request_payer=request.request_payer,
        sse_customer_algorithm=request.copy_source_sse_customer_algorithm or None,
        sse_customer_key=request.copy_source_sse_customer_key or None,
        sse_customer_key_md5=request.copy_source_sse_customer_key_md5 or None,
    )
    bucket = await store.bucket_for(ask, caller)
    with ExitStack() as stack:
        with store.readers.lookup():
            found = await _find(store, bucket, ask, caller)
            if isinstance(found.content, Single):
                stack.enter_context(store.readers.hold([found.content.blob]))
        encryption.of_found(store, ask, found.encryption)
        _check_conditions(request, found)
        # Named as it was asked for: a version by its id needs another permission.
        exact = object_pb2.GetObjectRequest(if_match=wire.quoted(found.etag))
        exact.MergeFrom(ask)
        yield Source(bucket=bucket, found=found, request=exact)


def _read_source(header: str) -> tuple[str, str, str]:
    """Bucket, key and version of x-amz-copy-source, which is encoded like a URL."""
    path, named, version_id = header.partition("?versionId=")
    if named and not version_id:
        raise errors.invalid_argument("Version id cannot be the empty string", name="versionId", value="")
    if BAD_ESCAPE.search(path):
        raise _bad_source("Invalid copy source encoding", header)
    try:
        bucket, _, key = unquote(path.removeprefix("/"), errors="strict").partition("/")
    except UnicodeDecodeError:
        raise _bad_source("Invalid copy source encoding", header) from None
    if not bucket or not key:
        raise _bad_source("Copy Source must mention the source bucket and key: sourcebucket/sourcekey", header)
    if not is_name(bucket):
        raise _bad_source("Invalid copy source bucket name", header)
    return bucket, key, version_id


def _bad_source(message: str, header: str) -> CloudError:
    return errors.invalid_argument(message, name="x-amz-copy-source", value=header)


async def _find(store: Store, bucket: Bucket, ask: object_pb2.GetObjectRequest, caller: Caller | None) -> Object:
    try:
        return await reading.find(store, bucket, object_rules.checked_key(ask.key), ask, caller)
    except WrongState as error:
        if error.code != "MethodNotAllowed":
            raise
        raise errors.invalid_request(
            "The source of a copy request may not specifically refer to a delete marker by version id."
        ) from error


def _check_conditions(request: Any, found: Object) -> None:
    wanted = conditions.ReadConditions(
        if_match=request.copy_source_if_match,
        if_none_match=request.copy_source_if_none_match,
        if_modified_since_s=wire.seconds_of(request, "copy_source_if_modified_since"),
        if_unmodified_since_s=wire.seconds_of(request, "copy_source_if_unmodified_since"),
    )
    try:
        wanted.check(found)
    except WrongState as error:
        # Of a copy nobody is told that it has not changed.
        condition = error.details.get("Condition", "If-None-Match" if wanted.if_none_match else "If-Modified-Since")
        raise errors.precondition_failed(f"x-amz-copy-source-{condition}") from error


@asynccontextmanager
async def _body(
    store: Store, source: Source, wanted: _Wanted, caller: Caller | None, *, may_inline: bool
) -> AsyncIterator[Body]:
    """Raises _Replaced."""
    span, algorithm = wanted.span, wanted.algorithm
    found, size = source.found, span.end - span.start if span else source.found.size
    async with AsyncExitStack() as stack:
        if span is None and wanted.encryption is None and _may_share(found, algorithm):
            body = await stack.enter_async_context(shared(store, found))
            if body is not None:
                yield body
                return
        ask = object_pb2.GetObjectRequest()
        ask.CopyFrom(source.request)
        if span is not None:
            ask.range = f"bytes={span.start}-{span.end - 1}"
        try:
            _, chunks = await stack.enter_async_context(get.opened_object(store, ask, caller))
        except (NotFound, WrongState) as error:
            raise _Replaced from error
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


def _span(header: str, size: int) -> Span | None:
    """Unlike a Range this one is obeyed to the letter."""
    if not header:
        return None
    found = _RANGE.match(header)
    if not found or int(found[2]) < int(found[1]):
        raise errors.invalid_argument(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the "
            "zero-based offsets of the first and last bytes to copy",
            name="x-amz-copy-source-range",
            value=header,
        )
    if int(found[2]) >= size:
        raise errors.invalid_argument(
            f"Range specified is not valid for source object of size: {size}",
            name="x-amz-copy-source-range",
            value=header,
        )
    return Span(int(found[1]), int(found[2]) + 1)


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
    onto_itself = source.bucket.id == bucket.id and found.key == key and "?versionId=" not in request.copy_source
    same_algorithm = request.checksum_algorithm.upper() in ("", _algorithm(found))
    # Said anew even if it is what the object has.
    encryption_said = bool(request.server_side_encryption or request.sse_customer_algorithm)
    if encryption_said:
        return
    if onto_itself and request.metadata_directive != "REPLACE" and attributes == found.attributes and same_algorithm:
        raise errors.invalid_request(
            "This copy request is illegal because it is trying to copy an object to itself without changing the "
            "object's metadata, storage class, website redirect location or encryption attributes."
        )


def _tags(
    store: Store, request: copy_pb2.CopyObjectRequest, source: Source, caller: Caller | None
) -> Mapping[str, str] | None:
    """Those of the source; None: those that the request says."""
    if request.tagging_directive == "REPLACE":
        return None
    if source.found.tags:
        ask = object_tagging_pb2.GetObjectTaggingRequest(
            bucket=source.bucket.name, key=source.request.key, version_id=source.request.version_id
        )
        store.check_object(source.bucket, ask, caller, source.found)
    return source.found.tags

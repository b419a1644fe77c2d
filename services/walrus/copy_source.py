"""What a copy is made of: the object that CopyObject and UploadPartCopy name, read as the caller may read it.

It lies here, or in a bucket of another process (siblings.py), which then checks and reads it in the same way.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

from common.errors import CloudError, NotFound, WrongState
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import copy_pb2, object_pb2, object_tagging_pb2
from mallee.s3.v1.tagging_pb2 import Tag
from mallee.walrus.v1 import shard_pb2
from services.walrus import conditions, encryption, errors, get, payment, reading, versioning, wire
from services.walrus import object as object_rules
from services.walrus.bucket import is_name
from services.walrus.drivers.base import Attributes, Bucket, Checksum, Inline, Object, Single
from services.walrus.extras import BAD_ESCAPE
from services.walrus.ranges import Span
from services.walrus.store import Store

# How often a source may be replaced while it is read before we give up.
TRIES: Final = 5
_RANGE: Final = re.compile(r"bytes=([0-9]{1,1000})-([0-9]{1,1000})\Z")

CopyRequest = copy_pb2.CopyObjectRequest | copy_pb2.UploadPartCopyRequest


class Replaced(Exception):
    """The source is not the one any more that was found."""


def always_replaced() -> CloudError:
    return errors.store_failed("the source of the copy is replaced all the time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    # Of another process's there is neither content nor encryption.
    found: Object
    # As it is told; empty where there are no versions.
    version_id: str | None
    # None: it is another process's.
    bucket: Bucket | None
    # What asks for these bytes and no others.
    request: object_pb2.GetObjectRequest
    # Of another process's: what is to be copied, and what is told of who pays for it.
    chunks: AsyncIterator[bytes] | None = None
    request_charged: str = ""


@asynccontextmanager
async def source_of(store: Store, request: CopyRequest, caller: Caller | None) -> AsyncIterator[Source]:
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
    reading_it = _elsewhere if store.siblings.has(name) else _here
    async with reading_it(store, request, ask, caller) as source:
        yield source


@asynccontextmanager
async def _here(
    store: Store, request: CopyRequest, ask: object_pb2.GetObjectRequest, caller: Caller | None
) -> AsyncIterator[Source]:
    bucket = await store.bucket_for(ask, caller)
    with ExitStack() as stack:
        with store.readers.lookup():
            found = await _find(store, bucket, ask, caller)
            if isinstance(found.content, Single):
                stack.enter_context(store.readers.hold([found.content.blob]))
        encryption.of_found(store, ask, found.encryption)
        _check_conditions(request, found, store.now_ms())
        # Named as it was asked for: a version by its id needs another permission.
        exact = object_pb2.GetObjectRequest(if_match=wire.quoted(found.etag))
        exact.MergeFrom(ask)
        told = versioning.told(bucket, found.version_id)
        yield Source(bucket=bucket, found=found, request=exact, version_id=told)


@asynccontextmanager
async def _elsewhere(
    store: Store, request: CopyRequest, ask: object_pb2.GetObjectRequest, caller: Caller | None
) -> AsyncIterator[Source]:
    if caller is None:
        raise errors.access_denied()
    asked = (
        shard_pb2.ReadCopySourceRequest(object=request)
        if isinstance(request, copy_pb2.CopyObjectRequest)
        else shard_pb2.ReadCopySourceRequest(part=request)
    )
    async with store.siblings.copy_source(ask.bucket, asked, caller) as (told, chunks):
        checksum = Checksum(
            algorithm=told.checksum_algorithm, value=told.checksum_value, composite=told.checksum_composite
        )
        found = Object(
            key=object_rules.checked_key(ask.key),
            size=told.size_bytes,
            etag=told.etag,
            modified_ms=0,
            checksum=checksum if checksum.algorithm else None,
            attributes=Attributes(headers=dict(told.headers), metadata=dict(told.metadata)),
            content=Inline(body=b""),
            tags={tag.key: tag.value for tag in told.tags},
        )
        version_id = told.version_id if told.HasField("version_id") else None
        yield Source(
            bucket=None,
            found=found,
            request=ask,
            version_id=version_id,
            chunks=chunks,
            request_charged=told.request_charged,
        )


@asynccontextmanager
async def chunks_of(
    store: Store, source: Source, span: Span | None, caller: Caller | None
) -> AsyncIterator[AsyncIterator[bytes]]:
    """The bytes that are to be copied. Raises Replaced."""
    if source.chunks is not None:
        yield source.chunks
        return
    ask = object_pb2.GetObjectRequest()
    ask.CopyFrom(source.request)
    if span is not None:
        ask.range = f"bytes={span.start}-{span.end - 1}"
    async with AsyncExitStack() as stack:
        try:
            _, chunks = await stack.enter_async_context(get.opened_object(store, ask, caller))
        except (NotFound, WrongState) as error:
            raise Replaced from error
        yield chunks


async def read_copy_source(
    store: Store, request: shard_pb2.ReadCopySourceRequest, caller: Caller | None
) -> AsyncGenerator[shard_pb2.ReadCopySourceResponse, None]:
    """For the process that has the bucket which it is copied to."""
    copy: CopyRequest = request.object if request.HasField("object") else request.part
    for _ in range(TRIES):
        with suppress(Replaced):
            async with source_of(store, copy, caller) as source:
                span, tags = None, None
                if isinstance(copy, copy_pb2.CopyObjectRequest):
                    tags = tags_of(store, copy, source, caller)
                else:
                    span = span_of(copy.copy_source_range, source.found.size)
                async with chunks_of(store, source, span, caller) as chunks:
                    told = _told(source, tags or {})
                    await payment.tell(store, told, source.request, caller)
                    yield shard_pb2.ReadCopySourceResponse(source=told)
                    async for chunk in chunks:
                        yield shard_pb2.ReadCopySourceResponse(chunk=chunk)
            return
    raise always_replaced()


async def tell_payment(store: Store, answer: Any, source: Source, caller: Caller | None) -> None:
    if source.bucket is not None:
        await payment.tell(store, answer, source.request, caller)
    elif source.request_charged:
        answer.request_charged = source.request_charged


def _told(source: Source, tags: Mapping[str, str]) -> shard_pb2.CopySource:
    found = source.found
    told = shard_pb2.CopySource(
        size_bytes=found.size,
        etag=found.etag,
        version_id=source.version_id,
        headers=found.attributes.headers,
        metadata=found.attributes.metadata,
        tags=[Tag(key=name, value=value) for name, value in tags.items()],
    )
    if found.checksum is not None:
        told.checksum_algorithm = found.checksum.algorithm
        told.checksum_value = found.checksum.value
        told.checksum_composite = found.checksum.composite
    return told


def tags_of(
    store: Store, request: copy_pb2.CopyObjectRequest, source: Source, caller: Caller | None
) -> Mapping[str, str] | None:
    """Those of the source; None: those that the request says."""
    if request.tagging_directive == "REPLACE":
        return None
    # Whoever has the bucket has asked whether the caller may see them.
    if source.found.tags and source.bucket is not None:
        ask = object_tagging_pb2.GetObjectTaggingRequest(
            bucket=source.bucket.name, key=source.request.key, version_id=source.request.version_id
        )
        store.check_object(source.bucket, ask, caller, source.found)
    return source.found.tags


def span_of(header: str, size: int) -> Span | None:
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
    if int(found[1]) >= size:
        raise errors.invalid_request("The specified copy range is invalid for the source object size")
    if int(found[2]) >= size:
        raise errors.invalid_argument(
            f"Range specified is not valid for source object of size: {size}",
            name="x-amz-copy-source-range",
            value=header,
        )
    return Span(int(found[1]), int(found[2]) + 1)


def _read_source(header: str) -> tuple[str, str, str]:
    """Bucket, key and version of x-amz-copy-source, which is encoded as a query is: a plus sign is a space.

    https://github.com/aws/aws-cli/issues/614
    """
    path, named, version_id = header.partition("?versionId=")
    if named and not version_id:
        raise errors.invalid_argument("Version id cannot be the empty string", name="versionId", value="")
    if BAD_ESCAPE.search(path):
        raise _bad_source("Invalid copy source encoding", header)
    try:
        bucket, _, key = unquote_plus(path.removeprefix("/"), errors="strict").partition("/")
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


def _check_conditions(request: Any, found: Object, now_ms: int) -> None:
    wanted = conditions.ReadConditions(
        if_match=request.copy_source_if_match,
        if_none_match=request.copy_source_if_none_match,
        if_modified_since_s=wire.seconds_of(request, "copy_source_if_modified_since"),
        if_unmodified_since_s=wire.seconds_of(request, "copy_source_if_unmodified_since"),
    )
    try:
        wanted.check(found, now_ms=now_ms)
    except WrongState as error:
        # Of a copy nobody is told that it has not changed.
        condition = error.details.get("Condition", "If-None-Match" if wanted.if_none_match else "If-Modified-Since")
        raise errors.precondition_failed(f"x-amz-copy-source-{condition}") from error

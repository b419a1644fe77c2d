"""Objects that storage controllers read and write for an account: what volumes are imported from and exported to.

The account may do what GetObject and PutObject would let it do.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from common.errors import InvalidArgument
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import body_pb2, object_pb2
from mallee.walrus.v1 import service_pb2
from services.walrus import conditions, get, put
from services.walrus import object as object_rules
from services.walrus.store import Store


async def fetch_object(
    store: Store, request: service_pb2.FetchObjectRequest
) -> AsyncGenerator[service_pb2.FetchObjectResponse, None]:
    caller = Caller(account_id=request.account_id)
    head = object_pb2.HeadObjectRequest(bucket=request.bucket, key=_key(request.key))
    found = await get.head_object(store, head, caller)
    etag = conditions.unquoted(found.e_tag)
    yield service_pb2.FetchObjectResponse(size_bytes=found.content_length, etag=etag)
    if request.offset >= found.content_length:
        return
    # Of the object that was told of, or of none.
    rest = object_pb2.GetObjectRequest(
        bucket=head.bucket, key=head.key, range=f"bytes={request.offset}-", if_match=found.e_tag
    )
    async with get.opened_object(store, rest, caller) as (_, chunks):
        async for chunk in chunks:
            yield service_pb2.FetchObjectResponse(chunk=chunk)


async def store_object(store: Store, messages: AsyncIterator[service_pb2.StoreObjectRequest]) -> str:
    """Its ETag."""
    first = await anext(messages, None)
    if first is None:
        raise InvalidArgument("The stream does not begin with its header.")
    caller = Caller(account_id=first.account_id)
    answer = await put.put_object(store, _as_put(first, messages), caller, most_bytes=object_rules.OBJECT_BYTES)
    return conditions.unquoted(answer.e_tag)


async def _as_put(
    first: service_pb2.StoreObjectRequest, messages: AsyncIterator[service_pb2.StoreObjectRequest]
) -> AsyncIterator[object_pb2.PutObjectStream]:
    header = object_pb2.PutObjectRequest(
        bucket=first.bucket, key=_key(first.key), content_length=first.size_bytes or None
    )
    yield object_pb2.PutObjectStream(header=header)
    message = first
    while True:
        if message.chunk:
            yield object_pb2.PutObjectStream(chunk=message.chunk)
        if message.complete:
            yield object_pb2.PutObjectStream(end=body_pb2.BodyEnd())
            return
        try:
            message = await anext(messages)
        except StopAsyncIteration:
            return


def _key(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise InvalidArgument("Object key is not UTF-8.", code="InvalidURI") from None

"""Actions that may take long: their answer is begun after some seconds, and spaces keep the connection from falling
asleep until its XML is known. An error then stands in an answer whose status is 200, and clients look for it there.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html and API_CopyObject.html
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from aiohttp import web
from google.protobuf.message import Message

from common.errors import CloudError
from ec2_facade.errors import for_clients
from ec2_facade.exchange import Exchange
from ec2_facade.limits import Limits
from ec2_facade.protocol import Response
from ec2_facade.protocol.errors import s3_error, s3_ids

TAKE_LONG: Final = frozenset({"CompleteMultipartUpload", "CopyObject", "UploadPartCopy"})
_DECLARATION: Final = b'<?xml version="1.0" encoding="UTF-8"?>\n'


async def answer_in_time(
    exchange: Exchange, call: Awaitable[Message], render: Callable[[Message], Response], limits: Limits
) -> web.StreamResponse:
    """Raises CloudError while nothing has been sent. What was begun is carried through, also if the client went."""
    failure: ConnectionError | None = None
    async with asyncio.TaskGroup() as group:
        outcome = group.create_task(_outcome(call))
        await asyncio.wait([outcome], timeout=limits.alive_s)
        if not outcome.done():
            begun = Response(status=200, headers=[*s3_ids(exchange.request_id), ("Content-Type", "application/xml")])
            try:
                return await exchange.send_stream(begun, _kept_awake(exchange, outcome, render, limits))
            except ConnectionError as error:
                failure = error
    if failure is not None:
        raise failure
    found = outcome.result()
    if isinstance(found, CloudError):
        raise found
    return await exchange.send(render(found))


async def _outcome(call: Awaitable[Message]) -> Message | CloudError:
    try:
        return await call
    except CloudError as error:
        return error


async def _kept_awake(
    exchange: Exchange,
    outcome: asyncio.Task[Message | CloudError],
    render: Callable[[Message], Response],
    limits: Limits,
) -> AsyncIterator[bytes]:
    yield _DECLARATION
    while not outcome.done():
        yield b" "
        await asyncio.wait([outcome], timeout=limits.alive_s)
    found = outcome.result()
    if isinstance(found, CloudError):
        error = for_clients(found)
        exchange.code = error.code
        yield s3_error(error, exchange.request_id, exchange.wire.raw_path).body.removeprefix(_DECLARATION)
    else:
        yield render(found).body.removeprefix(_DECLARATION)

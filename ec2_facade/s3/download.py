"""An object's bytes from Walrus to the client, a chunk at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

import grpc
from aiohttp import web
from google.protobuf.message import Message

from common.errors import CloudError, Unavailable
from common.log import get_logger
from common.rpc.channel import cloud_errors
from common.rpc.local.channel import LocalCall
from common.rpc.uploads import RawExtent
from ec2_facade.backends import Backends
from ec2_facade.exchange import Exchange
from ec2_facade.limits import Limits
from ec2_facade.protocol import Operation, Response, RestXmlProtocol

# Less is sent with its head in one go, when all of it has come.
_WHOLE_BYTES: Final = 64 << 10

_log = get_logger(__name__)


async def download(
    exchange: Exchange,
    backends: Backends,
    protocol: RestXmlProtocol,
    operation: Operation,
    message: Message,
    limits: Limits,
    *,
    render: Callable[[Message], Response] | None = None,
) -> web.StreamResponse:
    """Raises CloudError while nothing has been sent; later the connection is cut, so that nobody takes it whole.

    `render`: the header in other words than the protocol's.
    """
    call = backends.open(operation, message)
    try:
        first = await _read(call, limits)
        if first is None or first.WhichOneof("part") != "header":
            raise Unavailable("The store answered without a header.")
        answer = render(first.header) if render else protocol.render(operation, first.header, exchange.request_id)
        if first.header.content_length <= _WHOLE_BYTES:
            body = await _whole(call, limits)
            if len(body) != first.header.content_length:
                raise Unavailable("The store sent another number of bytes than it told.")
            return await exchange.send(Response(status=answer.status, headers=answer.headers, body=body))
        try:
            async with aclosing(_chunks(call, limits)) as chunks:
                return await exchange.send_stream(answer, chunks)
        except CloudError as error:
            _log.warning("a download broke off in the middle", error=str(error))
            exchange.code = error.code
            exchange.abort()
            raise ConnectionResetError("the answer cannot be finished") from error
    finally:
        call.cancel()


async def _whole(call: Any, limits: Limits) -> bytes:
    """Of a body that is too small for an extent."""
    if isinstance(call, LocalCall) and (body := call.whole_body) is not None:
        return body
    parts: list[bytes] = []
    while (message := await _read(call, limits)) is not None:
        if isinstance(message, RawExtent):
            os.close(message.descriptor)
            raise Unavailable("The store sent another number of bytes than it told.")
        parts.append(message.chunk)
    return b"".join(parts)


async def _chunks(call: Any, limits: Limits) -> AsyncGenerator[bytes | RawExtent, None]:
    while (message := await _read(call, limits)) is not None:
        if not isinstance(message, RawExtent):
            yield message.chunk
            continue
        try:
            yield message
        finally:
            os.close(message.descriptor)
        call.taken()


async def _read(call: Any, limits: Limits) -> Any:
    """The next message, None at a good end."""
    if isinstance(call, LocalCall):
        message = await call.read(within_s=limits.idle_s)
        return None if message is grpc.aio.EOF else message
    try:
        with cloud_errors():
            async with asyncio.timeout(limits.idle_s):
                message = await call.read()
    except TimeoutError:
        raise Unavailable("The store does not answer.") from None
    return None if message is grpc.aio.EOF else message

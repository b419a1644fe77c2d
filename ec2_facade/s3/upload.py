"""An object's bytes from the client to Walrus: header, chunks, end. Without the end nothing is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from google.protobuf.message import Message

from common.errors import Unavailable
from common.rpc.channel import cloud_errors
from common.rpc.local.channel import LocalCall
from common.rpc.uploads import RawChunk, header_accepted
from ec2_facade.backends import Backends
from ec2_facade.limits import Limits
from ec2_facade.protocol import Operation
from ec2_facade.s3.content import Content

_LARGE_BYTES: Final = 1 << 20


async def upload(
    backends: Backends,
    operation: Operation,
    header: Message,
    content: Content,
    limits: Limits,
    *,
    invite: Callable[[], Awaitable[None]] | None,
) -> Message:
    """What Walrus answered. Raises CloudError from either side, AuthProblem for a wrong chunk.

    A client that waits is invited to send once Walrus has accepted the header. Walrus may still end it in the middle:
    then the rest of the body stays unread.
    """
    # A large body may be given a file to go into, once it is accepted.
    asks = invite is not None or content.expected >= _LARGE_BYTES
    call = backends.open(operation, header, asks=asks)
    try:
        with cloud_errors():
            if await _begin(call, operation, header, limits, asks=asks):
                if invite is not None:
                    await invite()
                await _send(call, operation, content, limits)
            async with asyncio.timeout(limits.commit_s):
                answer: Message = await call
                return answer
    except TimeoutError:
        raise Unavailable("The store does not answer.") from None
    finally:
        call.cancel()


async def _begin(call: Any, operation: Operation, header: Message, limits: Limits, *, asks: bool) -> bool:
    """False when Walrus refused the header."""
    assert operation.frame_class is not None
    if not await _write(call, operation.frame_class(header=header), limits):
        return False
    if not asks and isinstance(call, LocalCall):
        # A refusal that crosses with the body is understood there.
        return True
    async with asyncio.timeout(limits.idle_s):
        return await header_accepted(call)


async def _send(call: Any, operation: Operation, content: Content, limits: Limits) -> None:
    assert operation.frame_class is not None
    frame = operation.frame_class
    if isinstance(call, LocalCall) and call.has_file:
        async for parts in content.batches(limits.chunk_bytes):
            if not await _write_file(call, parts):
                return
    else:
        async for chunk in content.chunks(limits.chunk_bytes):
            # Into a message it would be copied once more.
            message = RawChunk(chunk) if isinstance(call, LocalCall) else frame(chunk=chunk)
            if not await _write(call, message, limits):
                return
    end = {"length": content.length, "trailers": content.trailers}
    if await _write(call, frame(end=end), limits):
        await call.done_writing()


async def _write_file(call: LocalCall, parts: Sequence[bytes]) -> bool:
    """False when Walrus has answered already."""
    try:
        await call.write_file(parts)
    except asyncio.InvalidStateError:
        return False
    except OSError as error:
        raise Unavailable(f"The body cannot be written: {error.strerror}") from error
    return True


async def _write(call: Any, message: Message | RawChunk, limits: Limits) -> bool:
    """False when Walrus has answered already; awaiting the call tells what."""
    try:
        if isinstance(call, LocalCall) and isinstance(message, RawChunk) and call.has_room_for(message.chunk):
            # A timer costs more than what waits for nobody.
            await call.write(message)
            return True
        async with asyncio.timeout(limits.idle_s):
            await call.write(message)
    except asyncio.InvalidStateError:
        return False
    return True

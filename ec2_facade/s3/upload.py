"""An object's bytes from the client to Walrus: header, chunks, end. Without the end nothing is stored."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.message import Message

from common.errors import Unavailable
from common.rpc.channel import cloud_errors
from ec2_facade.backends import Backends
from ec2_facade.limits import Limits
from ec2_facade.protocol import Operation
from ec2_facade.s3.content import Content


async def upload(
    backends: Backends, operation: Operation, header: Message, content: Content, limits: Limits
) -> Message:
    """What Walrus answered. Raises CloudError from either side, AuthProblem for a wrong chunk.

    Walrus may refuse while the client still sends: then the rest of the body stays unread.
    """
    assert operation.frame_class is not None
    frame = operation.frame_class
    call = backends.open(operation)
    try:
        with cloud_errors():
            if await _write(call, frame(header=header), limits):
                async for chunk in content.chunks(limits.chunk_bytes):
                    if not await _write(call, frame(chunk=chunk), limits):
                        break
                else:
                    end = {"length": content.length, "trailers": content.trailers}
                    if await _write(call, frame(end=end), limits):
                        await call.done_writing()
            async with asyncio.timeout(limits.commit_s):
                answer: Message = await call
                return answer
    except TimeoutError:
        raise Unavailable("The store does not answer.") from None
    finally:
        call.cancel()


async def _write(call: Any, message: Message, limits: Limits) -> bool:
    """False when Walrus has answered already; awaiting the call tells what."""
    try:
        async with asyncio.timeout(limits.idle_s):
            await call.write(message)
    except asyncio.InvalidStateError:
        return False
    return True

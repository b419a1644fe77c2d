"""Client-streaming calls whose first message is a header that may be refused: chunks wait until it was accepted.

Without that a refusal crosses with a chunk under way, and grpc.aio then tells the sender of an internal error instead
of what the server said. And whoever feeds the stream need not be asked for bytes that nobody wants.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

# Initial metadata that the server sends once it has accepted the header.
ACCEPTED_KEY: Final = "mallee-header-accepted"

Frame = TypeVar("Frame")


async def accepting(messages: AsyncIterator[Frame], context: Any) -> AsyncIterator[Frame]:
    """The server's side: the messages as they come. Asking for the second one accepts the first."""
    async for header in messages:
        yield header
        break
    await context.send_initial_metadata(((ACCEPTED_KEY, "1"),))
    async for message in messages:
        yield message


async def header_accepted(call: Any) -> bool:
    """The client's side, after writing the header. False: the call has ended, and awaiting it tells why."""
    return any(key == ACCEPTED_KEY for key, _ in await call.initial_metadata() or ())


class RawChunk:
    """Stands for a frame whose part is `chunk`: bytes of a body that were never put into a message."""

    __slots__ = ("chunk",)

    def __init__(self, chunk: bytes) -> None:
        self.chunk = chunk

    def WhichOneof(self, oneof: str) -> str:
        return "chunk"


class RawExtent:
    """Stands for chunks: the bytes [start, end) of a file. Whoever gets it closes the descriptor."""

    __slots__ = ("descriptor", "end", "start")

    def __init__(self, descriptor: int, start: int, end: int) -> None:
        self.descriptor = descriptor
        self.start = start
        self.end = end

    def WhichOneof(self, oneof: str) -> str:
        return "extent"


class RawHeader:
    """Stands for a frame whose part is `header`."""

    __slots__ = ("header",)

    def __init__(self, header: Message) -> None:
        self.header = header

    def WhichOneof(self, oneof: str) -> str:
        return "header"

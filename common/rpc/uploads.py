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


class Accepting(AsyncIterator[Frame]):
    """The server's side: the messages as they come. Asking for the second one accepts the first."""

    def __init__(self, messages: AsyncIterator[Frame], context: Any) -> None:
        self._messages = messages
        self._context = context
        self._begun = False
        self._accepted = False

    async def __anext__(self) -> Frame:
        if self._begun and not self._accepted:
            self._accepted = True
            await self._context.send_initial_metadata(((ACCEPTED_KEY, "1"),))
        message = await anext(self._messages)
        self._begun = True
        return message

    @property
    def waiting(self) -> bool:
        """The next message is there; False also where that is not known."""
        return bool(getattr(self._context, "waiting", False))

    @property
    def takes_file(self) -> bool:
        """The sender may be given a file to write into, instead of sending chunks."""
        return bool(getattr(self._context, "takes_file", False)) and not self._accepted

    async def accept_into(self, descriptor: int) -> None:
        """Accepts the header; the body's bytes will stand in that file, each told of by a RawWritten."""
        self._accepted = True
        await self._context.offer(descriptor)


def accepting(messages: AsyncIterator[Frame], context: Any) -> Accepting[Frame]:
    return Accepting(messages, context)


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


class RawWritten:
    """Stands for a chunk that stands in the file which the sender was given, behind the last one."""

    __slots__ = ("length",)

    def __init__(self, length: int) -> None:
        self.length = length

    def WhichOneof(self, oneof: str) -> str:
        return "written"


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


class AtHand(AsyncIterator[Any]):
    """A body that is there: one chunk, or none if it is empty."""

    __slots__ = ("body",)

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def __anext__(self) -> bytes:
        body, self.body = self.body, b""
        if not body:
            raise StopAsyncIteration
        return body

"""Serves RPCs on a unix socket to processes of this service's own user: who is that could read its data as well.

The handlers are those of gRPC: what they raise, the access table, metrics and the end of a call are the same.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import Message

from common.errors import CloudError, InvalidArgument
from common.log import get_logger
from common.rpc import context as rpc_context
from common.rpc.errors import to_bytes
from common.rpc.interceptor import Observed
from common.rpc.local.calls import HEADER, LENGTH, SPAN, Call
from common.rpc.local.frames import Frames, Kind
from common.rpc.uploads import AtHand, RawChunk, RawExtent, RawWritten
from mallee.common.v1.caller_pb2 import Caller

_log = get_logger(__name__)

_CREDENTIALS: Final = struct.Struct("3i")
_BACKLOG: Final = 1024
# So that the next is checked while the last one goes out.
_EXTENTS_UNDER_WAY: Final = 2
# What is taken at once of a body that stands in a file: nobody waits longer for a step to end than this needs.
_WRITTEN_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary:
    request: type[Message]
    # Its client gives up after its own time; that closes the connection, which ends this.
    answer: Callable[[Any], Awaitable[Message]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    frame: type[Message]
    # Of the frames and a context with `send_initial_metadata`, as gRPC's.
    answer: Callable[[AsyncIterator[Any], Any], Awaitable[Message]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    request: type[Message]
    # The header and the bytes; an extent's descriptor is used until the next one is asked for.
    answer: Callable[[Any], AbstractAsyncContextManager[tuple[Message, AsyncIterator[bytes | RawExtent]]]]


Handler = Unary | Upload | Download


class LocalServer:
    """`await start()`; `await stop(grace_s)` answers what has begun."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        """`handlers` by /package.Service/Method."""
        self._path = path
        self._handlers = handlers
        self._socket: socket.socket | None = None
        self._connections: set[_Connection] = set()

    async def start(self) -> None:
        """Raises OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        try:
            listener.bind(str(self._path))
            self._path.chmod(0o600)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        self._socket = listener
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    async def stop(self, grace_s: float) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
            self._path.unlink(missing_ok=True)
        tasks = [connection.task for connection in self._connections]
        for connection in list(self._connections):
            connection.end_when_idle()
        if tasks:
            _, slow = await asyncio.wait(tasks, timeout=grace_s)
            for task in slow:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        if not is_ours(sock):
            _log.warning("a connection of another user was refused")
            sock.close()
            return
        connection = _Connection(sock, self._handlers)
        self._connections.add(connection)
        connection.task.add_done_callback(lambda _: self._connections.discard(connection))


def is_ours(sock: socket.socket) -> bool:
    """The other end is a process of this one's user, or root's."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(raw)[1] in (0, os.geteuid())


class _Connection:
    def __init__(self, sock: socket.socket, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._frames = Frames(sock, self._lost)
        self._busy = False
        self._last = False
        self.task = asyncio.get_running_loop().create_task(self._run())

    def end_when_idle(self) -> None:
        self._last = True
        if not self._busy:
            self._frames.close()

    def _lost(self) -> None:
        """Whoever asked is gone: nobody wants the answer."""
        if self._busy:
            self.task.cancel()

    async def _run(self) -> None:
        try:
            while not self._last:
                kind, payload = await self._frames.take()
                self._busy = True
                if kind != Kind.CALL:
                    return
                await self._answer(payload)
                self._busy = False
            await self._frames.drained(0)
        except (ConnectionResetError, asyncio.CancelledError):
            pass
        finally:
            self._frames.close()

    async def _answer(self, payload: bytes) -> None:
        context = _Context(self._frames)
        try:
            call = Call.from_bytes(payload)
            handler = self._handlers.get(call.method)
            if handler is None:
                raise InvalidArgument(f"no such method here: {call.method}")
            context.asked = call.asks
            with Observed(call.method):
                caller = Caller.FromString(call.caller) if call.caller else None
                rpc_context.enter(request_id=call.request_id, caller=caller, peer=None, timeout_s=None)
                kind, answer = await self._dispatch(handler, call, context)
                self._frames.put(kind, answer, now=True)
        except CloudError as error:
            self._frames.put(Kind.ERROR, to_bytes(error), now=True)
        await self._read_rest(context)

    async def _dispatch(self, handler: Handler, call: Call, context: _Context) -> tuple[Kind, bytes]:
        """The last frame."""
        match handler:
            case Unary():
                answer = await handler.answer(handler.request.FromString(call.message))
                return Kind.ANSWER, answer.SerializeToString()
            case Download():
                async with handler.answer(handler.request.FromString(call.message)) as (message, chunks):
                    header = message.SerializeToString()
                    if type(chunks) is AtHand:
                        return Kind.WHOLE, HEADER.pack(len(header)) + header + chunks.body
                    self._frames.put(Kind.MESSAGE, header)
                    await self._send_chunks(chunks)
                return Kind.END, b""
            case Upload():
                context.uploads = True
                async with aclosing(self._messages(handler, context)) as messages:
                    answer = await handler.answer(messages, context)
                return Kind.ANSWER, answer.SerializeToString()

    async def _send_chunks(self, chunks: AsyncIterator[bytes | RawExtent]) -> None:
        under_way = 0
        async for chunk in chunks:
            if isinstance(chunk, RawExtent):
                await self._frames.hand_over(Kind.EXTENT, SPAN.pack(chunk.start, chunk.end), chunk.descriptor)
                under_way += 1
            else:
                self._frames.put(Kind.CHUNK, chunk)
                await self._frames.drained()
            while under_way >= _EXTENTS_UNDER_WAY:
                under_way -= await self._was_taken()
        while under_way:
            under_way -= await self._was_taken()

    async def _was_taken(self) -> bool:
        kind, _ = await self._frames.take()
        return kind == Kind.TAKEN

    async def _messages(self, handler: Upload, context: _Context) -> AsyncGenerator[Any, None]:
        while True:
            kind, payload = await self._frames.take()
            match kind:
                case Kind.CHUNK:
                    yield RawChunk(payload)
                case Kind.WRITTEN if len(payload) == LENGTH.size:
                    yield RawWritten(await self._written(payload))
                case Kind.MESSAGE:
                    yield handler.frame.FromString(payload)
                case _:
                    context.ended = True
                    return

    async def _written(self, payload: bytes) -> int:
        """With what was told meanwhile, so that who is behind catches up in few steps."""
        (length,) = LENGTH.unpack(payload)
        while self._frames.next_kind == Kind.WRITTEN and length < _WRITTEN_BYTES:
            _, payload = await self._frames.take()
            length += int.from_bytes(payload)
        return int(length)

    async def _read_rest(self, context: _Context) -> None:
        """Of an upload that was refused before its end: the client stops as soon as it has seen why."""
        while context.uploads and not context.ended:
            kind, _ = await self._frames.take()
            context.ended = kind == Kind.END


class _Context:
    """What handlers of uploads use of gRPC's context."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self.asked = False
        self.uploads = False
        self.ended = False

    @property
    def waiting(self) -> bool:
        """The next message can be read at once."""
        return self._frames.waiting

    @property
    def takes_file(self) -> bool:
        return self.asked

    async def send_initial_metadata(self, metadata: Any) -> None:
        if self.asked:
            self._frames.put(Kind.ACCEPTED)

    async def offer(self, descriptor: int) -> None:
        await self._frames.hand_over(Kind.ACCEPTED, b"1", descriptor)

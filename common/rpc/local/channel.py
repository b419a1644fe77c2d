"""Calls over a unix socket, for who has grpc.aio's calls elsewhere: `LocalCall` is used as one of those."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from common.errors import CloudError, Unavailable
from common.ids import new_request_id
from common.rpc.context import current_caller, current_request_id
from common.rpc.errors import from_bytes
from common.rpc.local.calls import HEADER, LENGTH, SPAN, Call
from common.rpc.local.frames import Frames, Kind
from common.rpc.local.server import is_ours
from common.rpc.uploads import ACCEPTED_KEY, RawChunk, RawExtent, RawHeader
from common.threads import to_the_end

# Connections that are kept while nobody uses them.
_IDLE: Final = 256
_THREADS: Final = 4
# How late the end of a call's time may be seen.
_LATE_S: Final = 0.25
# What writev takes at once (IOV_MAX).
_VECTOR: Final = 1024


class LocalChannel:
    """To the server at `path`, as long as it is there."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._idle: list[Frames] = []
        # Of calls that must end: when. One timer looks after them all, as one for each costs more than its frames.
        self._ends: dict[LocalCall, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="local-bodies")

    def connection(self) -> Frames | None:
        """One that no other call uses; None when nobody serves there. `give_back` it, or close it."""
        while self._idle:
            if not (frames := self._idle.pop()).closed:
                return frames
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(self._path)
            if is_ours(sock):
                return Frames(sock)
        except OSError:
            pass
        sock.close()
        return None

    def give_back(self, frames: Frames) -> None:
        if frames.waiting or len(self._idle) >= _IDLE:
            frames.close()
        elif not frames.closed:
            self._idle.append(frames)

    def expire(self, call: LocalCall, within_s: float) -> None:
        """Ends the call, unless it is spared before: then, or a moment later."""
        loop = asyncio.get_running_loop()
        self._ends[call] = loop.time() + within_s
        if self._timer is None:
            self._timer = loop.call_later(min(within_s, _LATE_S), self._expire_late)

    def spare(self, call: LocalCall) -> None:
        self._ends.pop(call, None)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        while self._idle:
            self._idle.pop().close()
        self.threads.shutdown(wait=False)

    def _expire_late(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for call in [call for call, ends in self._ends.items() if ends <= now]:
            self.spare(call)
            call.expire()
        self._timer = loop.call_later(_LATE_S, self._expire_late) if self._ends else None


class LocalCall:
    """One call. `cancel()` it in the end: that is what gives its connection back, or closes it."""

    def __init__(self, channel: LocalChannel, frames: Frames, method: str, receives: type[Message]) -> None:
        """`receives`: the answer, or of a download its header."""
        self._channel = channel
        self._frames = frames
        self._method = method
        self._receives = receives
        self._sending = False
        self._ended = False
        self._gone = False
        self._answer: Message | None = None
        # Of a download that came whole: what is not read yet.
        self._body = b""
        self._expired = False
        # The file that the body goes into, and how much of it there is.
        self._file = -1
        self._written = 0

    def begin(
        self, message: bytes = b"", *, upload: bool = False, asks: bool = False, timeout_s: float | None = None
    ) -> None:
        """Sends what a call begins with. It fails if it has not ended after `timeout_s`."""
        if timeout_s is not None:
            self._channel.expire(self, timeout_s)
        caller = current_caller()
        call = Call(
            self._method,
            current_request_id() or new_request_id(),
            caller.SerializeToString() if caller is not None else b"",
            message,
            asks,
        )
        self._sending = upload
        self._put(Kind.CALL, call.to_bytes(), now=not upload)

    async def write(self, message: Message | RawChunk) -> None:
        """Raises asyncio.InvalidStateError when the server has answered already, as grpc.aio does."""
        if isinstance(message, RawChunk):
            await self._send(Kind.CHUNK, message.chunk)
        else:
            await self._send(Kind.MESSAGE, message.SerializeToString())

    def has_room_for(self, chunk: bytes) -> bool:
        """To `write` it waits for nobody."""
        return self._frames.has_room_for(len(chunk))

    @property
    def has_file(self) -> bool:
        """The body is to be written by `write_file`; known when the header is accepted."""
        return self._file >= 0

    async def write_file(self, parts: Sequence[bytes]) -> None:
        """Raises asyncio.InvalidStateError as `write` does, OSError, CloudError."""
        if self._frames.waiting:
            raise asyncio.InvalidStateError("the server has answered")
        # The descriptor must stay while it is written to.
        write = partial(_write_all, self._file, parts, self._written)
        length = await to_the_end(write, executor=self._channel.threads)
        self._written += length
        self._put(Kind.WRITTEN, LENGTH.pack(length))

    async def done_writing(self) -> None:
        self._put(Kind.END, now=True)
        self._sending = False

    async def initial_metadata(self) -> tuple[tuple[str, str], ...]:
        """Empty when the call ended instead."""
        kind, payload = await self._take()
        if kind == Kind.ACCEPTED:
            if payload:
                self._file = self._frames.descriptor()
            return ((ACCEPTED_KEY, "1"),)
        self._note(kind, payload)
        return ()

    async def read(self, *, within_s: float | None = None) -> Any:
        """A RawHeader, a RawChunk, a RawExtent (answer it with `taken`), or grpc.aio.EOF. Raises CloudError."""
        if self._ended:
            body, self._body = self._body, b""
            return RawChunk(body) if body else grpc.aio.EOF
        if within_s is None or self._frames.waiting:
            kind, payload = await self._take()
        else:
            self._channel.expire(self, within_s)
            try:
                kind, payload = await self._take()
            finally:
                self._channel.spare(self)
        match kind:
            case Kind.CHUNK:
                return RawChunk(payload)
            case Kind.WHOLE:
                self._ended = True
                start = HEADER.size
                end = start + HEADER.unpack_from(payload)[0]
                self._body = payload[end:]
                return RawHeader(self._receives.FromString(payload[start:end]))
            case Kind.MESSAGE:
                return RawHeader(self._receives.FromString(payload))
            case Kind.EXTENT:
                return RawExtent(self._frames.descriptor(), *SPAN.unpack(payload))
        self._note(kind, payload)
        return grpc.aio.EOF

    @property
    def whole_body(self) -> bytes | None:
        """Of a download whose header was read: None if it did not come with it."""
        return self._body if self._ended else None

    def taken(self) -> None:
        """The bytes of an extent have gone. Raises CloudError."""
        self._put(Kind.TAKEN)

    def __await__(self) -> Generator[Any, None, Message]:
        return self._whole().__await__()

    async def _whole(self) -> Message:
        while not self._ended:
            kind, payload = await self._take()
            self._note(kind, payload)
        if self._answer is None:
            raise Unavailable("the call ended without an answer")
        return self._answer

    def expire(self) -> None:
        """It has taken too long."""
        self._expired = True
        self._frames.close()

    def cancel(self) -> None:
        if self._gone:
            return
        self._gone = True
        self._channel.spare(self)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._ended and not self._sending:
            self._channel.give_back(self._frames)
        else:
            self._frames.close()

    def _note(self, kind: int, payload: bytes) -> None:
        match kind:
            case Kind.ANSWER:
                self._answer = self._receives.FromString(payload)
                self._ended = True
            case Kind.END:
                self._ended = True
            case Kind.ERROR:
                self._ended = True
                raise from_bytes(payload)

    async def _send(self, kind: Kind, payload: bytes) -> None:
        if self._frames.waiting:
            raise asyncio.InvalidStateError("the server has answered")
        self._put(kind, payload)
        try:
            await self._frames.drained()
        except ConnectionResetError as error:
            raise _cut_off() from error

    def _put(self, kind: Kind, payload: bytes = b"", *, now: bool = False) -> None:
        try:
            self._frames.put(kind, payload, now=now)
        except ConnectionResetError as error:
            raise _cut_off() from error

    async def _take(self) -> tuple[int, bytes]:
        try:
            return await self._frames.take()
        except ConnectionResetError as error:
            if self._expired:
                raise Unavailable(f"{self._method} took longer than its deadline") from None
            raise _cut_off() from error


def _write_all(descriptor: int, parts: Sequence[bytes], start: int) -> int:
    """How many bytes they were."""
    length = sum(len(part) for part in parts)
    done = os.pwritev(descriptor, parts[:_VECTOR], start)
    if done < length:
        rest = memoryview(b"".join(parts))
        while done < length:
            done += os.pwrite(descriptor, rest[done:], start + done)
    return length


def _cut_off() -> CloudError:
    return Unavailable("the connection was cut off")

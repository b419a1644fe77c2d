"""Frames on a unix socket. A connection carries one call at a time, and what is under way in it has a bound.

    length of the payload (4 bytes) · kind (1 byte) · payload

The socket is used as it is, not through an asyncio transport: a frame that fits goes out by one system call, and a
chunk of a body is copied by the kernel alone.
"""

from __future__ import annotations

import asyncio
import enum
import os
import socket
import struct
from array import array
from collections import deque
from collections.abc import Callable
from typing import Final

_HEAD: Final = struct.Struct("!IB")
# As gRPC's messages between members; a chunk of a body is 1 MiB at most.
FRAME_BYTES: Final = 8 << 20
# At once: of a large frame, and else. What is asked for is taken from the heap, however little comes.
_READ_BYTES: Final = 256 << 10
_SMALL_READ_BYTES: Final = 32 << 10
_INT_BYTES: Final = array("i").itemsize
# Whoever sends them sends one at a time.
_ATTACHED_BYTES: Final = socket.CMSG_SPACE(4 * _INT_BYTES)
# Small frames wait for the end of the loop's turn, so that those of one call go out together; more than this does not.
_TOGETHER_BYTES: Final = 64 << 10
# The writer waits while more than this has not gone out, and the reader takes no more while more than that is unread.
_UNSENT_BYTES: Final = 1 << 20
_UNREAD_BYTES: Final = 2 << 20


class Kind(enum.IntEnum):
    # Begins a call: what `calls.py` says.
    CALL = 1
    # A serialized message.
    MESSAGE = 2
    # Bytes of a body.
    CHUNK = 3
    # This side sends no more; from a server: all went well.
    END = 4
    # From a server, the last: a serialized google.rpc.Status.
    ERROR = 5
    # From a server: the header of an upload is accepted; with a payload: the body goes into the file that comes along.
    ACCEPTED = 6
    # From a server: where in a file the next bytes of the body lie, whose descriptor comes along.
    EXTENT = 7
    # From a client: the bytes of an extent have gone.
    TAKEN = 8
    # From a client: how many more bytes of the body stand in the file.
    WRITTEN = 9
    # From a server, the last: the serialized message of a call that has one answer.
    ANSWER = 10
    # From a server, the last of a download: its header, whose length stands before it, and all of the body.
    WHOLE = 11


Frame = tuple[int, bytes]


class Frames:
    """One end of a connection. `lost` is called once, when the other end is gone."""

    def __init__(self, sock: socket.socket, lost: Callable[[], None] = lambda: None) -> None:
        """`sock` is this value's from now on."""
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._lost = lost
        self._read: deque[Frame] = deque()
        self._unread = 0
        # Of the frame that is arriving.
        self._parts: list[bytes] = []
        self._arrived = 0
        self._paused = False
        # Of the extents that are not read yet.
        self._descriptors: deque[int] = deque()
        self._out: list[bytes | memoryview] = []
        self._unsent = 0
        self._flushing = False
        self._blocked = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self.closed = False
        sock.setblocking(False)
        self._loop.add_reader(sock, self._readable)

    @property
    def waiting(self) -> bool:
        """A frame can be read at once."""
        return bool(self._read)

    @property
    def next_kind(self) -> int:
        """Of the frame that can be read at once; 0: none can."""
        return self._read[0][0] if self._read else 0

    def has_room_for(self, size: int) -> bool:
        """A frame of so many bytes may be put, and `drained` does not wait."""
        return self._unsent + _HEAD.size + size <= _UNSENT_BYTES

    def put(self, kind: Kind, payload: bytes | memoryview = b"", *, now: bool = False) -> None:
        """`now`: nothing follows that could go out with it. Raises ConnectionResetError."""
        if self.closed:
            raise ConnectionResetError("the connection is closed")
        if now and not self._out and len(payload) <= _SMALL_READ_BYTES:
            self._send_alone(_HEAD.pack(len(payload), kind) + payload)
            return
        self._out.append(_HEAD.pack(len(payload), kind))
        if payload:
            self._out.append(payload)
        self._unsent += _HEAD.size + len(payload)
        if now or self._unsent > _TOGETHER_BYTES:
            self._flush()
        elif not self._flushing and not self._blocked:
            self._flushing = True
            self._loop.call_soon(self._flush)

    async def hand_over(self, kind: Kind, payload: bytes, descriptor: int) -> None:
        """A small frame, and a copy of the descriptor with it. Raises ConnectionResetError."""
        while True:
            await self.drained(0)
            try:
                socket.send_fds(self._sock, [_HEAD.pack(len(payload), kind) + payload], [descriptor])
            except (BlockingIOError, InterruptedError):
                # Nothing has gone out. When a byte of ours can, so can this.
                self._block()
                self._writer = self._writer or self._loop.create_future()
                await asyncio.shield(self._writer)
            except OSError:
                self._end()
                raise ConnectionResetError("the connection is closed") from None
            else:
                return

    def descriptor(self) -> int:
        """That of the extent that was taken last; the caller closes it. Raises ConnectionResetError."""
        if not self._descriptors:
            raise ConnectionResetError("a frame came without its descriptor")
        return self._descriptors.popleft()

    async def drained(self, most: int = _UNSENT_BYTES) -> None:
        """Waits while more than that has not gone out. Raises ConnectionResetError."""
        while self._unsent > most and not self.closed:
            self._writer = self._writer or self._loop.create_future()
            await asyncio.shield(self._writer)
        if self.closed:
            raise ConnectionResetError("the connection is closed")

    async def take(self) -> Frame:
        """The next frame. Raises ConnectionResetError when there will be none."""
        while not self._read:
            if self.closed:
                raise ConnectionResetError("the other end has closed the connection")
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        kind, payload = self._read.popleft()
        self._unread -= len(payload)
        if self._paused and self._unread <= _UNREAD_BYTES // 2 and not self.closed:
            self._paused = False
            self._loop.add_reader(self._sock, self._readable)
        return kind, payload

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock)
        if self._blocked:
            self._loop.remove_writer(self._sock)
        self._sock.close()
        self._out.clear()
        while self._descriptors:
            os.close(self._descriptors.popleft())
        for waiting in (self._reader, self._writer):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    def _readable(self) -> None:
        try:
            size = _READ_BYTES if self._arrived > _SMALL_READ_BYTES else _SMALL_READ_BYTES
            piece, attached, _, _ = self._sock.recvmsg(size, _ATTACHED_BYTES, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            piece, attached = b"", []
        for _, _, raw in attached:
            self._descriptors.extend(array("i", raw[: len(raw) - len(raw) % _INT_BYTES]))
        if not piece:
            self._end()
            return
        self._parts.append(piece)
        self._arrived += len(piece)
        self._unread += len(piece)
        if self._unread > _UNREAD_BYTES + FRAME_BYTES or not self._split():
            self._end()
            return
        if self._read and self._unread > _UNREAD_BYTES:
            self._paused = True
            self._loop.remove_reader(self._sock)
        if self._read and self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _split(self) -> bool:
        """Takes whole frames out of what has arrived. False: the other end does not speak this."""
        if len(self._parts) == 1 and self._arrived >= _HEAD.size:
            length, kind = _HEAD.unpack_from(self._parts[0])
            if self._arrived == _HEAD.size + length:
                # Most frames: one that came alone and whole.
                self._read.append((kind, self._parts.pop()[_HEAD.size :]))
                self._unread -= _HEAD.size
                self._arrived = 0
                return True
        while self._arrived >= _HEAD.size:
            if len(self._parts[0]) < _HEAD.size:
                self._parts = [b"".join(self._parts)]
            length, kind = _HEAD.unpack_from(self._parts[0])
            if length > FRAME_BYTES:
                return False
            end = _HEAD.size + length
            if self._arrived < end:
                return True
            self._arrived -= end
            self._unread -= _HEAD.size
            *parts, last = self._parts
            # What is behind the frame came with its last piece.
            ends = len(last) - self._arrived
            if parts:
                parts[0] = parts[0][_HEAD.size :]
                self._read.append((kind, b"".join((*parts, memoryview(last)[:ends]))))
            else:
                self._read.append((kind, last[_HEAD.size : ends]))
            self._parts = [last[ends:]] if self._arrived else []
        return True

    def _send_alone(self, frame: bytes) -> None:
        """Most frames: nothing waits before it, and there is room for it."""
        try:
            sent = self._sock.send(frame)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._end()
            return
        if sent < len(frame):
            self._out.append(memoryview(frame)[sent:])
            self._unsent = len(frame) - sent
            self._block()

    def _flush(self) -> None:
        self._flushing = False
        while self._out and not self.closed and not self._blocked:
            try:
                sent = self._sock.sendmsg(self._out[:64]) if len(self._out) > 1 else self._sock.send(self._out[0])
            except (BlockingIOError, InterruptedError):
                self._block()
                break
            except OSError:
                self._end()
                return
            self._unsent -= sent
            self._forget(sent)
        if self._writer is not None and self._unsent <= _UNSENT_BYTES // 2:
            if not self._writer.done():
                self._writer.set_result(None)
            self._writer = None

    def _forget(self, sent: int) -> None:
        if not self._unsent:
            self._out.clear()
            return
        done = 0
        while done < len(self._out) and sent >= len(self._out[done]):
            sent -= len(self._out[done])
            done += 1
        del self._out[:done]
        if sent:
            self._out[0] = memoryview(self._out[0])[sent:]

    def _block(self) -> None:
        if not self._blocked:
            self._blocked = True
            self._loop.add_writer(self._sock, self._writable)

    def _writable(self) -> None:
        self._loop.remove_writer(self._sock)
        self._blocked = False
        self._flush()

    def _end(self) -> None:
        if not self.closed:
            self.close()
            self._lost()

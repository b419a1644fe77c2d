"""An NBD client on a unix socket: reads beside each other, and what a server knows of its blocks.

    async with connected(socket, "export", contexts=[ALLOCATION]) as nbd:
        async for extent in nbd.status(ALLOCATION): …
        body = await nbd.read(0, 1 << 20)

Raises NotFound for an export that is not there, Unavailable when the server is not, goes away or cannot read.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from common.background import Background
from common.errors import NotFound, Unavailable
from services.sc.nbd import wire

# Of the stream's buffer: a few of the largest reads that are sent here.
_BUFFER_BYTES: Final = 4 << 20
# How much is asked about at once.
_STATUS_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Flags of a context for a part of the export."""

    start: int
    length: int
    flags: int


@dataclass(slots=True, kw_only=True)
class _Pending:
    done: asyncio.Future[None]
    start: int
    # Of a read.
    length: int = 0
    parts: list[tuple[int, bytes]] = field(default_factory=list)
    # Of a status, by the context's id: length and flags.
    extents: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    error: str = ""

    def body(self) -> bytes:
        """Holes are zeros."""
        if len(self.parts) == 1 and len(self.parts[0][1]) == self.length:
            return self.parts[0][1]
        whole = bytearray(self.length)
        for place, part in self.parts:
            whole[place : place + len(part)] = part
        return bytes(whole)


@asynccontextmanager
async def connected(socket: Path, name: str, *, contexts: Sequence[str] = ()) -> AsyncIterator[NbdClient]:
    with _lost_is_unavailable(str(socket)):
        reader, writer = await asyncio.open_unix_connection(socket, limit=_BUFFER_BYTES)
    try:
        with _lost_is_unavailable(str(socket)):
            size_bytes, known = await _Handshake(reader, writer).go(name, contexts)
        async with Background() as tasks:
            client = NbdClient(reader, writer, size_bytes, known)
            tasks.start(client.receive())
            try:
                yield client
            finally:
                client.disconnect()
    finally:
        writer.close()


class NbdClient:
    """Made by `connected`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size_bytes: int, contexts: Mapping[str, int]
    ) -> None:
        self.size_bytes = size_bytes
        # Those that were asked for and that the server has.
        self.contexts = contexts
        self._reader = reader
        self._writer = writer
        self._cookies = itertools.count()
        self._pending: dict[int, _Pending] = {}
        self._lost = ""

    async def read(self, start: int, length: int) -> bytes:
        """At most 32 MiB."""
        pending = _Pending(done=_future(), start=start, length=length)
        await self._request(wire.CMD_READ, start, length, pending)
        return pending.body()

    async def status(self, context: str, start: int = 0, length: int | None = None) -> AsyncIterator[Status]:
        """Covers all of it, in order; neighbours may have the same flags."""
        context_id = self.contexts[context]
        end = self.size_bytes if length is None else start + length
        while start < end:
            pending = _Pending(done=_future(), start=start)
            await self._request(wire.CMD_BLOCK_STATUS, start, min(_STATUS_BYTES, end - start), pending)
            before = start
            for size, flags in pending.extents.get(context_id, ()):
                # The last one may reach beyond what was asked.
                taken = min(size, end - start)
                if taken:
                    yield Status(start=start, length=taken, flags=flags)
                start += taken
            if start == before:
                raise Unavailable(f"The NBD server tells nothing of {context} at byte {start}.")

    async def _request(self, command: int, start: int, length: int, pending: _Pending) -> None:
        if self._lost:
            raise Unavailable(self._lost)
        cookie = next(self._cookies)
        self._pending[cookie] = pending
        try:
            self._writer.write(wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, command, cookie, start, length))
            await self._writer.drain()
            await pending.done
        except ConnectionError as error:
            raise Unavailable(f"The NBD server went away: {error}") from error
        if pending.error:
            raise Unavailable(f"The NBD server cannot read {length} bytes at {start}: {pending.error}")

    def disconnect(self) -> None:
        if not self._lost:
            self._writer.write(wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.CMD_DISC, 0, 0, 0))

    async def receive(self) -> None:
        """Takes answers until the connection ends."""
        try:
            while True:
                await self._answer()
        except (ConnectionError, asyncio.IncompleteReadError, _Nonsense) as error:
            self._lost = f"The NBD server went away: {error}"
        while self._pending:
            _, pending = self._pending.popitem()
            if not pending.done.done():
                pending.done.set_exception(Unavailable(self._lost))

    async def _answer(self) -> None:
        (magic,) = wire.MAGIC.unpack(await self._reader.readexactly(wire.MAGIC.size))
        match magic:
            case wire.STRUCTURED_REPLY_MAGIC:
                flags, kind, cookie, length = wire.CHUNK.unpack(await self._reader.readexactly(wire.CHUNK.size))
                await self._chunk(self._named(cookie), kind, length)
                if flags & wire.CHUNK_DONE:
                    self._end(cookie)
            case wire.SIMPLE_REPLY_MAGIC:
                number, cookie = wire.SIMPLE_REPLY.unpack(await self._reader.readexactly(wire.SIMPLE_REPLY.size))
                pending = self._named(cookie)
                if number:
                    pending.error = f"error {number}"
                else:
                    pending.parts.append((0, await self._reader.readexactly(pending.length)))
                self._end(cookie)
            case _:
                raise _Nonsense(f"it answered with {magic:#x}")

    async def _chunk(self, pending: _Pending, kind: int, length: int) -> None:
        if length > wire.MOST_BYTES + wire.OFFSET.size:
            raise _Nonsense(f"a chunk of {length} bytes")
        if kind == wire.CHUNK_DATA:
            (start,) = wire.OFFSET.unpack(await self._reader.readexactly(wire.OFFSET.size))
            part = await self._reader.readexactly(length - wire.OFFSET.size)
            place = start - pending.start
            if place < 0 or place + len(part) > pending.length:
                raise _Nonsense("data that nobody asked for")
            pending.parts.append((place, part))
            return
        body = await self._reader.readexactly(length)
        match kind:
            case wire.CHUNK_HOLE | wire.CHUNK_NONE:
                pass
            case wire.CHUNK_STATUS:
                (context_id,) = wire.U32.unpack_from(body)
                pending.extents[context_id] = list(wire.EXTENT.iter_unpack(memoryview(body)[wire.U32.size :]))
            case _ if kind & wire.CHUNK_ERROR_BIT:
                pending.error = _told(body)
            case _:
                raise _Nonsense(f"a chunk of kind {kind}")

    def _named(self, cookie: int) -> _Pending:
        if (pending := self._pending.get(cookie)) is None:
            raise _Nonsense(f"an answer to request {cookie}, which nobody made")
        return pending

    def _end(self, cookie: int) -> None:
        # Also of one that was given up: its answer comes all the same.
        pending = self._pending.pop(cookie)
        if not pending.done.done():
            pending.done.set_result(None)


class _Handshake:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def go(self, name: str, contexts: Sequence[str]) -> tuple[int, dict[str, int]]:
        """The export's size, and the ids of those contexts that it has."""
        greeting = await self._reader.readexactly(18)
        if greeting[:8] != wire.GREETING or int.from_bytes(greeting[8:16]) != wire.OPTION_MAGIC:
            raise _Nonsense("it is no NBD server of the newstyle")
        self._writer.write(wire.U32.pack(wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES))
        known: dict[str, int] = {}
        if contexts:
            await self._option(wire.OPT_STRUCTURED_REPLY, b"")
            query = wire.named(name) + wire.U32.pack(len(contexts)) + b"".join(map(wire.named, contexts))
            for kind, body in await self._option(wire.OPT_SET_META_CONTEXT, query, export=name):
                if kind == wire.REP_META_CONTEXT:
                    known[body[4:].decode()] = wire.U32.unpack_from(body)[0]
        for kind, body in await self._option(wire.OPT_GO, wire.named(name) + wire.U16.pack(0), export=name):
            if kind == wire.REP_INFO and wire.U16.unpack_from(body)[0] == wire.INFO_EXPORT:
                return int(wire.EXPORT_INFO.unpack(body)[1]), known
        raise _Nonsense("it does not tell the export's size")

    async def _option(self, option: int, body: bytes, *, export: str = "") -> list[tuple[int, bytes]]:
        self._writer.write(wire.OPTION.pack(wire.OPTION_MAGIC, option, len(body)) + body)
        await self._writer.drain()
        replies: list[tuple[int, bytes]] = []
        while True:
            magic, about, kind, length = wire.OPTION_REPLY.unpack(
                await self._reader.readexactly(wire.OPTION_REPLY.size)
            )
            if magic != wire.OPTION_REPLY_MAGIC or about != option or length > wire.MOST_BYTES:
                raise _Nonsense("it does not answer as NBD servers do")
            told = await self._reader.readexactly(length)
            if kind == wire.REP_ACK:
                return replies
            if kind == wire.REP_ERR_UNKNOWN:
                raise NotFound(f"The NBD server has no export {export}: {told.decode(errors='replace')}")
            if kind & wire.REP_ERROR:
                raise _Nonsense(f"it refuses option {option}: {told.decode(errors='replace')}")
            replies.append((kind, told))


class _Nonsense(Exception):
    """The server does not keep to the protocol."""


@contextmanager
def _lost_is_unavailable(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, asyncio.IncompleteReadError, _Nonsense) as error:
        raise Unavailable(f"The NBD server at {where} cannot be used: {error}") from error


def _told(body: bytes) -> str:
    (number,) = wire.U32.unpack_from(body)
    (length,) = wire.U16.unpack_from(body, 4)
    return f"error {number} {body[6 : 6 + length].decode(errors='replace')}".strip()


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()

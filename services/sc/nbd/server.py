"""A read-only NBD server on a unix socket: reads beside each other, and block status, so that zeros cost nothing.

Speaks what QEMU's client speaks: fixed newstyle, structured replies, the context base:allocation.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

from common.errors import CloudError, NotFound
from common.log import get_logger
from services.sc.nbd import wire

# Of one client, answered beside each other.
_REQUESTS: Final = 32
_OPTION_BYTES: Final = 64 << 10
_CONTEXT_ID: Final = 1
# QEMU aligns what it asks to this.
_SMALLEST, _PREFERRED = 1, 512 << 10
_EXPORT_FLAGS: Final = wire.EXPORT_HAS_FLAGS | wire.EXPORT_READ_ONLY | wire.EXPORT_SEND_DF | wire.EXPORT_MULTI_CONN

_log = get_logger(__name__)


class Export(Protocol):
    size_bytes: int

    async def read(self, start: int, length: int) -> bytes:
        """Raises CloudError: the client gets an error. It may take as long as it takes."""

    def zeros(self, start: int, length: int) -> Iterable[tuple[int, bool]]:
        """Lengths in order that cover it, and whether all of it is zero."""


# Raises NotFound.
Open = Callable[[str], Awaitable[Export]]


class NbdServer:
    """`async with NbdServer(socket, open)`: listens within; clients are cut off at the end."""

    def __init__(self, socket: Path, open_export: Open) -> None:
        self._socket = socket
        self._open = open_export
        self._clients: dict[asyncio.Task[None], str] = {}

    @property
    def clients(self) -> int:
        return len(self._clients)

    async def __aenter__(self) -> NbdServer:
        self._socket.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._socket, limit=_OPTION_BYTES)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for client in self._clients:
            client.cancel()
        if self._clients:
            await asyncio.wait(self._clients)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here = asyncio.current_task()
        assert here is not None
        self._clients[here] = ""
        try:
            chosen = await _Handshake(reader, writer, self._open).chosen()
            if chosen is not None:
                await _Transmission(reader, writer, *chosen).run()
        except (ConnectionError, asyncio.IncompleteReadError, _Nonsense) as error:
            _log.info("a client of a snapshot left", why=str(error))
        except asyncio.CancelledError:
            # The server ends; asyncio's own wrapper would log it.
            pass
        finally:
            del self._clients[here]
            writer.close()


class _Handshake:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, open_export: Open) -> None:
        self._reader = reader
        self._writer = writer
        self._open = open_export
        self._structured = False
        self._context_of = ""

    async def chosen(self) -> tuple[Export, bool, bool] | None:
        """The export, whether replies are structured, and whether base:allocation was asked for. None: it left."""
        flags = wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES
        self._writer.write(wire.GREETING + wire.OPTION_MAGIC.to_bytes(8) + wire.U16.pack(flags))
        (client_flags,) = wire.U32.unpack(await self._reader.readexactly(4))
        if not client_flags & wire.FLAG_FIXED_NEWSTYLE:
            raise _Nonsense("it does not speak the fixed newstyle")
        while True:
            magic, option, length = wire.OPTION.unpack(await self._reader.readexactly(wire.OPTION.size))
            if magic != wire.OPTION_MAGIC or length > _OPTION_BYTES:
                raise _Nonsense("its options are none")
            body = await self._reader.readexactly(length)
            match option:
                case wire.OPT_ABORT:
                    await self._reply(option, wire.REP_ACK)
                    return None
                case wire.OPT_GO | wire.OPT_INFO:
                    name = _text(body, 0)
                    export = await self._told(option, name)
                    if export is not None and option == wire.OPT_GO:
                        return export, self._structured, self._context_of == name and self._structured
                case wire.OPT_STRUCTURED_REPLY if not body:
                    self._structured = True
                    await self._reply(option, wire.REP_ACK)
                case wire.OPT_SET_META_CONTEXT | wire.OPT_LIST_META_CONTEXT:
                    await self._contexts(option, body)
                case wire.OPT_EXPORT_NAME:
                    raise _Nonsense("it asks in the old way")
                case _:
                    await self._reply(option, wire.REP_ERR_UNSUP)

    async def _told(self, option: int, name: str) -> Export | None:
        try:
            export = await self._open(name)
        except NotFound as error:
            await self._reply(option, wire.REP_ERR_UNKNOWN, error.message.encode())
            return None
        info = wire.EXPORT_INFO.pack(wire.INFO_EXPORT, export.size_bytes, _EXPORT_FLAGS)
        await self._reply(option, wire.REP_INFO, info)
        sizes = wire.SIZES_INFO.pack(wire.INFO_BLOCK_SIZE, _SMALLEST, _PREFERRED, wire.MOST_BYTES)
        await self._reply(option, wire.REP_INFO, sizes)
        await self._reply(option, wire.REP_ACK)
        return export

    async def _contexts(self, option: int, body: bytes) -> None:
        name = _text(body, 0)
        at = 4 + len(name.encode())
        (count,) = _unpacked(body, at)
        at += 4
        queries = []
        for _ in range(count):
            queries.append(_text(body, at))
            at += 4 + len(queries[-1].encode())
        listed = option == wire.OPT_LIST_META_CONTEXT and not queries
        if listed or any(query in (wire.ALLOCATION, "base:") for query in queries):
            if option == wire.OPT_SET_META_CONTEXT:
                self._context_of = name
            known = wire.U32.pack(_CONTEXT_ID) + wire.ALLOCATION.encode()
            await self._reply(option, wire.REP_META_CONTEXT, known)
        await self._reply(option, wire.REP_ACK)

    async def _reply(self, option: int, kind: int, body: bytes = b"") -> None:
        self._writer.write(wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, kind, len(body)) + body)
        await self._writer.drain()


class _Transmission:
    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        export: Export,
        structured: bool,
        knows_context: bool,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._export = export
        self._structured = structured
        self._knows_context = knows_context
        self._slots = asyncio.Semaphore(_REQUESTS)

    async def run(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            requests: set[asyncio.Task[None]] = set()
            stack.callback(lambda: [request.cancel() for request in requests])
            while True:
                magic, flags, command, cookie, start, length = wire.REQUEST.unpack(
                    await self._reader.readexactly(wire.REQUEST.size)
                )
                if magic != wire.REQUEST_MAGIC:
                    raise _Nonsense("its requests are none")
                if command == wire.CMD_DISC:
                    return
                await self._slots.acquire()
                request = asyncio.ensure_future(self._answer(flags, command, cookie, start, length))
                requests.add(request)
                request.add_done_callback(requests.discard)

    async def _answer(self, flags: int, command: int, cookie: int, start: int, length: int) -> None:
        try:
            inside = length <= wire.MOST_BYTES and start + length <= self._export.size_bytes
            match command:
                case wire.CMD_READ if inside and length:
                    self._data(cookie, start, await self._export.read(start, length))
                case wire.CMD_BLOCK_STATUS if self._knows_context and start + length <= self._export.size_bytes:
                    self._status(cookie, start, length, one=bool(flags & wire.CMD_FLAG_REQ_ONE))
                case wire.CMD_FLUSH | wire.CMD_CACHE:
                    self._done(cookie)
                case wire.CMD_READ | wire.CMD_BLOCK_STATUS:
                    self._error(cookie, wire.EINVAL)
                case _:
                    self._error(cookie, wire.EPERM)
                    if command == wire.CMD_WRITE:
                        # What it would write follows, and nobody takes it.
                        self._writer.close()
            await self._writer.drain()
        except CloudError as error:
            _log.error("a part of a snapshot cannot be read", start=start, length=length, why=error.message)
            self._error(cookie, wire.EIO)
        except ConnectionError:
            # The loop that reads requests finds it too, and ends.
            pass
        finally:
            self._slots.release()

    def _data(self, cookie: int, start: int, body: bytes) -> None:
        if self._structured:
            self._chunk(cookie, wire.CHUNK_DATA, wire.OFFSET.pack(start), body)
        else:
            self._writer.writelines([wire.MAGIC.pack(wire.SIMPLE_REPLY_MAGIC), wire.SIMPLE_REPLY.pack(0, cookie), body])

    def _status(self, cookie: int, start: int, length: int, *, one: bool) -> None:
        extents: list[bytes] = []
        for size, zero in self._export.zeros(start, length):
            extents.append(wire.EXTENT.pack(size, wire.STATE_HOLE | wire.STATE_ZERO if zero else 0))
            if one:
                break
        self._chunk(cookie, wire.CHUNK_STATUS, wire.U32.pack(_CONTEXT_ID), b"".join(extents))

    def _done(self, cookie: int) -> None:
        if self._structured:
            self._chunk(cookie, wire.CHUNK_NONE)
        else:
            self._writer.write(wire.MAGIC.pack(wire.SIMPLE_REPLY_MAGIC) + wire.SIMPLE_REPLY.pack(0, cookie))

    def _error(self, cookie: int, number: int) -> None:
        if self._structured:
            self._chunk(cookie, wire.CHUNK_ERROR, wire.U32.pack(number) + wire.U16.pack(0))
        else:
            self._writer.write(wire.MAGIC.pack(wire.SIMPLE_REPLY_MAGIC) + wire.SIMPLE_REPLY.pack(number, cookie))

    def _chunk(self, cookie: int, kind: int, *parts: bytes) -> None:
        """The only one of its answer."""
        head = wire.CHUNK.pack(wire.CHUNK_DONE, kind, cookie, sum(map(len, parts)))
        self._writer.writelines([wire.MAGIC.pack(wire.STRUCTURED_REPLY_MAGIC), head, *parts])


class _Nonsense(Exception):
    """The client does not keep to the protocol."""


def _text(body: bytes, at: int) -> str:
    (length,) = _unpacked(body, at)
    if at + 4 + length > len(body):
        raise _Nonsense("a name is longer than its option")
    return body[at + 4 : at + 4 + length].decode(errors="replace")


def _unpacked(body: bytes, at: int) -> tuple[int]:
    if at + 4 > len(body):
        raise _Nonsense("an option is cut off")
    (number,) = wire.U32.unpack_from(body, at)
    return (number,)

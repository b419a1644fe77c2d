"""An NBD client that writes, as a guest's QEMU is one: one request at a time, and it connects again if it is cut."""

from __future__ import annotations

import asyncio
import functools
import ssl
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Final, TypeVar

from services.sc.drivers.base import ExportPlace

_OPTION: Final = struct.Struct(">8sII")
_REPLY: Final = struct.Struct(">QIII")
_REQUEST: Final = struct.Struct(">IHHQQI")
_ANSWER: Final = struct.Struct(">IIQ")
_STARTTLS, _GO, _ACK = 5, 7, 1
_READ, _WRITE, _FLUSH = 0, 1, 3
_PATIENCE_S: Final = 3.0
# Of a server that holds a request while its own disk is away.
_ANSWER_S: Final = 30.0
_BETWEEN_S: Final = 0.02
_MOST_BYTES: Final = 1 << 20

T = TypeVar("T")


class NbdWriter:
    """`tls`: of the node it is. Repeats what was in flight when it was cut, as QEMU does."""

    def __init__(self, place: ExportPlace, tls: ssl.SSLContext) -> None:
        self.place = place
        self._tls = tls
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def connect(self) -> None:
        """Once. Raises ConnectionError."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                self._streams = await self._negotiated()
        except (OSError, EOFError, ssl.SSLError, TimeoutError) as error:
            raise ConnectionError(str(error)) from error

    async def write(self, offset: int, content: bytes) -> None:
        for at in range(0, len(content), _MOST_BYTES):
            part = content[at : at + _MOST_BYTES]
            await self._repeated(functools.partial(self._request, _WRITE, offset + at, len(part), part))

    async def read(self, offset: int, length: int) -> bytes:
        steps = range(offset, offset + length, _MOST_BYTES)
        sizes = [(start, min(_MOST_BYTES, offset + length - start)) for start in steps]
        return b"".join([await self._repeated(functools.partial(self._request, _READ, *s)) for s in sizes])

    async def flush(self) -> None:
        await self._repeated(functools.partial(self._request, _FLUSH, 0, 0))

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _repeated(self, act: Callable[[], Awaitable[T]]) -> T:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                if self._streams is None:
                    async with asyncio.timeout(_PATIENCE_S):
                        self._streams = await self._negotiated()
                async with asyncio.timeout(_ANSWER_S):
                    return await act()
            except (OSError, EOFError, ssl.SSLError, TimeoutError) as error:
                await self.close()
                if time.monotonic() > deadline:
                    raise ConnectionError(str(error)) from error
                await asyncio.sleep(_BETWEEN_S)

    async def _request(self, command: int, offset: int, length: int, body: bytes = b"") -> bytes:
        assert self._streams is not None, "it is connected"
        reader, writer = self._streams
        writer.write(_REQUEST.pack(0x25609513, 0, command, 1, offset, length) + body)
        await writer.drain()
        _, error, _ = _ANSWER.unpack(await reader.readexactly(_ANSWER.size))
        if error:
            raise OSError(error, "the server refuses")
        return await reader.readexactly(length) if command == _READ else b""

    async def _negotiated(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        place = self.place
        if place.socket is not None:
            reader, writer = await asyncio.open_unix_connection(place.socket)
        else:
            reader, writer = await asyncio.open_connection(place.address, place.port)
        with ExitStack() as unless_agreed:
            unless_agreed.callback(writer.close)
            await reader.readexactly(18)
            writer.write(struct.pack(">I", 3))
            if place.socket is None:
                await option(reader, writer, _STARTTLS, b"")
                await writer.start_tls(self._tls)
            name = place.name.encode()
            await option(reader, writer, _GO, struct.pack(">I", len(name)) + name + b"\0\0")
            unless_agreed.pop_all()
        return reader, writer


async def option(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, body: bytes) -> None:
    """Raises ConnectionError if the server does not agree."""
    writer.write(_OPTION.pack(b"IHAVEOPT", number, len(body)) + body)
    while True:
        _, _, kind, length = _REPLY.unpack(await reader.readexactly(_REPLY.size))
        told = await reader.readexactly(length)
        if kind == _ACK:
            return
        if kind >> 31:
            raise ConnectionRefusedError(told.decode(errors="replace"))

"""Reading a request's body: never more than asked for, never waiting longer than a living client needs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from aiohttp import StreamReader, web

from ec2_facade.errors import Refused
from ec2_facade.limits import Limits


class HeldBytes:
    """All bodies that are being held whole, together: so many bytes and no more."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    def take(self, count: int) -> None:
        if self.held + count > self._most:
            raise Refused("ServiceUnavailable", "Please reduce your request rate.", status=503)
        self.held += count

    def give_back(self, count: int) -> None:
        self.held -= count


class BodyReader:
    """One request's body. `received` counts its bytes as they come."""

    def __init__(
        self,
        content: StreamReader,
        limits: Limits,
        held: HeldBytes,
        *,
        announced: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._content = content
        self._limits = limits
        self._held = held
        self._clock = clock
        self.received = 0
        # What its head says of its length; None: nothing.
        self.announced = announced

    @property
    def empty(self) -> bool:
        """There is none, and never will be."""
        return self.received == 0 and self._content.at_eof()

    async def pieces(self) -> AsyncIterator[bytes]:
        """What arrives, as it arrives. Raises Refused for a client that stalls, trickles or goes away."""
        window_ends, window_from = self._clock() + self._limits.window_s, 0
        while piece := await self._read():
            self.received += len(piece)
            if self._clock() >= window_ends:
                if self.received - window_from < self._limits.window_bytes:
                    raise _timed_out()
                window_ends, window_from = self._clock() + self._limits.window_s, self.received
            yield piece

    async def whole(self, most: int, *, held: HeldBytes | None = None) -> bytes:
        """Raises Refused when it is longer than `most`, or takes too long. `held`: counted there instead."""
        room = held or self._held
        taken = 0
        parts: list[bytes] = []
        try:
            # One that is here as a whole needs no clock.
            async with asyncio.timeout(None if self._content.is_eof() else self._limits.held_s):
                async for piece in self.pieces():
                    if self.received > most:
                        raise Refused("MaxMessageLengthExceeded", "Your request was too big.", status=400)
                    room.take(len(piece))
                    taken += len(piece)
                    parts.append(piece)
        except TimeoutError:
            raise _timed_out() from None
        finally:
            room.give_back(taken)
        return b"".join(parts)

    async def _read(self) -> bytes:
        try:
            if (piece := self._content.read_nowait()) or self._content.at_eof():
                return piece
            async with asyncio.timeout(self._limits.idle_s):
                while not (piece := await self._content.readany()):
                    if self._content.at_eof():
                        break
                return piece
        except TimeoutError:
            raise _timed_out() from None
        except (web.RequestPayloadError, ConnectionError):
            message = "You did not provide the number of bytes specified by the Content-Length HTTP header"
            raise Refused("IncompleteBody", message, status=400) from None


def _timed_out() -> Refused:
    message = (
        "Your socket connection to the server was not read from or written to within the timeout period. "
        "Idle connections will be closed."
    )
    return Refused("RequestTimeout", message, status=400)

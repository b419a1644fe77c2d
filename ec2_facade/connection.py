"""One TCP connection: aiohttp's HTTP/1.1, with bounds on what its client may cost before a request is whole."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, cast

from aiohttp import EMPTY_PAYLOAD, StreamReader, web
from aiohttp.web_protocol import RequestHandler

from common.log import get_logger
from ec2_facade.limits import Limits
from ec2_facade.proxies import Proxies

_log = get_logger(__name__)

# How a request is answered that could not be parsed or whose handler failed: (request, status, cause).
Failure = Callable[[web.BaseRequest, int, BaseException | None], web.StreamResponse]


class Connections:
    """All that are open, by client address; makes the protocol of each new one."""

    def __init__(self, server: web.Server, limits: Limits, failure: Failure, proxies: Proxies) -> None:
        self._server = server
        self._limits = limits
        self._proxies = proxies
        self.failure = failure
        self._by_address: Counter[str] = Counter()
        self.open = 0

    def __call__(self) -> Connection:
        limits = self._limits
        return Connection(
            self,
            limits,
            self._server,
            loop=asyncio.get_running_loop(),
            # Also the time for a head: aiohttp closes what has no whole request by then.
            keepalive_timeout=limits.head_s,
            lingering_time=limits.linger_s,
            max_line_size=limits.line_bytes,
            max_field_size=limits.line_bytes,
            max_headers=limits.headers,
            auto_decompress=False,
            access_log=None,
            read_bufsize=128 << 10,
        )

    def admit(self, address: str) -> bool:
        if self.open >= self._limits.connections:
            return False
        # A proxy is many clients: it bounds each of them itself, before they become connections here.
        if self._by_address[address] >= self._limits.connections_per_address and not self._proxies.trusts(address):
            return False
        self.open += 1
        self._by_address[address] += 1
        return True

    def forget(self, address: str) -> None:
        self.open -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


class Connection(RequestHandler):
    __slots__ = ("_address", "_connections", "_head_bytes", "_last_payload", "_limits")

    def __init__(self, connections: Connections, limits: Limits, server: web.Server, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._connections = connections
        self._limits = limits
        # Empty: not admitted.
        self._address = ""
        self._head_bytes = 0
        # Of the latest request: while it is not at its end, what arrives is no head.
        self._last_payload: StreamReader = EMPTY_PAYLOAD

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else "local"
        super().connection_made(transport)
        if sys.version_info < (3, 12):
            self._loop = cast(asyncio.AbstractEventLoop, _WithoutTasks(self._loop))
        if self._connections.admit(address):
            self._address = address
            self._bound_unread_answers(transport)
        else:
            _log.warning("connection refused: too many are open", address=address)
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._address:
            self._connections.forget(self._address)
            self._address = ""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """aiohttp bounds a line and the number of headers; their product would still be far too much."""
        in_body = not self._last_payload.is_eof()
        known = self._request_count
        super().data_received(data)
        if self._request_count != known:
            self._last_payload = self._messages[-1][1]
            in_body = True
        self._head_bytes = 0 if in_body else self._head_bytes + len(data)
        if self._head_bytes > self._limits.head_bytes:
            _log.warning("connection closed: the head of a request is too long", address=self._address)
            self.force_close()

    def _bound_unread_answers(self, transport: asyncio.BaseTransport) -> None:
        """The kernel ends a connection whose client acknowledges nothing: closing would wait for it for ever."""
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._limits.window_s * 1000))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp's hook for a request it cannot parse and for a handler that failed: a bug of ours."""
        if isinstance(exc, ConnectionError):
            # Nobody is there to be answered.
            raise exc
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has been begun; the connection ends with it")
        response = self._connections.failure(request, status, exc)
        response.force_close()
        return response


class _WithoutTasks:
    """The loop, as it looks to what answers a connection's requests one by one.

    aiohttp answers each in a task of its own, so that context variables stay as they were; ours leave them so. A task
    takes two turns of the loop more, until Python 3.12 can begin one at once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.create_future = loop.create_future
        self.time = loop.time

    def create_task(self, coroutine: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        return coroutine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

"""The HTTP server: aiohttp's low-level one, on every address it is given."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import web

from common import metrics
from ec2_facade.connection import Connections
from ec2_facade.limits import Limits
from ec2_facade.pipeline import Pipeline


class FacadeServer:
    """`await start()`; `ports` are known from then on; `await stop(grace)` drains and ends it."""

    def __init__(self, pipeline: Pipeline, limits: Limits, addresses: Sequence[tuple[str, int]]) -> None:
        # Whoever hung up gets no answer, but what he began is carried through: half a launch helps nobody.
        self._server = web.Server(pipeline.answer, handler_cancellation=False)
        self._connections = Connections(self._server, limits, pipeline.failed, pipeline.proxies)
        self._addresses = tuple(addresses)
        self._listeners: list[asyncio.Server] = []
        self.ports: tuple[int, ...] = ()
        metrics.gauge("mallee_http_connections", "Open connections", read=lambda: self.open_connections)

    @property
    def open_connections(self) -> int:
        return self._connections.open

    async def start(self) -> None:
        """Raises OSError when an address cannot be had; then none is taken."""
        loop = asyncio.get_running_loop()
        try:
            for host, port in self._addresses:
                # The kernel deals new connections among all processes of this user that listen there.
                listening = loop.create_server(self._connections, host, port, backlog=1024, reuse_port=True)
                self._listeners.append(await listening)
        except OSError:
            await self.stop(0)
            raise
        self.ports = tuple(listener.sockets[0].getsockname()[1] for listener in self._listeners)

    async def stop(self, grace_s: float) -> None:
        """Takes no new connections, answers what it has begun for at most `grace_s`."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self._server.pre_shutdown()
        await self._server.shutdown(grace_s)

"""A gRPC server of this cloud: mutual TLS, the access table, deadlines, errors, metrics, health and reflection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from common.pki import Identity
from common.rpc.access import ACCESS, Access
from common.rpc.channel import COMMON_OPTIONS, KEEPALIVE_MS
from common.rpc.interceptor import Guard

_SERVER_OPTIONS: Final[list[tuple[str, Any]]] = [
    *COMMON_OPTIONS,
    # Less than what our clients do, or keepalive itself would be answered with GOAWAY (too_many_pings).
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    # A port that is taken is an error, not a second server behind the same port.
    ("grpc.so_reuseport", 0),
]


class RpcServer:
    """add …, then `await start()`; `ports` are known from then on; `await stop(grace)` drains and ends it."""

    def __init__(
        self, identity: Identity, *, addresses: Sequence[str] = ("127.0.0.1:0",), access: Access = ACCESS
    ) -> None:
        self._identity = identity
        self._addresses = tuple(addresses)
        self._access = access
        self._handlers = _Recorder()
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self.ports: tuple[int, ...] = ()

    def add(self, add_to_server: Callable[[Any, Any], None], servicer: object) -> RpcServer:
        """With the generated add_XServicer_to_server."""
        add_to_server(servicer, self._handlers)
        return self

    def add_generic(self, *handlers: grpc.GenericRpcHandler) -> RpcServer:
        """Handlers built by hand; one that tells its service_name() also shows in reflection and health."""
        self._handlers.add_generic_rpc_handlers(handlers)
        return self

    async def start(self) -> None:
        """Raises OSError when an address cannot be had, ValueError for a service the access table does not know."""
        services = self._handlers.service_names()
        if unknown := [name for name in services if not self._access.knows(name)]:
            raise ValueError(f"the access table does not know {', '.join(unknown)}")
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._handlers)
        known = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection.aio.ReflectionServicer(known), self._handlers
        )
        server = grpc.aio.server(options=_SERVER_OPTIONS)
        server.add_generic_rpc_handlers((Guard(self._handlers.handlers, self._access),))
        credentials = self._identity.server_credentials()
        try:
            self.ports = tuple(server.add_secure_port(address, credentials) for address in self._addresses)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {', '.join(self._addresses)}: {error}") from error
        self._server = server
        await server.start()
        for name in ("", *services):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float = 2.0) -> None:
        """Answers what it has begun, for at most `grace_s`; refuses what is new."""
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(grace_s)
            self._server = None

    async def __aenter__(self) -> RpcServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


class _Recorder:
    """Stands in for the server while services are added, so that their names are known before it starts."""

    def __init__(self) -> None:
        self.handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self.handlers.extend(handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """grpc.aio has no use for them; generated code calls it all the same."""

    def service_names(self) -> list[str]:
        return [handler.service_name() for handler in self.handlers if isinstance(handler, grpc.ServiceRpcHandler)]

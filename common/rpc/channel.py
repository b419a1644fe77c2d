"""Calls to another member: verified by certificate name, each with a deadline, a request id and, if allowed, a caller.

`await stub.Method(request)` raises CloudError. Streams give grpc's own call objects: use them inside
`with cloud_errors():`. Nothing is retried here.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

import grpc

from common.errors import Unavailable
from common.ids import new_request_id
from common.pki import Identity
from common.rpc.context import CALLER_KEY, REQUEST_ID_KEY, current_caller, current_request_id, remaining_s
from common.rpc.errors import cloud_errors

__all__ = ["DEFAULT_TIMEOUT_S", "CloudChannel", "cloud_errors", "connect"]

# Of a unary call that names none; the deadline of the request being answered shortens it.
DEFAULT_TIMEOUT_S: Final = 10.0

MESSAGE_BYTES: Final = 8 << 20
METADATA_BYTES: Final = 1 << 20

# Both ends: a peer that is stopped (not closed) is noticed within KEEPALIVE + its timeout.
KEEPALIVE_MS: Final = 10_000
KEEPALIVE_TIMEOUT_MS: Final = 5_000

COMMON_OPTIONS: Final[list[tuple[str, Any]]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # Soft and hard: above the soft one gRPC refuses at random.
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]

_CHANNEL_OPTIONS: Final[list[tuple[str, Any]]] = [
    *COMMON_OPTIONS,
    # A member that was restarted is back within a second, not after gRPC's two minutes of backoff.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
]


def connect(
    address: str,
    identity: Identity,
    peer_member_id: str,
    *,
    speak_for_callers: bool = False,
    wait_for_ready: bool = False,
) -> CloudChannel:
    """A channel to `host:port`, whose server must show the certificate of `peer_member_id`. Connects lazily.

    `speak_for_callers` sends the current AWS caller along (facade, CLC and Walrus alone may).
    `wait_for_ready` lets unary calls wait out a restart of the peer, up to their deadline, instead of failing at once.
    """
    channel = grpc.aio.secure_channel(
        address,
        identity.channel_credentials(),
        options=[*_CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", peer_member_id)],
    )
    return CloudChannel(channel, speak_for_callers=speak_for_callers, wait_for_ready=wait_for_ready)


class CloudChannel(grpc.aio.Channel):
    """What generated stubs take. A thin wrapper: grpc.aio's client interceptors cost a task per call."""

    def __init__(self, channel: grpc.aio.Channel, *, speak_for_callers: bool, wait_for_ready: bool) -> None:
        self._channel = channel
        self._speak_for_callers = speak_for_callers
        self._wait_for_ready = wait_for_ready

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        callable_ = self._channel.unary_unary(method, *args, **kwargs)

        async def call(
            request: Any, *, timeout: float | None = None, metadata: Any = (), wait_for_ready: bool | None = None
        ) -> Any:
            with cloud_errors():
                return await callable_(
                    request,
                    timeout=_timeout_s(timeout, method),
                    metadata=self._metadata(metadata),
                    wait_for_ready=self._wait_for_ready if wait_for_ready is None else wait_for_ready,
                )

        return call

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._stream(self._channel.unary_stream(method, *args, **kwargs))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._stream(self._channel.stream_unary(method, *args, **kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._stream(self._channel.stream_stream(method, *args, **kwargs))

    def _stream(self, callable_: Callable[..., Any]) -> Callable[..., Any]:
        def call(request: Any = None, *, timeout: float | None = None, metadata: Any = (), **kwargs: Any) -> Any:
            return callable_(request, timeout=timeout, metadata=self._metadata(metadata), **kwargs)

        return call

    def _metadata(self, extra: Any) -> tuple[tuple[str, str | bytes], ...]:
        sent: list[tuple[str, str | bytes]] = [(REQUEST_ID_KEY, current_request_id() or new_request_id())]
        if self._speak_for_callers and (caller := current_caller()) is not None:
            sent.append((CALLER_KEY, caller.SerializeToString()))
        return (*sent, *extra)

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()


def _timeout_s(asked: float | None, method: str) -> float:
    timeout_s = DEFAULT_TIMEOUT_S if asked is None else asked
    left = remaining_s()
    if left is None or timeout_s < left:
        return timeout_s
    if left <= 0:
        raise Unavailable(f"no time is left to call {method}")
    return left

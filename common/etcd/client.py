"""The asyncio client of etcd: reads, transactions, leases and watches over several endpoints.

Reads are tried again on another endpoint after a short deadline. A write is sent once: while no connection stands it
waits for one or turns to another endpoint; once sent, a missing answer is OutcomeUnknown and the caller reads first.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

import grpc
from grpc import StatusCode

from common.errors import Unavailable
from common.etcd.types import (
    Compacted,
    EtcdError,
    KeyValue,
    Listing,
    OutcomeUnknown,
    Txn,
    TxnResult,
    WatchBatch,
    prefix_end,
)
from common.etcd.watch import watch_once
from common.pki import Identity
from etcdrpc import rpc_pb2, rpc_pb2_grpc

# Every member's certificate carries it, so one name checks them all, whatever their addresses.
SERVER_NAME: Final = "etcd.role.mallee"

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 8 << 20),
    # etcd drops a client that pings more often than every 5 s (--grpc-keepalive-min-time).
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),
)
_TRANSIENT: Final = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.CANCELLED,
        # gRPC's own word for a connection that ended in the middle of an answer: a member that is being stopped.
        StatusCode.INTERNAL,
    }
)

Request = TypeVar("Request")
Response = TypeVar("Response")


class Endpoint:
    """One member: a channel and the stubs on it."""

    def __init__(self, address: str, identity: Identity | None) -> None:
        self.address = address
        if identity is None:
            self.channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        else:
            options = (*_OPTIONS, ("grpc.ssl_target_name_override", SERVER_NAME))
            self.channel = grpc.aio.secure_channel(address, identity.channel_credentials(), options=options)
        self.kv = rpc_pb2_grpc.KVStub(self.channel)
        self.leases = rpc_pb2_grpc.LeaseStub(self.channel)
        self.watches = rpc_pb2_grpc.WatchStub(self.channel)
        self.auth = rpc_pb2_grpc.AuthStub(self.channel)
        self.maintenance = rpc_pb2_grpc.MaintenanceStub(self.channel)

    async def connected(self, timeout_s: float) -> bool:
        state = self.channel.get_state(try_to_connect=True)
        try:
            async with asyncio.timeout(timeout_s):
                while state is not grpc.ChannelConnectivity.READY:
                    await self.channel.wait_for_state_change(state)
                    state = self.channel.get_state(try_to_connect=True)
        except TimeoutError:
            return False
        return True


class Etcd:
    """A connection to the cluster. Use as an async context, or `await close()`.

    Raises Unavailable when no endpoint answers in `patience_s`, OutcomeUnknown for a write without an answer, EtcdError
    when etcd refuses the request.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        identity: Identity | None,
        *,
        try_timeout_s: float = 1.0,
        write_timeout_s: float = 5.0,
        patience_s: float = 15.0,
    ) -> None:
        if not endpoints:
            raise ValueError("etcd needs at least one endpoint")
        self._endpoints = [Endpoint(address, identity) for address in endpoints]
        # Clients of one cluster spread over its members.
        self._at = random.randrange(len(self._endpoints))
        self._try_timeout_s = try_timeout_s
        self._write_timeout_s = write_timeout_s
        self._patience_s = patience_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        for endpoint in self._endpoints:
            await endpoint.channel.close()

    # Keys

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        """As it stood at `revision`, or stands now. Raises Compacted when that revision is gone."""
        request = rpc_pb2.RangeRequest(key=key.encode(), revision=revision)
        response = await self.read(lambda e: e.kv.Range, request)
        return KeyValue.from_proto(response.kvs[0]) if response.kvs else None

    async def range(self, prefix: str, *, page: int = 1000) -> Listing:
        """All keys under the prefix at one revision, in order, fetched page by page."""
        while True:
            try:
                return await self._range_at_one_revision(prefix, page)
            except Compacted:
                continue  # It took so long that the revision of its first page is gone.

    async def revision(self) -> int:
        """The store's revision now, linearizable."""
        request = rpc_pb2.RangeRequest(key=b"/mallee/members/", count_only=True)
        return (await self.read(lambda e: e.kv.Range, request)).header.revision

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Unconditional. Returns its revision."""
        request = rpc_pb2.PutRequest(key=key.encode(), value=value, lease=lease)
        return (await self.write(lambda e: e.kv.Put, request)).header.revision

    async def delete(self, key: str) -> bool:
        """True if it was there."""
        request = rpc_pb2.DeleteRangeRequest(key=key.encode())
        return (await self.write(lambda e: e.kv.DeleteRange, request)).deleted > 0

    async def delete_prefix(self, prefix: str) -> int:
        request = rpc_pb2.DeleteRangeRequest(key=prefix.encode(), range_end=prefix_end(prefix))
        return (await self.write(lambda e: e.kv.DeleteRange, request)).deleted

    async def txn(self, txn: Txn) -> TxnResult:
        """Sent once, never repeated: see OutcomeUnknown."""
        return txn.result(await self.write(lambda e: e.kv.Txn, txn.request))

    # Leases

    async def lease_grant(self, ttl_s: int) -> int:
        """The lease's id. A grant that was lost on its way dies by itself, so it may be tried again."""
        response = await self.read(lambda e: e.leases.LeaseGrant, rpc_pb2.LeaseGrantRequest(TTL=ttl_s))
        return response.ID

    async def lease_revoke(self, lease: int) -> None:
        """Deletes its keys as well. One that is gone already is no error."""
        try:
            await self.read(lambda e: e.leases.LeaseRevoke, rpc_pb2.LeaseRevokeRequest(ID=lease))
        except EtcdError as error:
            if error.status != StatusCode.NOT_FOUND.name:
                raise

    async def lease_keepalive(self, lease: int) -> int:
        """Seconds left from now; 0: the lease is gone."""

        async def once(endpoint: Endpoint, timeout_s: float) -> int:
            call = endpoint.leases.LeaseKeepAlive(timeout=timeout_s)
            try:
                await call.write(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
                response = await call.read()
            finally:
                call.cancel()
            if not isinstance(response, rpc_pb2.LeaseKeepAliveResponse):
                raise Unavailable("etcd closed the keepalive stream")
            return response.TTL

        return await self._repeat(once)

    # Watches

    async def watch(
        self, prefix: str, start_revision: int, *, single_key: bool = False
    ) -> AsyncGenerator[WatchBatch, None]:
        """Every change from `start_revision` on, without end, over any number of lost connections.

        An empty batch now and then is a sign of life. Raises Compacted when a revision it still needs is gone.
        """
        next_revision = start_revision
        failures = 0
        while True:
            at = self._at
            try:
                async for batch in watch_once(
                    self._endpoints[at].watches, prefix, b"" if single_key else prefix_end(prefix), next_revision
                ):
                    failures = 0
                    if batch.events:
                        next_revision = batch.revision + 1
                    yield batch
            except grpc.aio.AioRpcError as error:
                if not _is_transient(error) and error.code() is not StatusCode.UNKNOWN:
                    raise _translate(error, sent_write=False) from error
            self._turn_from(at)
            failures += 1
            if failures >= len(self._endpoints):
                await asyncio.sleep(_backoff_s(failures - len(self._endpoints)))

    # How calls are made

    async def read(
        self,
        method: Callable[[Endpoint], grpc.aio.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
    ) -> Response:
        """For what may be repeated: on a dead, stopped or partitioned member the next one is asked."""

        async def once(endpoint: Endpoint, timeout_s: float) -> Response:
            return await method(endpoint)(request, timeout=timeout_s)

        return await self._repeat(once)

    async def write(
        self,
        method: Callable[[Endpoint], grpc.aio.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
    ) -> Response:
        """Sent at most once."""
        give_up = time.monotonic() + self._patience_s
        while True:
            at = self._at
            endpoint = self._endpoints[at]
            if await endpoint.connected(self._try_timeout_s):
                break
            self._turn_from(at)
            if time.monotonic() > give_up:
                raise Unavailable("no etcd member can be reached")
        try:
            return await method(endpoint)(request, timeout=self._write_timeout_s)
        except grpc.aio.AioRpcError as error:
            if _is_transient(error):
                self._turn_from(at)
            raise _translate(error, sent_write=True) from error

    async def _repeat(self, once: Callable[[Endpoint, float], Awaitable[Response]]) -> Response:
        give_up = time.monotonic() + self._patience_s
        failures = 0
        while True:
            at = self._at
            rounds = failures // len(self._endpoints)
            try:
                # A busy cluster gets longer each round.
                return await once(self._endpoints[at], self._try_timeout_s * min(1 << rounds, 5))
            except grpc.aio.AioRpcError as error:
                if not _is_transient(error) or time.monotonic() > give_up:
                    raise _translate(error, sent_write=False) from error
            self._turn_from(at)
            failures += 1
            if failures % len(self._endpoints) == 0:
                await asyncio.sleep(_backoff_s(rounds))

    def _turn_from(self, at: int) -> None:
        """Another call may have turned already."""
        if self._at == at:
            self._at = (at + 1) % len(self._endpoints)

    async def _range_at_one_revision(self, prefix: str, page: int) -> Listing:
        items: list[KeyValue] = []
        request = rpc_pb2.RangeRequest(key=prefix.encode(), range_end=prefix_end(prefix), limit=page)
        while True:
            response = await self.read(lambda e: e.kv.Range, request)
            items.extend(KeyValue.from_proto(kv) for kv in response.kvs)
            request.revision = request.revision or response.header.revision
            if not response.more:
                return Listing(request.revision, tuple(items))
            request.key = response.kvs[-1].key + b"\0"


def _backoff_s(failures: int) -> float:
    return min(0.05 * (1 << min(failures, 5)), 1.0) * random.uniform(0.5, 1.0)


def _is_transient(error: grpc.aio.AioRpcError) -> bool:
    """A member that has lost its leader says so as Go's context does, under a code that means nothing."""
    return error.code() in _TRANSIENT or (
        error.code() is StatusCode.UNKNOWN and (error.details() or "").startswith("context ")
    )


def _translate(error: grpc.aio.AioRpcError, *, sent_write: bool) -> Exception:
    code, message = error.code(), error.details() or ""
    if _is_transient(error):
        if sent_write:
            return OutcomeUnknown(f"etcd did not answer a write: {message}")
        return Unavailable(f"etcd does not answer: {message}")
    if code is StatusCode.RESOURCE_EXHAUSTED and message.startswith("etcdserver: "):
        # Its quota of space is used up, or too much is asked of it at one time: it did nothing, and will do it later.
        return Unavailable(f"etcd takes no writes now: {message}")
    if code is StatusCode.OUT_OF_RANGE and "compacted" in message:
        return Compacted(0)
    return EtcdError(code.name, message)

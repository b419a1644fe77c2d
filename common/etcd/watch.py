"""One watch on one connection: fragments joined, silence told from death."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

import grpc

from common.etcd.types import Compacted, EtcdError, KeyValue, WatchBatch, WatchEvent
from etcdrpc import kv_pb2, rpc_pb2

if TYPE_CHECKING:
    from etcdrpc.rpc_pb2_grpc import WatchAsyncStub

# An idle watch asks for a sign of life this often; without one for so long, the member is taken for dead.
ASK_AFTER_S: Final = 2.0
DEAD_AFTER_S: Final = 3.0


async def watch_once(
    stub: WatchAsyncStub, prefix: str, range_end: bytes, start_revision: int
) -> AsyncIterator[WatchBatch]:
    """Ends when the connection does. Raises Compacted, and EtcdError when the watch is refused."""
    # A member that is cut off from its leader ends the stream instead of staying silent.
    call = stub.Watch(metadata=(("hasleader", "true"),))
    try:
        create = rpc_pb2.WatchCreateRequest(
            key=prefix.encode(),
            range_end=range_end,
            # One earlier than wanted: etcd (3.4.23) drops, without a word, a deletion at the very revision to which its
            # history was compacted, but refuses to start before that (https://github.com/etcd-io/etcd/issues/18089).
            start_revision=max(start_revision - 1, 1),
            progress_notify=True,
            fragment=True,
        )
        await call.write(rpc_pb2.WatchRequest(create_request=create))
        pending: list[WatchEvent] = []
        async for response in _responses(call):
            if response.compact_revision:
                raise Compacted(response.compact_revision)
            if response.canceled:
                # Without a reason: the member lost its leader or stops.
                if "permission" in response.cancel_reason:
                    raise EtcdError("PERMISSION_DENIED", response.cancel_reason)
                return
            pending.extend(_event(event) for event in response.events if event.kv.mod_revision >= start_revision)
            if response.fragment:
                continue
            # Only events move the revision: in etcd before 3.4.25 the answer to a progress request may overtake them
            # (https://github.com/etcd-io/etcd/issues/15220).
            yield WatchBatch(pending[-1].revision if pending else 0, tuple(pending))
            pending = []
    finally:
        call.cancel()


async def _responses(
    call: grpc.aio.StreamStreamCall[rpc_pb2.WatchRequest, rpc_pb2.WatchResponse],
) -> AsyncIterator[rpc_pb2.WatchResponse]:
    """Ends at the end of the stream, or when the member answers nothing any more."""
    # A read that is cut short loses its message: so the read goes on while we ask, and ends with the call.
    reading: asyncio.Future[object] | None = None
    asked = False
    try:
        while True:
            reading = reading or asyncio.ensure_future(call.read())
            done, _ = await asyncio.wait({reading}, timeout=DEAD_AFTER_S if asked else ASK_AFTER_S)
            if done:
                response = reading.result()
                reading, asked = None, False
                if not isinstance(response, rpc_pb2.WatchResponse):
                    return
                yield response
            elif asked:
                return
            else:
                asked = True
                await call.write(rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()))
    finally:
        if reading is not None:
            reading.cancel()


def _event(event: kv_pb2.Event) -> WatchEvent:
    kv = event.kv
    if event.type == kv_pb2.Event.DELETE:
        return WatchEvent(kv.key.decode(), None, kv.mod_revision)
    return WatchEvent(kv.key.decode(), KeyValue.from_proto(kv), kv.mod_revision)

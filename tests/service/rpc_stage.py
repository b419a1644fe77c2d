"""A server with one method per way an RPC can go, and channels to it as any member."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from common.errors import NotFound, Unsupported
from common.pki import Identity
from common.rpc import context as rpc_context
from common.rpc.access import ROLES, Access
from common.rpc.channel import CloudChannel, connect
from common.rpc.server import RpcServer

SERVICE = "test.v1.Parrot"
ACCESS = Access(
    services={
        f"/{SERVICE}": frozenset({"facade", "cc"}),
        "/grpc.health.v1.Health": ROLES,
        "/grpc.reflection.v1alpha.ServerReflection": frozenset({"admin"}),
    },
    methods={f"/{SERVICE}/OnlyForClc": frozenset({"clc"})},
)
CODEC: dict[str, Any] = {
    "request_deserializer": StringValue.FromString,
    "response_serializer": StringValue.SerializeToString,
}


class Parrot:
    """One method per way an RPC can go."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.waits = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.onward: CloudChannel | None = None

    async def say(self, request: StringValue, context: Any) -> StringValue:
        return StringValue(value=request.value)

    async def tell_context(self, request: StringValue, context: Any) -> StringValue:
        caller, peer = rpc_context.current_caller(), rpc_context.current_peer()
        assert peer is not None
        told = {
            "request_id": rpc_context.current_request_id(),
            "account": caller.account_id if caller else None,
            "peer": peer.member_id,
            "left_s": rpc_context.remaining_s(),
        }
        return StringValue(value=json.dumps(told))

    async def ask_onward(self, request: StringValue, context: Any) -> StringValue:
        assert self.onward is not None
        answer: StringValue = await method(self.onward, "TellContext")(request)
        return answer

    async def refuse(self, request: StringValue, context: Any) -> StringValue:
        raise NotFound("no such image", code="InvalidAMIID.NotFound", details={"ImageId": request.value})

    async def refuse_at_length(self, request: StringValue, context: Any) -> StringValue:
        raise NotFound("no such instances: " + ", ".join(f"i-{n:017x}" for n in range(5000)))

    async def abort(self, request: StringValue, context: Any) -> StringValue:
        await context.abort(grpc.StatusCode.DATA_LOSS, "said by hand")
        raise AssertionError

    async def fail(self, request: StringValue, context: Any) -> StringValue:
        empty: dict[str, str] = {}
        return StringValue(value=empty["secret"])

    async def wait(self, request: StringValue, context: Any) -> StringValue:
        self.began.set()
        try:
            await self.waits.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return StringValue()

    async def count(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        for number in range(int(request.value)):
            yield StringValue(value=str(number))
        raise NotFound("no more numbers", code="NoSuchKey")

    async def write_and_fail(self, request: StringValue, context: Any) -> None:
        await context.write(StringValue(value="one"))
        raise ValueError("a bug in a stream")

    async def join(self, requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        joined = "".join([request.value async for request in requests])
        if not joined:
            raise Unsupported("nothing came")
        return StringValue(value=joined)

    async def echo(self, requests: AsyncIterator[StringValue], context: Any) -> AsyncIterator[StringValue]:
        async for request in requests:
            yield request

    def handlers(self) -> grpc.GenericRpcHandler:
        unary, many = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Say": unary(self.say, **CODEC),
                "OnlyForClc": unary(self.say, **CODEC),
                "TellContext": unary(self.tell_context, **CODEC),
                "AskOnward": unary(self.ask_onward, **CODEC),
                "Refuse": unary(self.refuse, **CODEC),
                "RefuseAtLength": unary(self.refuse_at_length, **CODEC),
                "Abort": unary(self.abort, **CODEC),
                "Fail": unary(self.fail, **CODEC),
                "Wait": unary(self.wait, **CODEC),
                "Count": many(self.count, **CODEC),
                "WriteAndFail": many(self.write_and_fail, **CODEC),
                "Join": grpc.stream_unary_rpc_method_handler(self.join, **CODEC),
                "Echo": grpc.stream_stream_rpc_method_handler(self.echo, **CODEC),
            },
        )


class Stage:
    """A running server and channels to it by member."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.parrot = Parrot()
        self.server = RpcServer(Identity.load(folder, "clc-1"), access=ACCESS).add_generic(self.parrot.handlers())

    async def channel(self, member: str, *, peer: str = "clc-1", speak_for_callers: bool = False) -> CloudChannel:
        address = f"127.0.0.1:{self.server.ports[0]}"
        identity = Identity.load(self._folder, member)
        return await self._stack.enter_async_context(
            connect(address, identity, peer, speak_for_callers=speak_for_callers)
        )


def method(channel: CloudChannel, name: str, kind: str = "unary_unary") -> Callable[..., Any]:
    made: Callable[..., Any] = getattr(channel, kind)(
        f"/{SERVICE}/{name}",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )
    return made


async def told(channel: CloudChannel, name: str = "TellContext", **kwargs: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((await method(channel, name)(StringValue(), **kwargs)).value)
    return answer

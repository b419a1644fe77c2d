"""Calls to the services behind the facade: one generic way for every action, by the contract's own descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from google.protobuf.message import Message

from common.rpc.channel import CloudChannel
from common.rpc.local.channel import LocalCall, LocalChannel
from common.shards import Shards
from ec2_facade.auth.claim import Scope
from ec2_facade.auth.keys import SigningKey
from ec2_facade.protocol import Operation, Stream
from mallee.clc.v1 import service_pb2, service_pb2_grpc
from mallee.common.v1 import caller_pb2
from mallee.walrus.v1 import service_pb2 as walrus_pb2
from mallee.walrus.v1 import service_pb2_grpc as walrus_pb2_grpc

_ONE_WALRUS: Final = Shards("walrus")


class Channels(Protocol):
    """The live members of one role."""

    def channel(self, member_id: str | None = None) -> CloudChannel:
        """To that member, or to the next in turn. Raises Unavailable when it is not there, or none is."""


class Backends:
    """The CLC for Query services, Walrus for S3: of several that one which has the bucket."""

    def __init__(
        self,
        *,
        clc: Channels,
        walrus: Channels,
        local: Sequence[LocalChannel] = (),
        shards: Shards = _ONE_WALRUS,
    ) -> None:
        """`local`: to each Walrus on this host, used for S3 while it serves there."""
        self._clc = clc
        self._walrus = walrus
        self._local = local
        self._shards = shards
        self._callables: WeakKeyDictionary[CloudChannel, dict[str, Any]] = WeakKeyDictionary()

    async def call(self, operation: Operation, message: Message, *, timeout_s: float) -> Message:
        """A unary action. Raises CloudError."""
        if (call := self._call(operation, message)) is None:
            answer: Message = await self._callable(operation, message)(message, timeout=timeout_s)
            return answer
        try:
            call.begin(message.SerializeToString(), timeout_s=timeout_s)
            return await call
        finally:
            call.cancel()

    async def web_configuration(self, bucket: str) -> walrus_pb2.GetWebConfigurationResponse:
        """How a bucket meets browsers. Raises CloudError: NotFound (NoSuchBucket), Unavailable."""
        stub = walrus_pb2_grpc.WalrusServiceStub(self._channel_of(bucket))
        return await stub.GetWebConfiguration(walrus_pb2.GetWebConfigurationRequest(bucket=bucket))

    def open(self, operation: Operation, message: Message, *, asks: bool = True) -> Any:
        """The call of a streaming action, as grpc.aio's; use it inside `with cloud_errors()` and cancel it in the end.

        By gRPC it waits out a restart of its server: the caller bounds how long. Of an upload `message` is the header
        that is to be written first; `asks`: that it was accepted is awaited; else only by gRPC, which needs it.
        """
        is_upload = operation.stream is Stream.UPLOAD
        if (call := self._call(operation, message)) is not None:
            call.begin(b"" if is_upload else message.SerializeToString(), upload=is_upload, asks=asks)
            return call
        return self._callable(operation, message)(None if is_upload else message, wait_for_ready=True)

    def _call(self, operation: Operation, message: Message) -> LocalCall | None:
        if not self._local or operation.service != "s3":
            return None
        local = self._local[self._shards.shard_of(_bucket_of(message))]
        if (frames := local.connection()) is None:
            return None
        return LocalCall(local, frames, operation.rpc_path, operation.response_class)

    def _channel_of(self, bucket: str) -> CloudChannel:
        return self._walrus.channel(self._shards.of(bucket))

    def _callable(self, operation: Operation, message: Message) -> Any:
        channel = self._channel_of(_bucket_of(message)) if operation.service == "s3" else self._clc.channel()
        made = self._callables.setdefault(channel, {})
        if operation.rpc_path not in made:
            make = {
                Stream.NONE: channel.unary_unary,
                Stream.UPLOAD: channel.stream_unary,
                Stream.DOWNLOAD: channel.unary_stream,
            }[operation.stream]
            made[operation.rpc_path] = make(
                operation.rpc_path,
                request_serializer=operation.sends.SerializeToString,
                response_deserializer=operation.receives.FromString,
            )
        return made[operation.rpc_path]


def _bucket_of(message: Any) -> str:
    """Empty for a request about none: ListBuckets."""
    name: str = getattr(message, "bucket", "")
    return name


class ClcIdentities:
    """Signing keys, asked of the CLC that also tells what changed, so that an answer is never older than the news."""

    def __init__(self, clc: Channels) -> None:
        self._clc = clc
        self._watched: service_pb2_grpc.IdentityServiceAsyncStub | None = None

    def choose(self) -> service_pb2_grpc.IdentityServiceAsyncStub:
        """The one to watch from now on. Raises Unavailable."""
        self._watched = service_pb2_grpc.IdentityServiceStub(self._clc.channel())
        return self._watched

    def forget(self) -> None:
        self._watched = None

    async def signing_key(self, scope: Scope) -> SigningKey:
        stub = self._watched or service_pb2_grpc.IdentityServiceStub(self._clc.channel())
        request = service_pb2.GetSigningKeyRequest(
            access_key_id=scope.access_key_id, date=scope.date, region=scope.region, service=scope.service
        )
        answer = await stub.GetSigningKey(request)
        return SigningKey(answer.signing_key, answer.caller)

    async def sign_v2(
        self, access_key_id: str, string_to_sign: str, *, hash_name: str
    ) -> tuple[bytes, caller_pb2.Caller]:
        stub = self._watched or service_pb2_grpc.IdentityServiceStub(self._clc.channel())
        answer = await stub.SignV2(
            service_pb2.SignV2Request(access_key_id=access_key_id, string_to_sign=string_to_sign, hash_name=hash_name)
        )
        return answer.signature, answer.caller

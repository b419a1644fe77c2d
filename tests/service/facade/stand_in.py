"""The CLC and Walrus as the facade sees them: real gRPC servers with mutual TLS, answers made by the test."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from common import pki
from common.errors import CloudError, InvalidArgument, NotFound, Unsupported
from common.pki import Identity
from common.rpc import context as rpc_context
from common.rpc.channel import CloudChannel, connect
from common.rpc.server import RpcServer
from common.rpc.uploads import accepting
from ec2_facade.auth.claim import Scope
from ec2_facade.protocol.model import Contract, Operation, Stream
from mallee.clc.v1 import service_pb2, service_pb2_grpc
from mallee.common.v1 import caller_pb2
from mallee.s3.v1 import object_pb2
from mallee.walrus.v1 import service_pb2 as walrus_pb2
from tests.unit.facade.signing import ACCESS_KEY, SECRET, signing_key

ACCOUNT = "123456789012"
MEMBERS = (("clc-1", "clc"), ("walrus-1", "walrus"), ("facade-1", "facade"))

Answer = Callable[[Message], Message]


def make_certificates(folder: Path) -> None:
    pki.create_authority(folder)
    for member, role in MEMBERS:
        pki.issue(folder, member, role, ips=["127.0.0.1"])


class StandInIdentities(service_pb2_grpc.IdentityServiceServicer):
    """Access keys by id; `tell` sends a change to whoever watches."""

    def __init__(self) -> None:
        self.secrets = {ACCESS_KEY: SECRET}
        self.asked = 0
        self.watchers: list[asyncio.Queue[list[str] | None]] = []

    async def GetSigningKey(
        self, request: service_pb2.GetSigningKeyRequest, context: Any
    ) -> service_pb2.GetSigningKeyResponse:
        self.asked += 1
        scope = Scope(
            access_key_id=request.access_key_id, date=request.date, region=request.region, service=request.service
        )
        secret = self._secret(request.access_key_id)
        return service_pb2.GetSigningKeyResponse(
            signing_key=signing_key(scope, secret), caller=self._caller(request.access_key_id)
        )

    async def SignV2(self, request: service_pb2.SignV2Request, context: Any) -> service_pb2.SignV2Response:
        secret = self._secret(request.access_key_id)
        signature = hmac.digest(secret.encode(), request.string_to_sign.encode(), request.hash_name)
        return service_pb2.SignV2Response(signature=signature, caller=self._caller(request.access_key_id))

    def _secret(self, access_key_id: str) -> str:
        secret = self.secrets.get(access_key_id)
        if secret is None:
            raise NotFound("no such access key", code="InvalidAccessKeyId")
        return secret

    def _caller(self, access_key_id: str) -> caller_pb2.Caller:
        return caller_pb2.Caller(
            account_id=ACCOUNT,
            arn=f"arn:aws:iam::{ACCOUNT}:root",
            user_id=ACCOUNT,
            access_key_id=access_key_id,
            canonical_user_id="c" * 64,
        )

    async def WatchAccessKeys(
        self, request: service_pb2.WatchAccessKeysRequest, context: Any
    ) -> AsyncIterator[service_pb2.WatchAccessKeysResponse]:
        changes: asyncio.Queue[list[str] | None] = asyncio.Queue()
        self.watchers.append(changes)
        yield service_pb2.WatchAccessKeysResponse()
        while (ids := await changes.get()) is not None:
            yield service_pb2.WatchAccessKeysResponse(access_key_ids=ids)
        self.watchers.remove(changes)

    def tell(self, ids: list[str] | None) -> None:
        """None ends the streams."""
        for watcher in list(self.watchers):
            watcher.put_nowait(ids)


class StandInService:
    """Every action of a contract: unary ones answered by `answers`; all requests are kept with their caller."""

    def __init__(self, service: str) -> None:
        self.contract = Contract(service)
        self.answers: dict[str, Answer] = {}
        self.seen: list[tuple[str, Message, caller_pb2.Caller | None, str]] = []
        self.hold_answers: asyncio.Event | None = None
        # Calls that were carried through.
        self.answered = 0

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        by_service: dict[str, dict[str, Any]] = {}
        for operation in self.contract.operations.values():
            _, service, name = operation.rpc_path.split("/")
            by_service.setdefault(service, {})[name] = self._handler(operation)
        return [grpc.method_handlers_generic_handler(name, methods) for name, methods in by_service.items()]

    def _handler(self, operation: Operation) -> Any:
        make = {
            Stream.NONE: grpc.unary_unary_rpc_method_handler,
            Stream.UPLOAD: grpc.stream_unary_rpc_method_handler,
            Stream.DOWNLOAD: grpc.unary_stream_rpc_method_handler,
        }[operation.stream]
        return make(
            self.method(operation),
            request_deserializer=operation.sends.FromString,
            response_serializer=operation.receives.SerializeToString,
        )

    def method(self, operation: Operation) -> Any:
        async def answer(request: Message, context: Any) -> Message:
            self.saw(operation.name, request)
            made = self.answers.get(operation.name)
            if made is None:
                raise Unsupported(f"the test has no answer for {operation.name}")
            if self.hold_answers is not None:
                await self.hold_answers.wait()
            self.answered += 1
            return made(request)

        return answer

    def saw(self, name: str, request: Message) -> None:
        self.seen.append((name, request, rpc_context.current_caller(), rpc_context.current_request_id()))


class StandInWalrus(StandInService):
    """Objects in memory, with knobs: what is refused, and when."""

    def __init__(self) -> None:
        super().__init__("s3")
        self.objects: dict[tuple[str, str], tuple[bytes, object_pb2.PutObjectRequest]] = {}
        self.trailers: dict[str, str] = {}
        self.broken_off = asyncio.Event()
        self.refuse_upload: CloudError | None = None
        self.hold_upload: asyncio.Event | None = None
        self.break_download_at: int | None = None
        self.most_received = 0
        self.sent = 0
        self.web: dict[str, walrus_pb2.GetWebConfigurationResponse] = {}

    def method(self, operation: Operation) -> Any:
        special: dict[str, Callable[..., Any]] = {
            "PutObject": self._put,
            "UploadPart": self._put,
            "GetObject": self._get,
        }
        return special.get(operation.name) or super().method(operation)

    def web_handler(self) -> grpc.GenericRpcHandler:
        async def answer(
            request: walrus_pb2.GetWebConfigurationRequest, context: Any
        ) -> walrus_pb2.GetWebConfigurationResponse:
            if (found := self.web.get(request.bucket)) is None:
                raise NotFound("The specified bucket does not exist", code="NoSuchBucket")
            return found

        handler = grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=walrus_pb2.GetWebConfigurationRequest.FromString,
            response_serializer=walrus_pb2.GetWebConfigurationResponse.SerializeToString,
        )
        name = walrus_pb2.DESCRIPTOR.services_by_name["WalrusService"].full_name
        return grpc.method_handlers_generic_handler(name, {"GetWebConfiguration": handler})

    async def _put(self, frames: AsyncIterator[Any], context: Any) -> Message:
        header: Any = None
        body, ended = bytearray(), False
        try:
            async for frame in accepting(aiter(frames), context):
                match frame.WhichOneof("part"):
                    case "header":
                        header = frame.header
                        self.saw(type(header).__name__, header)
                        if self.refuse_upload is not None:
                            raise self.refuse_upload
                        if self.hold_upload is not None:
                            await self.hold_upload.wait()
                    case "chunk":
                        assert 0 < len(frame.chunk) <= 1 << 20
                        body += frame.chunk
                        self.most_received = max(self.most_received, len(body))
                    case "end":
                        ended = True
                        assert frame.end.length == len(body)
                        self.trailers = dict(frame.end.trailers)
        finally:
            if not ended:
                self.broken_off.set()
        if not ended:
            raise InvalidArgument("the stream ended without its end", code="IncompleteBody")
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        if isinstance(header, object_pb2.PutObjectRequest):
            self.objects[header.bucket, header.key] = bytes(body), header
            return object_pb2.PutObjectOutput(e_tag=etag)
        self.objects[header.bucket, f"{header.key}#{header.part_number}"] = bytes(body), header
        return self.contract.operations["UploadPart"].response_class(e_tag=etag)

    async def _get(self, request: object_pb2.GetObjectRequest, context: Any) -> AsyncIterator[Message]:
        self.saw("GetObject", request)
        found = self.objects.get((request.bucket, request.key))
        if found is None:
            raise NotFound("The specified key does not exist.", code="NoSuchKey", details={"Key": request.key})
        body, header = found
        output = object_pb2.GetObjectOutput(
            content_length=len(body),
            e_tag=f'"{hashlib.md5(body).hexdigest()}"',
            content_type=header.content_type or "binary/octet-stream",
            metadata=header.metadata,
            accept_ranges="bytes",
        )
        if request.range:
            first, _, last = request.range.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(body) - 1), len(body) - 1)
            output.content_range = f"bytes {start}-{end}/{len(body)}"
            body = body[start : end + 1]
            output.content_length = len(body)
        yield object_pb2.GetObjectStream(header=output)
        for at in range(0, len(body), 1 << 20):
            if self.break_download_at is not None and at >= self.break_download_at:
                raise CloudError("the disk broke")
            self.sent = at
            yield object_pb2.GetObjectStream(chunk=body[at : at + (1 << 20)])


class OneChannel:
    """What the membership would tell: one member, or none."""

    def __init__(self, channel: CloudChannel) -> None:
        self._channel = channel

    def channel(self, member_id: str | None = None) -> CloudChannel:
        return self._channel


class Backstage:
    """Both servers, running, and channels to them as the facade."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.identities = StandInIdentities()
        self.ec2 = StandInService("ec2")
        self.sts = StandInService("sts")
        self.walrus = StandInWalrus()

    async def start(self) -> tuple[OneChannel, OneChannel]:
        clc = RpcServer(Identity.load(self._folder, "clc-1"))
        clc.add(service_pb2_grpc.add_IdentityServiceServicer_to_server, self.identities)
        clc.add_generic(*self.ec2.handlers(), *self.sts.handlers())
        walrus = RpcServer(Identity.load(self._folder, "walrus-1")).add_generic(*self.walrus.handlers())
        walrus.add_generic(self.walrus.web_handler())
        return await self._connect(clc, "clc-1"), await self._connect(walrus, "walrus-1")

    async def _connect(self, server: RpcServer, member: str) -> OneChannel:
        await server.start()
        self._stack.push_async_callback(server.stop, 0)
        channel = connect(
            f"127.0.0.1:{server.ports[0]}", Identity.load(self._folder, "facade-1"), member, speak_for_callers=True
        )
        await self._stack.enter_async_context(channel)
        return OneChannel(channel)

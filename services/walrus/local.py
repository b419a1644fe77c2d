"""S3's handlers for processes on this host (common/rpc/local): those of gRPC, but that bodies never enter a message."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from common.rpc.context import current_caller
from common.rpc.local.server import Download, Handler, Unary, Upload
from common.rpc.uploads import RawExtent
from mallee.s3.v1 import object_pb2, service_pb2
from services.walrus import get
from services.walrus.s3_service import S3Service
from services.walrus.store import Store

_Downloading = AbstractAsyncContextManager[tuple[Message, AsyncIterator[bytes | RawExtent]]]


def local_handlers(store: Store) -> dict[str, Handler]:
    service = S3Service(store)
    (descriptor,) = service_pb2.DESCRIPTOR.services_by_name.values()
    downloads = {"GetObject": _get_object(store)}
    found: dict[str, Handler] = {}
    for method in descriptor.methods:
        takes = GetMessageClass(method.input_type)
        answer = getattr(service, method.name)
        path = f"/{descriptor.full_name}/{method.name}"
        if method.client_streaming:
            found[path] = Upload(frame=takes, answer=answer)
        elif method.server_streaming:
            found[path] = Download(request=takes, answer=downloads[method.name])
        else:
            found[path] = Unary(request=takes, answer=_unary(answer))
    return found


def _unary(answer: Callable[[Any, Any], Awaitable[Message]]) -> Callable[[Any], Awaitable[Message]]:
    return lambda request: answer(request, None)


def _get_object(store: Store) -> Callable[[object_pb2.GetObjectRequest], _Downloading]:
    return lambda request: get.handed_over(store, request, current_caller())

"""What happens around every RPC a server answers: who calls, may they, for whom, how long, what came of it.

One of the two places that catch every exception: a CloudError goes out as it is; anything else is a bug, which the
client sees as an opaque InternalError with the request id, and the log with its traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from common.errors import CloudError, Denied, InvalidArgument, Unauthenticated, Unavailable
from common.ids import new_request_id
from common.log import get_logger, teller
from common.metrics import RPC_IN_FLIGHT, RPCS
from common.rpc import context as rpc_context
from common.rpc.access import SPEAKS_FOR_CALLERS, Access, peer_of
from common.rpc.errors import status_of, to_trailer
from mallee.common.v1.caller_pb2 import Caller

log = get_logger(__name__)
_tell = teller(__name__)

# For a unary call whose client set no deadline.
DEFAULT_DEADLINE_S: Final = 30.0
# Longer ids would fill the logs of every service they pass.
_REQUEST_ID_CHARS: Final = 128

_STATUS_NAMES: Final = {status.value[0]: status.name for status in grpc.StatusCode}

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Guard(grpc.GenericRpcHandler):
    """All handlers of a server, each wrapped once. One of grpc's interceptors would cost each call a round more."""

    def __init__(self, handlers: Sequence[grpc.GenericRpcHandler], access: Access) -> None:
        self._handlers = handlers
        self._access = access
        self._wrapped: dict[str, _Handler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _Handler:
        method = handler_call_details.method
        if (known := self._wrapped.get(method)) is not None:
            return known
        for handlers in self._handlers:
            if (handler := handlers.service(handler_call_details)) is not None:
                return self._wrapped.setdefault(method, _wrap(handler, method, self._access))
        return _no_such_method(method)


def _no_such_method(method: str) -> _Handler:
    async def refuse(request: Any, context: _Context) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"no such method: {method}")

    return grpc.unary_unary_rpc_method_handler(refuse)


def _wrap(handler: _Handler, method: str, access: Access) -> _Handler:
    """The same kind of handler, guarded. Stream handlers may be async generators or coroutines that write."""
    codec: dict[str, Any] = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            return grpc.unary_unary_rpc_method_handler(_one(handler.unary_unary, method, access, True), **codec)
        case True, False:
            return grpc.stream_unary_rpc_method_handler(_one(handler.stream_unary, method, access, False), **codec)
        case False, True:
            return grpc.unary_stream_rpc_method_handler(_many(handler.unary_stream, method, access), **codec)
        case _:
            return grpc.stream_stream_rpc_method_handler(_many(handler.stream_stream, method, access), **codec)


def _one(behaviour: Any, method: str, access: Access, has_deadline: bool) -> Any:
    async def respond(request: Any, context: _Context) -> Any:
        async with _guarded(method, access, context, has_deadline=has_deadline):
            return await behaviour(request, context)

    return respond


def _many(behaviour: Any, method: str, access: Access) -> Any:
    async def respond(request: Any, context: _Context) -> AsyncIterator[Any]:
        async with _guarded(method, access, context, has_deadline=False):
            answers = behaviour(request, context)
            if not hasattr(answers, "__aiter__"):
                await answers
                return
            async with contextlib.aclosing(answers):
                async for answer in answers:
                    yield answer

    async def write(request: Any, context: _Context) -> None:
        async with _guarded(method, access, context, has_deadline=False):
            await behaviour(request, context)

    # grpc.aio tells the two styles apart by the function, and refuses one that mixes them.
    return write if asyncio.iscoroutinefunction(behaviour) else respond


@contextlib.asynccontextmanager
async def _guarded(method: str, access: Access, context: _Context, *, has_deadline: bool) -> AsyncIterator[None]:
    began = time.perf_counter()
    code = "CANCELLED"
    in_flight = _in_flight(method)
    in_flight.count += 1
    try:
        timeout_s = _admit(method, access, context, has_deadline=has_deadline)
        async with asyncio.timeout(timeout_s) as limit:
            yield
        code = "OK"
    except grpc.aio.AbortError:
        code = _status_name(context)
        raise
    except CloudError as error:
        code = error.code
        await _abort(context, error)
    except Exception as error:
        if isinstance(error, TimeoutError) and limit.expired():
            code = "DEADLINE_EXCEEDED"
            await _abort(context, Unavailable(f"{method} took longer than its deadline"))
        code = "InternalError"
        log.exception("a bug in an RPC", method=method)
        await _abort(context, opaque())
    finally:
        took_s = time.perf_counter() - began
        in_flight.count -= 1
        RPCS.of(method, code).add(took_s)
        if not method.startswith("/grpc."):
            _tell("rpc", method=method, code=code, took_ms=round(took_s * 1000, 1), peer=_peer_name())


class Observed:
    """Around a call that came another way than by gRPC: raises CloudError, or ConnectionResetError as it is."""

    __slots__ = ("_began", "_method")

    def __init__(self, method: str) -> None:
        self._method = method
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()
        _in_flight(self._method).count += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        refused: CloudError | None = None
        match error:
            case None:
                code = "OK"
            case CloudError():
                code = error.code
            case ConnectionResetError():
                code = "CANCELLED"
            case Exception():
                refused = self._refused(error)
                code = refused.code
            case _:
                code = "CANCELLED"
        took_s = time.perf_counter() - self._began
        _in_flight(self._method).count -= 1
        RPCS.of(self._method, code).add(took_s)
        _tell("rpc", method=self._method, code=code, took_ms=round(took_s * 1000, 1), peer="local")
        if refused is not None:
            raise refused from error

    def _refused(self, error: Exception) -> CloudError:
        match error:
            case DecodeError():
                return InvalidArgument("a message is malformed")
            case TimeoutError():
                return Unavailable("the call took longer than its deadline")
        log.error("a bug in an RPC", method=self._method, exc_info=error)
        return opaque()


class _InFlight:
    """Calls of one method. A plain number, which is looked at when Prometheus asks."""

    def __init__(self, method: str) -> None:
        self.count = 0
        RPC_IN_FLIGHT.labels(method).set_function(lambda: self.count)


_in_flight = lru_cache(maxsize=4096)(_InFlight)


def _status_name(context: _Context) -> str:
    """Of an aborted call. grpc.aio keeps the number."""
    code: Any = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else _STATUS_NAMES.get(code, "UNKNOWN")


def _peer_name() -> str:
    peer = rpc_context.current_peer()
    return peer.member_id if peer is not None else ""


def opaque() -> CloudError:
    request_id = rpc_context.current_request_id()
    return CloudError(f"An internal error has occurred (request {request_id})", details={"RequestId": request_id})


async def _abort(context: _Context, error: CloudError) -> None:
    await context.abort(status_of(error), error.message, to_trailer(error))


def _admit(method: str, access: Access, context: _Context, *, has_deadline: bool) -> float | None:
    """Checks the peer and takes over what came with the call. Returns the limit to keep beyond the client's own."""
    request_id, caller_bytes = "", None
    for key, value in context.invocation_metadata() or ():
        if key == rpc_context.REQUEST_ID_KEY and isinstance(value, str):
            request_id = value[:_REQUEST_ID_CHARS]
        elif key == rpc_context.CALLER_KEY and isinstance(value, bytes):
            caller_bytes = value
    peer = peer_of(context.auth_context())
    left: float | None = context.time_remaining()
    limit = DEFAULT_DEADLINE_S if has_deadline and left is None else None
    rpc_context.enter(
        request_id=request_id or new_request_id(),
        caller=_caller(caller_bytes) if caller_bytes is not None else None,
        peer=peer,
        timeout_s=limit if left is None else left,
    )
    if peer is None:
        raise Unauthenticated("the certificate names no member of this cloud")
    if not access.allows(peer.role, method):
        log.warning("refused by the access table", method=method, peer=peer.member_id, peer_role=peer.role)
        raise Denied(f"{peer.role} may not call {method}")
    if caller_bytes is not None and peer.role not in SPEAKS_FOR_CALLERS:
        log.warning("refused to speak for a caller", method=method, peer=peer.member_id, peer_role=peer.role)
        raise Denied(f"{peer.role} may not speak for a caller")
    return limit


def _caller(value: bytes) -> Caller:
    try:
        return Caller.FromString(value)
    except DecodeError as error:
        raise InvalidArgument(f"{rpc_context.CALLER_KEY} is not a caller") from error

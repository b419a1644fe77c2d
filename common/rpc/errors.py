"""CloudError over gRPC and back: google.rpc.Status with an ErrorInfo whose reason is the AWS error code.

    CloudError  --to_trailer-->  status code, message, grpc-status-details-bin  --from_rpc_error-->  the same subclass

ErrorInfo.metadata holds the error's details and, under `kind`, the name of its class.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from common import errors
from common.background import is_cancelled
from common.errors import CloudError

DOMAIN: Final = "mallee"
DETAILS_KEY: Final = "grpc-status-details-bin"
_KIND: Final = "kind"

_STATUS_OF: Final[dict[type[CloudError], grpc.StatusCode]] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.WrongState: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Stale: grpc.StatusCode.ABORTED,
    errors.NoCapacity: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Denied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.DataLoss: grpc.StatusCode.DATA_LOSS,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    CloudError: grpc.StatusCode.INTERNAL,
}
_KIND_OF_NAME: Final = {kind.__name__: kind for kind in _STATUS_OF}
_KIND_OF_STATUS: Final = {status: kind for kind, status in _STATUS_OF.items()} | {
    # No answer in time is no answer: what the call did is unknown, as after a lost connection.
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.Unavailable,
    grpc.StatusCode.CANCELLED: errors.Unavailable,
}

# What grpc says, as INTERNAL, when the connection breaks under a write to a stream.
# (grpcio, src/python/grpcio/grpc/_cython/_cygrpc/aio/call.pyx.pxi: ExecuteBatchError)
_CUT_OFF: Final = frozenset({"Internal error from Core"})


def status_of(error: CloudError) -> grpc.StatusCode:
    return _STATUS_OF[_kind(type(error))]


def to_trailer(error: CloudError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that carries `error` whole."""
    return ((DETAILS_KEY, to_bytes(error)),)


def to_bytes(error: CloudError) -> bytes:
    """A serialized google.rpc.Status."""
    info = error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN, metadata=error.details)
    info.metadata[_KIND] = _kind(type(error)).__name__
    status = status_pb2.Status(code=status_of(error).value[0], message=error.message)
    status.details.add().Pack(info)
    return bytes(status.SerializeToString())


def from_bytes(value: bytes) -> CloudError:
    return _unpack(value) or CloudError("an error that nobody can read")


def from_rpc_error(error: grpc.aio.AioRpcError) -> CloudError:
    """What the server raised; or, for an error of the connection itself, the kind that matches its status."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes) and (found := _unpack(value)) is not None:
            return found
    kind = _KIND_OF_STATUS.get(error.code(), CloudError)
    if error.details() in _CUT_OFF:
        kind = errors.Unavailable
    return kind(f"{error.code().name}: {error.details() or 'no details'}")


@contextlib.contextmanager
def cloud_errors() -> Iterator[None]:
    """Around the use of a call: what its server raised comes out as the same CloudError.

    grpc.aio cancels a call whose server goes away while it writes what an iterator gives, and those under way when
    their channel is closed, and raises CancelledError where they are awaited. Who was not cancelled must not see that.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise errors.Unavailable("the connection was cut off") from error


def _kind(cls: type[CloudError]) -> type[CloudError]:
    """The nearest class of the tree in common/errors.py: a service may refine one, the wire knows the tree only."""
    return next(base for base in cls.__mro__ if base in _STATUS_OF)


def _unpack(value: bytes) -> CloudError | None:
    status = status_pb2.Status()
    info = error_details_pb2.ErrorInfo()
    try:
        status.ParseFromString(value)
        if not any(any_.Unpack(info) for any_ in status.details) or info.domain != DOMAIN:
            return None
    except DecodeError:
        return None
    details = dict(info.metadata)
    kind = _KIND_OF_NAME.get(details.pop(_KIND, ""), CloudError)
    return kind(status.message, code=info.reason, details=details)

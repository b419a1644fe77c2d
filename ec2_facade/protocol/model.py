"""What the facade serves: the actions of a contract joined with AWS's model of them.

An action is served if and only if the contract has an RPC of its name; nothing here is written per action.
"""

from __future__ import annotations

import enum
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, cast

import botocore.session
from botocore.model import OperationModel, ServiceModel, Shape, StructureShape
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from common.aws_names import field_name
from mallee.common.v1 import contract_pb2


class Stream(enum.Enum):
    """How the body of an action travels over gRPC."""

    NONE = "unary"
    # Client-streaming: `frame_class` messages; the parsed request is the `header` of the first.
    UPLOAD = "upload"
    # Server-streaming: `frame_class` messages; the `header` of the first is what render() takes.
    DOWNLOAD = "download"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One action that is served."""

    service: str
    # AWS's name of the action.
    name: str
    # What parse() makes. Of an upload: its header.
    request_class: type[Message]
    # What render() takes. Of a download: its header.
    response_class: type[Message]
    # /mallee.ec2.v1.Ec2Service/RunInstances
    rpc_path: str
    stream: Stream
    # The message of the stream, None without one: oneof header, chunk and, on upload, end.
    frame_class: type[Message] | None
    model: OperationModel = field(repr=False)

    @property
    def sends(self) -> type[Message]:
        """The type that goes over the channel to the service."""
        return self.frame_class if self.frame_class and self.stream is Stream.UPLOAD else self.request_class

    @property
    def receives(self) -> type[Message]:
        """The type that comes back over the channel."""
        return self.frame_class if self.frame_class and self.stream is Stream.DOWNLOAD else self.response_class


# A tuple: each request makes one, and a frozen dataclass takes twice the time.
class Response(NamedTuple):
    """An HTTP answer, complete but for Content-Length and, of a download, the bytes that follow."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""


class Contract:
    """One service: `operations` are those that the contract has, `model` all that AWS has."""

    def __init__(self, service: str) -> None:
        self.service = service

    @cached_property
    def model(self) -> ServiceModel:
        return botocore.session.Session().get_service_model(self.service)

    @cached_property
    def operations(self) -> Mapping[str, Operation]:
        module = importlib.import_module(f"mallee.{self.service}.v1.service_pb2")
        (descriptor,) = module.DESCRIPTOR.services_by_name.values()
        return {
            method.name: self._operation(
                method.name, method.input_type, method.output_type, f"/{descriptor.full_name}/{method.name}"
            )
            for method in descriptor.methods
        }

    def knows(self, action: str) -> bool:
        """AWS has this action."""
        return action in self.model.operation_names

    def _operation(self, name: str, sends: Descriptor, receives: Descriptor, rpc_path: str) -> Operation:
        model = self.model.operation_model(name)
        stream, frame = Stream.NONE, None
        request, response = sends, receives
        if model.has_streaming_input:
            stream, frame, request = Stream.UPLOAD, sends, _header(sends)
        elif model.has_streaming_output:
            stream, frame, response = Stream.DOWNLOAD, receives, _header(receives)
        return Operation(
            service=self.service,
            name=name,
            request_class=GetMessageClass(request),
            response_class=GetMessageClass(response),
            rpc_path=rpc_path,
            stream=stream,
            frame_class=GetMessageClass(frame) if frame else None,
            model=model,
        )


def _header(frame: Descriptor) -> Descriptor:
    header = frame.fields_by_name["header"].message_type
    assert header is not None
    return header


def descriptor_of(message: Message | type[Message]) -> Descriptor:
    return cast(Descriptor, message.DESCRIPTOR)


def accepted_values(field: FieldDescriptor) -> frozenset[str] | None:
    """The only values of a member that a request may have, in AWS's spelling; None: any. Unset is always accepted."""
    options = field.GetOptions()
    if not options.HasExtension(contract_pb2.accepted):
        return None
    return frozenset(filter(None, options.Extensions[contract_pb2.accepted].split("|")))


def members(shape: Shape | None, descriptor: Descriptor) -> Iterable[tuple[str, Shape, FieldDescriptor | None]]:
    """AWS's members of a structure in their order, each with its field, or None where our contract leaves it out."""
    if isinstance(shape, StructureShape):
        for name, member in shape.members.items():
            yield name, member, descriptor.fields_by_name.get(field_name(name))

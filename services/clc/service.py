"""The gRPC handlers of EC2 and STS, built from the contract: each RPC runs the use case of its action."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from common.errors import Unauthenticated
from common.rpc.context import current_caller, current_request_id
from mallee.ec2.v1 import service_pb2 as ec2
from mallee.sts.v1 import service_pb2 as sts
from services.clc.use_case import USE_CASES, Call, Cloud, load_use_cases

# The prefix of a use case's name → its contract.
CONTRACTS: dict[str, ServiceDescriptor] = {
    "ec2": ec2.DESCRIPTOR.services_by_name["Ec2Service"],
    "sts": sts.DESCRIPTOR.services_by_name["StsService"],
}


def handlers(cloud: Cloud, read_barrier: Callable[[], Awaitable[None]]) -> list[grpc.GenericRpcHandler]:
    """Raises KeyError if the contract has an action without a use case."""
    load_use_cases()
    return [
        grpc.method_handlers_generic_handler(
            service.full_name,
            {method.name: _handler(f"{name}.{method.name}", method, cloud, read_barrier) for method in service.methods},
        )
        for name, service in CONTRACTS.items()
    ]


def _handler(
    action: str, method: MethodDescriptor, cloud: Cloud, read_barrier: Callable[[], Awaitable[None]]
) -> grpc.RpcMethodHandler[Any, Any]:
    run = USE_CASES[action]

    async def answer(request: Any, _context: Any) -> Any:
        caller = current_caller()
        if caller is None:
            raise Unauthenticated("The request has no caller", code="MissingAuthenticationToken")
        await read_barrier()
        call = Call(caller=caller, request_id=current_request_id(), now=cloud.clock())
        return await run(cloud, call, request)

    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
        response_serializer=message_factory.GetMessageClass(method.output_type).SerializeToString,
    )

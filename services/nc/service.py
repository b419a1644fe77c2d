"""The gRPC face of the node controller: decode, call, encode. Promises and errors stand in service.proto."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from common.errors import InvalidArgument
from common.ids import InstanceId
from mallee.nc.v1 import instance_pb2, service_pb2, service_pb2_grpc
from services.nc.bundle import Bundler
from services.nc.check import GuestCheck
from services.nc.orders import Orders
from services.nc.plans import Plans
from services.nc.store import InstanceStore


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What never changes while the process lives."""

    node: str
    zone: str
    underlay_address: str
    hypervisor: str
    host_boot_id: str


class NodeControllerService(service_pb2_grpc.NodeControllerServiceServicer):
    def __init__(
        self,
        facts: NodeFacts,
        *,
        orders: Orders,
        store: InstanceStore,
        plans: Plans,
        guests: GuestCheck,
        bundler: Bundler,
    ) -> None:
        self._facts = facts
        self._orders = orders
        self._store = store
        self._plans = plans
        self._guests = guests
        self._bundler = bundler

    async def EnsureInstance(
        self, request: service_pb2.EnsureInstanceRequest, context: Any
    ) -> service_pb2.EnsureInstanceResponse:
        observation = await self._orders.ensure(request.epoch, request.spec)
        return service_pb2.EnsureInstanceResponse(observation=observation)

    async def SetDisks(self, request: service_pb2.SetDisksRequest, context: Any) -> service_pb2.SetDisksResponse:
        instance_id = _instance_id(request.instance_id)
        observation = await self._orders.set_disks(request.epoch, instance_id, request.generation, request.plan)
        return service_pb2.SetDisksResponse(observation=observation)

    async def TerminateInstance(
        self, request: service_pb2.TerminateInstanceRequest, context: Any
    ) -> service_pb2.TerminateInstanceResponse:
        instance_id = _instance_id(request.instance_id)
        gone = await self._orders.terminate(request.epoch, instance_id, request.generation, grace_s=request.grace_s)
        return service_pb2.TerminateInstanceResponse(gone=gone)

    async def RebootInstance(
        self, request: service_pb2.RebootInstanceRequest, context: Any
    ) -> service_pb2.RebootInstanceResponse:
        await self._orders.reboot(request.epoch, _instance_id(request.instance_id))
        return service_pb2.RebootInstanceResponse()

    async def RestInstance(
        self, request: service_pb2.RestInstanceRequest, context: Any
    ) -> service_pb2.RestInstanceResponse:
        at_rest = await self._orders.rest(
            request.epoch,
            _instance_id(request.instance_id),
            request.generation,
            grace_s=request.grace_s,
            rest_s=request.rest_s,
        )
        return service_pb2.RestInstanceResponse(at_rest=at_rest)

    async def GetConsoleOutput(
        self, request: service_pb2.GetConsoleOutputRequest, context: Any
    ) -> service_pb2.GetConsoleOutputResponse:
        output, written_at_ms = await self._orders.console(_instance_id(request.instance_id))
        return service_pb2.GetConsoleOutputResponse(output=output, written_at_ms=written_at_ms)

    async def GetConsoleScreenshot(
        self, request: service_pb2.GetConsoleScreenshotRequest, context: Any
    ) -> service_pb2.GetConsoleScreenshotResponse:
        jpeg = await self._orders.screenshot(_instance_id(request.instance_id), wake_up=request.wake_up)
        return service_pb2.GetConsoleScreenshotResponse(jpeg=jpeg)

    async def BundleInstance(
        self, request: service_pb2.BundleInstanceRequest, context: Any
    ) -> AsyncIterator[service_pb2.BundleInstanceResponse]:
        _instance_id(request.order.instance_id)
        async with contextlib.aclosing(self._bundler.bundle(request.epoch, request.order)) as news:
            async for one in news:
                yield one

    async def CheckInstances(
        self, request: service_pb2.CheckInstancesRequest, context: Any
    ) -> service_pb2.CheckInstancesResponse:
        found = await self._guests.look(map(_instance_id, request.instance_ids))
        return service_pb2.CheckInstancesResponse(checks=found)

    async def ApplyVpcPlan(
        self, request: service_pb2.ApplyVpcPlanRequest, context: Any
    ) -> service_pb2.ApplyVpcPlanResponse:
        await self._store.obey(request.epoch)
        return service_pb2.ApplyVpcPlanResponse(revision=await self._plans.apply(request.plan))

    async def WatchInstances(
        self, request: service_pb2.WatchInstancesRequest, context: Any
    ) -> AsyncIterator[service_pb2.WatchInstancesResponse]:
        async with contextlib.aclosing(self._store.watch()) as observations:
            async for observation in observations:
                yield _told(observation)

    async def DescribeNode(
        self, request: service_pb2.DescribeNodeRequest, context: Any
    ) -> service_pb2.DescribeNodeResponse:
        return service_pb2.DescribeNodeResponse(
            node=self._facts.node,
            zone=self._facts.zone,
            underlay_address=self._facts.underlay_address,
            total=self._orders.total,
            used=self._orders.used,
            hypervisor=self._facts.hypervisor,
            host_boot_id=self._facts.host_boot_id,
        )


def _told(observation: instance_pb2.InstanceObservation | None) -> service_pb2.WatchInstancesResponse:
    if observation is None:
        return service_pb2.WatchInstancesResponse(snapshot_complete=True)
    return service_pb2.WatchInstancesResponse(observation=observation)


def _instance_id(value: str) -> InstanceId:
    if not InstanceId.matches(value):
        raise InvalidArgument(f"not an instance id: {value!r}", code="InvalidInstanceID.Malformed")
    return InstanceId(value)

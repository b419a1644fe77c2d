"""A node controller that pretends: it records orders, answers as it is told to, and checks what a node may rely on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

from common.errors import CloudError, Stale
from common.etcd.client import Etcd
from common.etcd.membership import Membership
from common.pki import Identity
from common.rpc.server import RpcServer
from mallee.common.v1.caller_pb2 import Member
from mallee.nc.v1 import instance_pb2, network_pb2, service_pb2
from mallee.nc.v1.service_pb2_grpc import NodeControllerServiceServicer, add_NodeControllerServiceServicer_to_server

ZONE = "us-east-1a"


class FakeNode(NodeControllerServiceServicer):
    def __init__(self, name: str, *, vcpus: int = 8, zone: str = ZONE) -> None:
        self.name = name
        self.zone = zone
        self.total = service_pb2.Resources(vcpus=vcpus, memory_bytes=vcpus << 30, disk_bytes=vcpus << 33)
        self.hypervisor = "fake"
        self.underlay_address = "127.0.0.1"
        # Knobs.
        self.refuse: CloudError | None = None
        self.gone_at_once = True
        self.before_ensure: Callable[[service_pb2.EnsureInstanceRequest], None] = lambda _: None
        self.gate = asyncio.Event()
        self.gate.set()
        self.describes = asyncio.Event()
        self.describes.set()
        self.terminates = asyncio.Event()
        self.terminates.set()
        self.plans_gate = asyncio.Event()
        self.plans_gate.set()
        # What was ordered.
        self.specs: dict[str, instance_pb2.InstanceSpec] = {}
        self.plans: dict[str, network_pb2.VpcPlan] = {}
        self.terminated: list[str] = []
        self.epoch = 0
        self.waiting = 0
        self._observations: dict[str, instance_pb2.InstanceObservation] = {}
        self._watchers: set[asyncio.Queue[instance_pb2.InstanceObservation]] = set()

    def say(self, instance_id: str, state: instance_pb2.VmState.ValueType, *, generation: int = 1) -> None:
        """The hypervisor tells of a change."""
        observation = instance_pb2.InstanceObservation(instance_id=instance_id, generation=generation, state=state)
        if state == instance_pb2.VM_STATE_GONE:
            self._observations.pop(instance_id, None)
            self.specs.pop(instance_id, None)
        else:
            self._observations[instance_id] = observation
        for watcher in self._watchers:
            watcher.put_nowait(observation)

    async def EnsureInstance(
        self, request: service_pb2.EnsureInstanceRequest, context: Any
    ) -> service_pb2.EnsureInstanceResponse:
        self._obey(request.epoch)
        self.before_ensure(request)
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        if self.refuse is not None:
            raise self.refuse
        spec = request.spec
        self.specs[spec.instance_id] = spec
        if spec.instance_id not in self._observations:
            self.say(spec.instance_id, instance_pb2.VM_STATE_PREPARING, generation=spec.generation)
        return service_pb2.EnsureInstanceResponse(observation=self._observations[spec.instance_id])

    async def SetDisks(self, request: service_pb2.SetDisksRequest, context: Any) -> service_pb2.SetDisksResponse:
        self._obey(request.epoch)
        self.specs[request.instance_id].disks.CopyFrom(request.plan)
        return service_pb2.SetDisksResponse(observation=self._observations[request.instance_id])

    async def BundleInstance(
        self, request: service_pb2.BundleInstanceRequest, context: Any
    ) -> AsyncIterator[service_pb2.BundleInstanceResponse]:
        self._obey(request.epoch)
        yield service_pb2.BundleInstanceResponse(state=instance_pb2.BUNDLE_STATE_COMPLETE, progress_percent=100)

    async def TerminateInstance(
        self, request: service_pb2.TerminateInstanceRequest, context: Any
    ) -> service_pb2.TerminateInstanceResponse:
        self._obey(request.epoch)
        self.terminated.append(request.instance_id)
        await self.terminates.wait()
        if request.instance_id in self._observations:
            if not self.gone_at_once:
                return service_pb2.TerminateInstanceResponse(gone=False)
            self.say(request.instance_id, instance_pb2.VM_STATE_GONE, generation=request.generation)
        return service_pb2.TerminateInstanceResponse(gone=True)

    async def RebootInstance(
        self, request: service_pb2.RebootInstanceRequest, context: Any
    ) -> service_pb2.RebootInstanceResponse:
        self._obey(request.epoch)
        return service_pb2.RebootInstanceResponse()

    async def RestInstance(
        self, request: service_pb2.RestInstanceRequest, context: Any
    ) -> service_pb2.RestInstanceResponse:
        self._obey(request.epoch)
        return service_pb2.RestInstanceResponse(at_rest=True)

    async def GetConsoleOutput(
        self, request: service_pb2.GetConsoleOutputRequest, context: Any
    ) -> service_pb2.GetConsoleOutputResponse:
        return service_pb2.GetConsoleOutputResponse(output=request.instance_id.encode(), written_at_ms=7)

    async def GetConsoleScreenshot(
        self, request: service_pb2.GetConsoleScreenshotRequest, context: Any
    ) -> service_pb2.GetConsoleScreenshotResponse:
        return service_pb2.GetConsoleScreenshotResponse(
            jpeg=request.instance_id.encode() * (2 if request.wake_up else 1)
        )

    async def CheckInstances(
        self, request: service_pb2.CheckInstancesRequest, context: Any
    ) -> service_pb2.CheckInstancesResponse:
        here = [i for i in request.instance_ids if i in self.specs]
        passed = service_pb2.CHECK_STATE_PASSED
        return service_pb2.CheckInstancesResponse(
            checks=[service_pb2.InstanceCheck(instance_id=i, state=passed) for i in here]
        )

    async def ApplyVpcPlan(
        self, request: service_pb2.ApplyVpcPlanRequest, context: Any
    ) -> service_pb2.ApplyVpcPlanResponse:
        self._obey(request.epoch)
        await self.plans_gate.wait()
        self.plans[request.plan.vpc_id] = request.plan
        return service_pb2.ApplyVpcPlanResponse(revision=request.plan.revision)

    async def WatchInstances(
        self, request: service_pb2.WatchInstancesRequest, context: Any
    ) -> AsyncIterator[service_pb2.WatchInstancesResponse]:
        watcher: asyncio.Queue[instance_pb2.InstanceObservation] = asyncio.Queue()
        self._watchers.add(watcher)
        try:
            for observation in list(self._observations.values()):
                yield service_pb2.WatchInstancesResponse(observation=observation)
            yield service_pb2.WatchInstancesResponse(snapshot_complete=True)
            while True:
                yield service_pb2.WatchInstancesResponse(observation=await watcher.get())
        finally:
            self._watchers.discard(watcher)

    async def DescribeNode(
        self, request: service_pb2.DescribeNodeRequest, context: Any
    ) -> service_pb2.DescribeNodeResponse:
        await self.describes.wait()
        return service_pb2.DescribeNodeResponse(
            node=self.name,
            zone=self.zone,
            underlay_address=self.underlay_address,
            total=self.total,
            hypervisor=self.hypervisor,
        )

    def _obey(self, epoch: int) -> None:
        if epoch < self.epoch:
            raise Stale(f"epoch {epoch} is older than {self.epoch}")
        self.epoch = epoch


class NodeProcess:
    """A fake node as a process: its server and its membership, to be started, crashed and started again."""

    def __init__(self, node: FakeNode, identity: Identity, etcd: Etcd) -> None:
        self.node = node
        self._identity = identity
        self._etcd = etcd
        self._starts = 0
        self._stack = AsyncExitStack()
        self._server: RpcServer | None = None

    async def start(self) -> None:
        self._starts += 1
        server = RpcServer(self._identity).add(add_NodeControllerServiceServicer_to_server, self.node)
        await server.start()
        self._stack.push_async_callback(server.stop, 0.0)
        membership = await self._stack.enter_async_context(Membership(self._etcd, ttl_s=5))
        await membership.register(
            Member(
                id=self.node.name,
                role="nc",
                zone=ZONE,
                address=f"127.0.0.1:{server.ports[0]}",
                boot_id=str(self._starts),
            )
        )

    async def stop(self) -> None:
        """Its membership ends at once, as it does when a dead node's lease ends."""
        await self._stack.aclose()
        self._stack = AsyncExitStack()

"""What the tests of the cluster controller play on."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from common.background import Background
from common.errors import Unavailable
from common.etcd.client import Etcd
from common.etcd.election import Election, Leadership
from common.etcd.membership import Membership
from common.etcd.sync import connected
from common.pki import Identity
from common.rpc.channel import cloud_errors, connect
from common.rpc.server import RpcServer
from mallee.cc.v1 import record_pb2
from mallee.cc.v1 import service_pb2 as cc
from mallee.cc.v1.service_pb2_grpc import (
    ClusterControllerServiceStub,
    add_ClusterControllerServiceServicer_to_server,
)
from mallee.nc.v1 import instance_pb2, network_pb2
from services.cc.service import ClusterController
from services.cc.term import ZoneRules
from tests.eventually import eventually
from tests.service.cc.fake_node import ZONE, FakeNode, NodeProcess

if TYPE_CHECKING:
    from mallee.cc.v1.service_pb2_grpc import ClusterControllerServiceAsyncStub

VPC = "vpc-00000000000000001"
RULES = ZoneRules(underlay_cidr="100.64.77.0/24")


def spec(
    number: int, *, vcpus: int = 1, generation: int = 1, vpc_id: str = VPC, ticket: bytes = b""
) -> instance_pb2.InstanceSpec:
    return instance_pb2.InstanceSpec(
        instance_id=instance_id(number),
        generation=generation,
        zone=ZONE,
        shape=instance_pb2.InstanceShape(vcpus=vcpus, memory_bytes=1 << 28, disk_bytes=1 << 31),
        boot=instance_pb2.BootSource(machine=instance_pb2.Image(image_id="ami-1", ticket=ticket)),
        interface=instance_pb2.NetworkInterface(vpc_id=vpc_id),
    )


def instance_id(number: int) -> str:
    return f"i-{number:017x}"


class Zone:
    """One cluster controller and the CLC's view of it."""

    def __init__(self, member_id: str, stage: Stage, rules: ZoneRules = RULES, *, ttl_s: int = 3) -> None:
        self.member_id = member_id
        self.controller = ClusterController(ZONE)
        self.observations: dict[str, instance_pb2.InstanceObservation] = {}
        self.gone: list[str] = []
        self.nodes: dict[str, cc.NodeCapacity] = {}
        self.placed: list[str] = []
        self._stage = stage
        self._rules, self._ttl_s = rules, ttl_s
        self._stack = AsyncExitStack()
        self.stub: ClusterControllerServiceAsyncStub

    async def start(self) -> None:
        identities = self._stage.identities
        etcd = await self._stack.enter_async_context(Etcd([self._stage.etcd_address], None))
        membership = await self._stack.enter_async_context(Membership(etcd))
        server = RpcServer(identities[self.member_id])
        server.add(add_ClusterControllerServiceServicer_to_server, self.controller)
        await server.start()
        self._stack.push_async_callback(server.stop, 0.0)
        channel = connect(f"127.0.0.1:{server.ports[0]}", identities["clc-1"], self.member_id)
        self._stack.push_async_callback(channel.close)
        self.stub = ClusterControllerServiceStub(channel)

        async def lead(leadership: Leadership) -> None:
            await self.controller.lead(leadership, etcd, membership, identities[self.member_id], rules=self._rules)

        tasks = await self._stack.enter_async_context(Background())
        tasks.start(Election(etcd, f"cc/{ZONE}", self.member_id, ttl_s=self._ttl_s).run(lead))

    async def stop(self) -> None:
        await self._stack.aclose()
        self._stack = AsyncExitStack()

    async def leads(self) -> None:
        await eventually(lambda: self.controller.leads)

    @property
    def connected_nodes(self) -> set[str]:
        """Nodes that answer its controller now."""
        term = self.controller._term
        return term.nodes.connected if term is not None else set()

    async def watch(self) -> None:
        """In the background, until the term ends."""
        tasks = await self._stack.enter_async_context(Background())
        tasks.start(self._watch_instances())
        tasks.start(self._watch_capacity())

    async def _watch_instances(self) -> None:
        with contextlib.suppress(Unavailable), cloud_errors():
            async for response in self.stub.WatchInstances(cc.WatchInstancesRequest()):
                if response.HasField("observation"):
                    self.observations[response.observation.instance_id] = response.observation

    async def _watch_capacity(self) -> None:
        with contextlib.suppress(Unavailable), cloud_errors():
            async for response in self.stub.WatchCapacity(cc.WatchCapacityRequest()):
                self.nodes.update({node.node: node for node in response.nodes})
                self.placed.extend(response.placed_instance_ids)

    async def ensure(
        self, *specs: instance_pb2.InstanceSpec, hosts: Mapping[str, str] | None = None, timeout: float = 10.0
    ) -> list[cc.Placed]:
        request = cc.EnsureInstancesRequest(specs=specs, hosts=hosts or {})
        answer = await self.stub.EnsureInstances(request, timeout=timeout)
        return list(answer.placed)

    async def terminate(self, *numbers: int, generation: int = 1) -> list[str]:
        orders = [cc.InstanceGeneration(instance_id=instance_id(n), generation=generation) for n in numbers]
        return list((await self.stub.TerminateInstances(cc.TerminateInstancesRequest(instances=orders))).gone)

    async def apply(self, revision: int, vpc_id: str = VPC) -> list[str]:
        plan = network_pb2.VpcPlan(vpc_id=vpc_id, revision=revision, interfaces=[network_pb2.PlanInterface(mac="a")])
        return list((await self.stub.ApplyVpcPlan(cc.ApplyVpcPlanRequest(plan=plan))).missing_nodes)


class Stage:
    def __init__(
        self, stack: AsyncExitStack, etcd: Etcd, *, etcd_address: str, identities: Mapping[str, Identity]
    ) -> None:
        self.etcd_address = etcd_address
        self.identities = identities
        self._stack = stack
        self._etcd = etcd

    async def node(self, name: str, *, vcpus: int = 8) -> NodeProcess:
        """Started."""
        process = NodeProcess(FakeNode(name, vcpus=vcpus), self.identities[name], self._etcd)
        self._stack.push_async_callback(process.stop)
        await process.start()
        return process

    async def zone(self, member_id: str = "cc-1", *, nodes: int | None = None) -> Zone:
        """Started; with `nodes`, elected and that many nodes seen, and watched."""
        zone = Zone(member_id, self)
        self._stack.push_async_callback(zone.stop)
        await zone.start()
        if nodes is not None:
            await zone.leads()
            await zone.watch()
            await eventually(lambda: sum(node.alive for node in zone.nodes.values()) == nodes)
        return zone

    async def depose(self) -> None:
        """Takes the leader's key away behind its back."""
        await self._etcd.delete_prefix(f"/mallee/election/cc/{ZONE}/")

    def records(self) -> dict[str, record_pb2.PlacementRecord]:
        """Placements as the independent witness reads them."""
        with connected(self.etcd_address) as witness:
            found = [
                record_pb2.PlacementRecord.FromString(value)
                for value, _ in witness.get_prefix(f"/mallee/cc/{ZONE}/placement/")
            ]
        return {record.instance_id: record for record in found}

"""The gRPC handlers of the cluster controller. Only in a term of its own does it answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from common import metrics, ticket
from common.errors import NotFound, Unavailable
from common.etcd.client import Etcd
from common.etcd.election import Leadership
from common.etcd.membership import Membership
from common.pki import Identity
from common.rpc.channel import cloud_errors
from common.rpc.context import remaining_s
from mallee.cc.v1 import service_pb2 as cc
from mallee.cc.v1.service_pb2_grpc import ClusterControllerServiceServicer
from mallee.nc.v1 import service_pb2 as nc
from services.cc.checks import check
from services.cc.nodes import ORDER_TIMEOUT_S
from services.cc.term import Term, ZoneRules, leading

# Of ApplyVpcPlan. A VPC's next plan waits for its last one, so that a node that hangs holds up the others by no more.
_PLAN_PATIENCE_S: Final = 0.7

Context = Any


class ClusterController(ClusterControllerServiceServicer):
    """`lead` is its part in the election; outside of it every call answers Unavailable."""

    def __init__(self, zone: str) -> None:
        self.zone = zone
        self._term: Term | None = None
        self._count()

    async def lead(
        self, leadership: Leadership, etcd: Etcd, membership: Membership, identity: Identity, *, rules: ZoneRules
    ) -> None:
        """Serves until the term is lost."""
        async with leading(etcd, membership, identity, zone=self.zone, rules=rules, leadership=leadership) as term:
            self._term = term
            try:
                await leadership.lost.wait()
            finally:
                self._term = None

    @property
    def leads(self) -> bool:
        return self._term is not None

    async def stop(self) -> None:
        """Ends the watches, so that the server can drain."""
        if self._term is not None:
            self._term.end()

    async def EnsureInstances(self, request: cc.EnsureInstancesRequest, context: Context) -> cc.EnsureInstancesResponse:
        launch = self._leader().launch
        return cc.EnsureInstancesResponse(
            placed=await launch.ensure(request.specs, request.hosts, request_ids=request.request_ids)
        )

    async def TerminateInstances(
        self, request: cc.TerminateInstancesRequest, context: Context
    ) -> cc.TerminateInstancesResponse:
        term = self._leader()
        async with term.launch.alone(order.instance_id for order in request.instances):
            return cc.TerminateInstancesResponse(gone=await term.removal.terminate(request.instances))

    async def SetDisks(self, request: cc.SetDisksRequest, context: Context) -> cc.SetDisksResponse:
        term = self._leader()
        node = self._node_of(term, request.instance_id)
        order = nc.SetDisksRequest(
            epoch=term.epoch, instance_id=request.instance_id, generation=request.generation, plan=request.plan
        )
        answer = await term.nodes.stub(node).SetDisks(order, timeout=ORDER_TIMEOUT_S)
        term.answered(node, answer.observation)
        return cc.SetDisksResponse(observation=answer.observation)

    async def RebootInstance(self, request: cc.RebootInstanceRequest, context: Context) -> cc.RebootInstanceResponse:
        term = self._leader()
        order = nc.RebootInstanceRequest(epoch=term.epoch, instance_id=request.instance_id)
        await term.nodes.stub(self._node_of(term, request.instance_id)).RebootInstance(order)
        return cc.RebootInstanceResponse()

    async def RestInstance(self, request: cc.RestInstanceRequest, context: Context) -> cc.RestInstanceResponse:
        term = self._leader()
        order = nc.RestInstanceRequest(
            epoch=term.epoch,
            instance_id=request.instance_id,
            generation=request.generation,
            grace_s=request.grace_s,
            rest_s=request.rest_s,
        )
        node = term.nodes.stub(self._node_of(term, request.instance_id))
        return cc.RestInstanceResponse(at_rest=(await node.RestInstance(order, timeout=ORDER_TIMEOUT_S)).at_rest)

    async def GetConsoleOutput(
        self, request: cc.GetConsoleOutputRequest, context: Context
    ) -> cc.GetConsoleOutputResponse:
        term = self._leader()
        gone = request.node if request.instance_id not in term.ledger.placements else ""
        stub = term.nodes.stub(gone or self._node_of(term, request.instance_id))
        answer = await stub.GetConsoleOutput(nc.GetConsoleOutputRequest(instance_id=request.instance_id))
        return cc.GetConsoleOutputResponse(output=answer.output, written_at_ms=answer.written_at_ms)

    async def GetConsoleScreenshot(
        self, request: cc.GetConsoleScreenshotRequest, context: Context
    ) -> cc.GetConsoleScreenshotResponse:
        term = self._leader()
        stub = term.nodes.stub(self._node_of(term, request.instance_id))
        order = nc.GetConsoleScreenshotRequest(instance_id=request.instance_id, wake_up=request.wake_up)
        return cc.GetConsoleScreenshotResponse(jpeg=(await stub.GetConsoleScreenshot(order)).jpeg)

    async def BundleInstance(
        self, request: cc.BundleInstanceRequest, context: Context
    ) -> AsyncIterator[cc.BundleInstanceResponse]:
        term = self._leader()
        node = self._node_of(term, request.order.instance_id)
        order = nc.BundleInstanceRequest(epoch=term.epoch)
        order.order.CopyFrom(request.order)
        order.order.ticket = ticket.narrow(request.order.ticket, node=node)
        with cloud_errors():
            call = term.nodes.stub(node).BundleInstance(order)
            try:
                async for news in call:
                    yield cc.BundleInstanceResponse(state=news.state, progress_percent=news.progress_percent)
            finally:
                call.cancel()

    async def CheckInstances(self, request: cc.CheckInstancesRequest, context: Context) -> cc.CheckInstancesResponse:
        term = self._leader()
        return cc.CheckInstancesResponse(checks=await check(term.ledger, term.nodes, request.instance_ids))

    async def ApplyVpcPlan(self, request: cc.ApplyVpcPlanRequest, context: Context) -> cc.ApplyVpcPlanResponse:
        patience_s = min(_PLAN_PATIENCE_S, remaining_s() or _PLAN_PATIENCE_S)
        missing = await self._leader().plans.apply(request.plan, patience_s=patience_s)
        return cc.ApplyVpcPlanResponse(missing_nodes=missing)

    async def WatchInstances(
        self, request: cc.WatchInstancesRequest, context: Context
    ) -> AsyncIterator[cc.WatchInstancesResponse]:
        async for response in self._leader().instances.watch():
            yield response

    async def WatchCapacity(
        self, request: cc.WatchCapacityRequest, context: Context
    ) -> AsyncIterator[cc.WatchCapacityResponse]:
        async for response in self._leader().capacity.watch():
            yield response

    async def DescribeNodes(self, request: cc.DescribeNodesRequest, context: Context) -> cc.DescribeNodesResponse:
        ledger = self._leader().ledger
        return cc.DescribeNodesResponse(nodes=[ledger.capacity(name) for name in sorted(ledger.nodes)])

    def _leader(self) -> Term:
        if self._term is None:
            raise Unavailable(f"this cluster controller does not lead {self.zone} now")
        return self._term

    def _node_of(self, term: Term, instance_id: str) -> str:
        placement = term.ledger.placements.get(instance_id)
        if placement is None:
            raise NotFound(f"{instance_id} is not in {self.zone}", code="InvalidInstanceID.NotFound")
        return placement.node

    def _count(self) -> None:
        """Gauges; a standby owns nothing and shows zeros."""

        def nodes(term: Term, *, alive: bool) -> int:
            return sum(node.takes_instances is alive for node in term.ledger.nodes.values())

        def show(name: str, help_: str, read: Any) -> None:
            metrics.gauge(name, help_, read=lambda: float(read(self._term)) if self._term else 0.0)

        show("mallee_cc_leads", "1 on the leader of the zone", lambda _: 1)
        show("mallee_cc_nodes_alive", "Nodes that take instances", lambda t: nodes(t, alive=True))
        show("mallee_cc_nodes_away", "Nodes that do not", lambda t: nodes(t, alive=False))
        show("mallee_cc_placements", "Instances placed", lambda t: len(t.ledger.placements))
        for unit in ("vcpus", "memory_bytes", "disk_bytes"):
            for side, help_ in (("free", "not placed yet, on nodes that take instances"), ("used", "placed")):

                def read(term: Term, unit: str = unit, side: str = side) -> int:
                    taking = (n for n in term.ledger.nodes.values() if side == "used" or n.takes_instances)
                    return sum(getattr(getattr(node, side), unit) for node in taking)

                show(f"mallee_cc_{side}_{unit}", f"{unit} {help_}", read)

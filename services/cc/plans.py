"""The network plan on its way to the nodes: the newest of each VPC, brought to every node that has or had a member.

A node without a member is told an empty plan once, so that nothing of the VPC is left there. What a node was told is
known for this term and this process of the node only; after a change of either it is told again.
"""

from __future__ import annotations

import asyncio

from common.reconcile import Reconciler
from mallee.nc.v1 import network_pb2, service_pb2
from services.cc.ledger import Ledger
from services.cc.nodes import Nodes

# (revision, whether the node was given members)
_Told = tuple[int, bool]


class Plans:
    """`run` works, without end."""

    def __init__(self, nodes: Nodes, ledger: Ledger, *, epoch: int) -> None:
        self._nodes = nodes
        self._ledger = ledger
        self._epoch = epoch
        self._plans: dict[str, network_pb2.VpcPlan] = {}
        self._told: dict[tuple[str, str], _Told] = {}
        self._news = asyncio.Condition()
        self._reconciler = Reconciler("cc-plans", self._step)

    async def run(self) -> None:
        await self._reconciler.run()

    async def apply(self, plan: network_pb2.VpcPlan, *, patience_s: float) -> list[str]:
        """Returns when all live nodes have it, or after `patience_s`. The names of those that do not."""
        known = self._plans.get(plan.vpc_id)
        if known is None or known.revision < plan.revision:
            self._plans[plan.vpc_id] = plan
        for node in self._ledger.nodes:
            self.nudge(plan.vpc_id, node)
        try:
            async with asyncio.timeout(patience_s), self._news:
                await self._news.wait_for(lambda: not self._behind(plan.vpc_id) & self._nodes.connected)
        except TimeoutError:
            pass
        return sorted(self._behind(plan.vpc_id))

    def nudge(self, vpc_id: str, node: str) -> None:
        """Membership of the node in the VPC may have changed."""
        if vpc_id in self._plans and self._told.get((vpc_id, node)) != self._wanted(vpc_id, node):
            self._reconciler.nudge(f"{vpc_id}/{node}")

    def node_connected(self, node: str, *, restarted: bool) -> None:
        if restarted:
            for key in [key for key in self._told if key[1] == node]:
                del self._told[key]
        for vpc_id in self._plans:
            self.nudge(vpc_id, node)

    def _behind(self, vpc_id: str) -> set[str]:
        """Of the nodes that have a member, or were told of one."""
        return {
            node
            for node in self._ledger.nodes
            if self._told.get((vpc_id, node)) != self._wanted(vpc_id, node)
            and (self._ledger.has_member(vpc_id, node) or (vpc_id, node) in self._told)
        }

    def _wanted(self, vpc_id: str, node: str) -> _Told:
        is_member = self._ledger.has_member(vpc_id, node)
        told = self._told.get((vpc_id, node))
        if not is_member and told is not None and not told[1]:
            return told  # It has nothing of the VPC, whatever the plan says by now.
        return self._plans[vpc_id].revision, is_member

    async def _step(self, key: str) -> None:
        vpc_id, _, node = key.partition("/")
        wanted = self._wanted(vpc_id, node)
        if self._told.get((vpc_id, node)) == wanted or node not in self._nodes.connected:
            return  # It hears of it when it is back.
        plan = self._plans[vpc_id]
        if not wanted[1]:
            plan = network_pb2.VpcPlan(vpc_id=vpc_id, revision=plan.revision, vni=plan.vni, cidr=plan.cidr)
        try:
            await self._nodes.stub(node).ApplyVpcPlan(service_pb2.ApplyVpcPlanRequest(epoch=self._epoch, plan=plan))
            self._told[vpc_id, node] = wanted
        finally:
            async with self._news:
                self._news.notify_all()
        if self._wanted(vpc_id, node) != wanted:
            self._reconciler.nudge(key)

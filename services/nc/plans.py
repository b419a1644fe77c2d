"""The latest network plan of each VPC that this node was told, kept on disk: in force again after a restart, while
every other service is down."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path

from common.ids import VpcId
from mallee.nc.v1 import network_pb2
from services.nc.drivers.base import Network
from services.nc.paths import NodePaths, write_durably


class Plans:
    """`node_address` is this node's in plans; `is_used` says whether an instance of the VPC is recorded here."""

    def __init__(
        self, paths: NodePaths, network: Network, *, node_address: str, is_used: Callable[[VpcId], bool]
    ) -> None:
        self._folder = paths.plans
        self._network = network
        self._node_address = node_address
        self._is_used = is_used
        self._plans: dict[VpcId, network_pb2.VpcPlan] = {}
        self._locks: defaultdict[VpcId, asyncio.Lock] = defaultdict(asyncio.Lock)
        # Asked for and not begun yet.
        self._again: dict[VpcId, asyncio.Future[None]] = {}

    def open(self) -> None:
        for path in self._folder.glob("vpc-*.pb"):
            self._plans[VpcId(path.stem)] = network_pb2.VpcPlan.FromString(path.read_bytes())

    async def apply(self, plan: network_pb2.VpcPlan) -> int:
        """Returns the revision in force, which is newer if `plan` is an old one."""
        vpc_id = VpcId(plan.vpc_id)
        async with self._locks[vpc_id]:
            known = self._plans.get(vpc_id)
            if known is not None and known.revision > plan.revision:
                return known.revision
            if not self._concerns_us(plan):
                await self._forget(vpc_id)
            elif known != plan:
                await asyncio.to_thread(write_durably, self._path(vpc_id), plan.SerializeToString())
                self._plans[vpc_id] = plan
            await self._network.apply_plan(plan)
            return plan.revision

    async def apply_again(self, vpc_id: VpcId) -> None:
        """The plan may have come before the interface that it is about. Whoever asks before it begins shares it."""
        if vpc_id not in self._again:
            self._again[vpc_id] = asyncio.ensure_future(self._apply_again(vpc_id))
        await asyncio.shield(self._again[vpc_id])

    async def _apply_again(self, vpc_id: VpcId) -> None:
        async with self._locks[vpc_id]:
            # An interface that is plugged from now on may be missed: it takes another.
            del self._again[vpc_id]
            if (plan := self._plans.get(vpc_id)) is not None:
                await self._network.apply_plan(plan)

    async def apply_all(self, vpcs: Collection[VpcId]) -> None:
        """After a restart. Plans of other VPCs than these are forgotten."""
        for vpc_id in list(self._plans):
            if vpc_id in vpcs:
                await self.apply_again(vpc_id)
            else:
                await self.forget(vpc_id)

    async def forget(self, vpc_id: VpcId) -> None:
        async with self._locks[vpc_id]:
            await self._forget(vpc_id)

    def get(self, vpc_id: VpcId) -> network_pb2.VpcPlan | None:
        """The latest. Not to be changed by the caller."""
        return self._plans.get(vpc_id)

    def _concerns_us(self, plan: network_pb2.VpcPlan) -> bool:
        here = any(interface.node_address == self._node_address for interface in plan.interfaces)
        return here or self._is_used(VpcId(plan.vpc_id))

    async def _forget(self, vpc_id: VpcId) -> None:
        await asyncio.to_thread(self._path(vpc_id).unlink, missing_ok=True)
        self._plans.pop(vpc_id, None)

    def _path(self, vpc_id: VpcId) -> Path:
        return self._folder / f"{vpc_id}.pb"

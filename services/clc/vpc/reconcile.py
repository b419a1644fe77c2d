"""Publishes each VPC's plan to the zones that have, or had, a member of it."""

from __future__ import annotations

import asyncio

from common.log import get_logger
from mallee.cc.v1 import service_pb2 as cc
from mallee.clc.v1 import record_pb2
from mallee.nc.v1 import network_pb2
from services.clc.instance import rules
from services.clc.use_case import Cloud
from services.clc.vpc.plan import plan_of

_log = get_logger(__name__)


class NetworkReconciler:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        # (vpc, zone) → the plan it has, its revision left out. Lost with the process: then it is simply sent again.
        self._told: dict[tuple[str, str], bytes] = {}

    def forget_zone(self, zone: str) -> None:
        """Its CC is new and knows nothing."""
        for key in [key for key in self._told if key[1] == zone]:
            del self._told[key]

    async def step(self, vpc_id: str) -> float | None:
        store = self._cloud.store
        vpc = store.get(record_pb2.VpcRecord, vpc_id)
        if vpc is None:
            return None
        account_id = vpc.record.account_id
        instances = [
            i.record
            for i in store.owned(record_pb2.InstanceRecord, account_id)
            if i.record.interface.vpc_id == vpc_id and i.record.state in rules.HOLDING
        ]
        plan = plan_of(
            vpc.record,
            revision=store.revision,
            subnets=[s.record for s in store.owned(record_pb2.SubnetRecord, account_id) if s.record.vpc_id == vpc_id],
            groups=[
                g.record for g in store.owned(record_pb2.SecurityGroupRecord, account_id) if g.record.vpc_id == vpc_id
            ],
            instances=instances,
        )
        content = _content(plan)
        zones = {i.zone for i in instances} | {zone for known, zone in self._told if known == vpc_id}
        due = [zone for zone in sorted(zones) if self._told.get((vpc_id, zone)) != content]
        async with asyncio.TaskGroup() as tasks:
            for zone in due:
                tasks.create_task(self._tell(zone, plan, content))
        return None

    async def _tell(self, zone: str, plan: network_pb2.VpcPlan, content: bytes) -> None:
        answer = await self._cloud.clusters.stub(zone).ApplyVpcPlan(cc.ApplyVpcPlanRequest(plan=plan))
        if answer.missing_nodes:
            _log.info("plan waits for nodes", vpc=plan.vpc_id, nodes=list(answer.missing_nodes))
        if plan.interfaces:
            self._told[plan.vpc_id, zone] = content
        else:
            self._told.pop((plan.vpc_id, zone), None)


def _content(plan: network_pb2.VpcPlan) -> bytes:
    bare = network_pb2.VpcPlan()
    bare.CopyFrom(plan)
    bare.revision = 0
    return bare.SerializeToString(deterministic=True)

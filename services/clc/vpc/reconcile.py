"""Publishes each VPC's plan to the zones that have, or had, a member of it, and records which nodes follow it.

What is recorded is only what users are shown as `pending` until it is in force: changed metadata options.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from common.log import get_logger
from common.reconcile import give_way
from mallee.cc.v1 import service_pb2 as cc
from mallee.clc.v1 import record_pb2
from mallee.nc.v1 import network_pb2
from services.clc.instance import rules
from services.clc.store import Changes, Conflict, Stored
from services.clc.use_case import Cloud
from services.clc.vpc.plan import PlanMaker

_log = get_logger(__name__)

# A zone whose nodes did not all follow is asked again after this long, while a change waits for one of them.
_ASK_AGAIN_S: Final = 1.0
# What changes so soon after a plan was told is told as one, for every node works on each. A large VPC rests longer, by
# what its plan took to be told, but never longer than so much for each member.
_REST_S: Final = 0.2
_RESTS: Final = 4
_MEMBER_REST_S: Final = 0.0002
# Records in one transaction.
_BATCH: Final = 50

Instance = Stored[record_pb2.InstanceRecord]


@dataclass(frozen=True, slots=True)
class _Told:
    """The plan that a zone has: its revision, and the rest of it."""

    revision: int
    content: bytes


class NetworkReconciler:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._maker = PlanMaker()
        # Ids of the instances that stand in each VPC's plan.
        self._members: defaultdict[str, set[str]] = defaultdict(set)
        # By VPC and zone. Lost with the process: then it is simply sent again.
        self._told: dict[tuple[str, str], _Told] = {}

    def heard(self, latest: record_pb2.InstanceRecord, new: record_pb2.InstanceRecord | None) -> None:
        """Of each instance at first, then of every change."""
        members = self._members[latest.interface.vpc_id]
        if new is not None and new.state in rules.HOLDING:
            members.add(latest.instance_id)
        else:
            members.discard(latest.instance_id)

    def forget_zone(self, zone: str) -> None:
        """Its CC is new and knows nothing."""
        for key in [key for key in self._told if key[1] == zone]:
            del self._told[key]

    async def step(self, vpc_id: str) -> float | None:
        began = time.perf_counter()
        store = self._cloud.store
        vpc = store.get(record_pb2.VpcRecord, vpc_id)
        if vpc is None:
            return None
        account_id = vpc.record.account_id
        found = (store.get(record_pb2.InstanceRecord, instance_id) for instance_id in self._members[vpc_id])
        # One that is not placed yet means nothing to any node.
        instances = [instance for instance in found if instance is not None and instance.record.node_address]
        zones = {i.record.zone for i in instances} | {zone for known, zone in self._told if known == vpc_id}
        if not zones:
            return None
        plan = self._maker.plan_of(
            vpc.record,
            subnets=[s.record for s in store.owned(record_pb2.SubnetRecord, account_id) if s.record.vpc_id == vpc_id],
            groups=store.owned(record_pb2.SecurityGroupRecord, account_id),
            instances=instances,
        )
        content = plan.SerializeToString(deterministic=True)
        plan.revision = store.revision
        waiting = [i for i in instances if _waits(i.record)]
        took_s = time.perf_counter() - began
        behind = [zone for zone in zones if self._is_behind(vpc_id, zone, content)]
        asked = sorted({*behind, *(i.record.zone for i in waiting)})
        told_at = time.perf_counter()
        # A zone that does not answer holds up no other.
        answers = await asyncio.gather(*(self._tell(zone, plan, content) for zone in asked), return_exceptions=True)
        telling_s = time.perf_counter() - told_at
        missing = {z: answer for z, answer in zip(asked, answers, strict=True) if not isinstance(answer, BaseException)}
        follow = [i for i in waiting if i.record.zone in missing and i.record.node not in missing[i.record.zone]]
        await self._note_applied(follow)
        if asked:
            await asyncio.sleep(max(_REST_S, min(_RESTS * telling_s, _MEMBER_REST_S * len(instances))))
        await give_way(took_s)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return _ASK_AGAIN_S if len(follow) < len(waiting) else None

    def _is_behind(self, vpc_id: str, zone: str, content: bytes) -> bool:
        told = self._told.get((vpc_id, zone))
        return told is None or told.content != content

    async def _tell(self, zone: str, plan: network_pb2.VpcPlan, content: bytes) -> set[str]:
        """The nodes that do not follow it yet."""
        told = self._told.get((plan.vpc_id, zone))
        if told is not None and told.content == content and told.revision != plan.revision:
            # Under a newer revision the nodes that follow it already would have to make it once more.
            plan, newer = network_pb2.VpcPlan(), plan
            plan.CopyFrom(newer)
            plan.revision = told.revision
        answer = await self._cloud.clusters.stub(zone).ApplyVpcPlan(cc.ApplyVpcPlanRequest(plan=plan))
        if answer.missing_nodes:
            _log.info("plan waits for nodes", vpc=plan.vpc_id, nodes=list(answer.missing_nodes))
        if plan.interfaces:
            self._told[plan.vpc_id, zone] = _Told(plan.revision, content)
        else:
            self._told.pop((plan.vpc_id, zone), None)
        return set(answer.missing_nodes)

    async def _note_applied(self, instances: Sequence[Instance]) -> None:
        for start in range(0, len(instances), _BATCH):
            changes = Changes()
            for instance in instances[start : start + _BATCH]:
                draft = instance.draft()
                draft.metadata_options.unapplied = False
                changes.update(instance, draft)
            # A record that has changed meanwhile has nudged this VPC: the pass that follows looks again.
            with contextlib.suppress(Conflict):
                await self._cloud.store.commit(changes)


def _waits(record: record_pb2.InstanceRecord) -> bool:
    """Its node is to answer by other metadata options. One that is not placed yet is placed with them."""
    return record.metadata_options.unapplied and bool(record.node) and record.state != rules.SHUTTING_DOWN

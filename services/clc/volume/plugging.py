"""Tells nodes which disks their instances should have, until they say that it is so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mallee.cc.v1 import service_pb2 as cc
from mallee.clc.v1 import record_pb2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.use_case import Cloud
from services.clc.volume.disks import is_wanted, plan_of

# A plan is sent again when the node did not say for this long that it follows it.
_REPEAT_S: Final = 5.0
_TAKES_PLANS: Final = (record_pb2.INSTANCE_STATE_PENDING, record_pb2.INSTANCE_STATE_RUNNING)
_ALIVE: Final = (nc.VM_STATE_PREPARING, nc.VM_STATE_RUNNING)
_GOING: Final = (nc.DISK_STATE_UNPLUGGING, nc.DISK_STATE_BUSY)


@dataclass(frozen=True, slots=True)
class _Sent:
    revision: int
    # The rest of the plan, and to whom.
    content: bytes
    at: float


class DiskPlans:
    """`observed`: what the nodes last said, by instance."""

    def __init__(self, cloud: Cloud, observed: Mapping[str, nc.InstanceObservation]) -> None:
        self._cloud = cloud
        self._observed = observed
        # Lost with the process: then a plan is simply sent again.
        self._sent: dict[str, _Sent] = {}

    async def step(self, instance_id: str) -> float | None:
        instance = self._cloud.store.get(record_pb2.InstanceRecord, instance_id)
        heard = self._observed.get(instance_id)
        if instance is None or heard is None or not _takes_plans(instance.record, heard):
            # It is looked at again when its node says more.
            self._sent.pop(instance_id, None)
            return None
        record, plan = instance.record, plan_of(self._cloud, instance.record)
        leaving = [v.revision for v in self._cloud.attached.of(instance_id) if not is_wanted(v.record)]
        least = max(leaving, default=0)
        if heard.disks_revision >= least and stands(plan, heard):
            self._sent.pop(instance_id, None)
            return None
        content, now = _content(record, plan), self._cloud.clock()
        sent = self._sent.get(instance_id)
        if sent is not None and sent.content == content and sent.revision >= least:
            left_s = sent.at + _REPEAT_S - now
            if 0 < left_s <= _REPEAT_S:
                return left_s
        order = cc.SetDisksRequest(instance_id=instance_id, generation=record.generation, plan=plan)
        await self._cloud.clusters.stub(record.zone).SetDisks(order)
        self._sent[instance_id] = _Sent(plan.revision, content, now)
        return _REPEAT_S


def stands(plan: nc.DiskPlan, heard: nc.InstanceObservation) -> bool:
    """The node has, or is at it, what the plan says of volumes: each with its grant and its size, and no other."""
    wanted = {disk.volume_id: disk for disk in plan.disks if disk.volume_id}
    there = {disk.volume_id: disk for disk in heard.disks}
    if any(disk.state not in _GOING for volume_id, disk in there.items() if volume_id not in wanted):
        return False
    return all(volume_id in there and _follows(there[volume_id], disk) for volume_id, disk in wanted.items())


def _follows(there: nc.DiskObservation, wanted: nc.Disk) -> bool:
    match there.state:
        case nc.DISK_STATE_PLUGGING:
            return there.grant_generation == wanted.grant_generation
        case nc.DISK_STATE_PLUGGED:
            return there.grant_generation == wanted.grant_generation and there.size_bytes >= wanted.size_bytes
        case _:
            # One that failed is tried again under a newer plan.
            return False


def _takes_plans(record: record_pb2.InstanceRecord, heard: nc.InstanceObservation) -> bool:
    if record.state not in _TAKES_PLANS or not record.node or heard.generation != record.generation:
        return False
    # Until it told of a disk, or of a plan, the one that it was launched with is on its way. From then on it hears of
    # another: a launch that waits with a grant that is over would wait in vain.
    told = bool(heard.disks) or heard.disks_revision > 0 or record.state == record_pb2.INSTANCE_STATE_RUNNING
    return heard.state in _ALIVE and told


def _content(record: record_pb2.InstanceRecord, plan: nc.DiskPlan) -> bytes:
    plan = nc.DiskPlan(disks=plan.disks, forced_volume_ids=plan.forced_volume_ids)
    return f"{record.node}/{record.generation}/".encode() + plan.SerializeToString(deterministic=True)

"""DescribeInstanceStatus: the system check is of the node, the instance check of the guest on it.

A node whose lease ended is impaired, and nobody can say how its instances are; while no cluster controller speaks for
the zone, nothing is known of either. A guest is asked by ARP whether it is there, as EC2 does, at the moment of the
call: it is initializing until it first answers, for as long as a boot may take. (EC2 User Guide, "Status checks for
Amazon EC2 instances".)
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from common.errors import CloudError
from mallee.cc.v1 import service_pb2 as cc
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from mallee.nc.v1 import service_pb2 as nc
from services.clc.clock import timestamp
from services.clc.filters import FilterTable
from services.clc.instance import rules
from services.clc.instance.view import state_of
from services.clc.listing import matching, max_results_of
from services.clc.lookup import INSTANCE, own_all
from services.clc.paging import after_of, page, refuse_pages_of_named
from services.clc.region.describe import zone_id
from services.clc.store import Stored, place_of
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

# What the check `reachability` says for each status.
_REACHABILITY: Final = {
    "ok": "passed",
    "impaired": "failed",
    "initializing": "initializing",
    "insufficient-data": "insufficient-data",
}

# A guest that has not answered after so long is not booting any more.
_BOOT_S: Final = 300.0
_CHECKS_AT_ONCE: Final = 1000

Pair = tuple[Stored[record_pb2.InstanceRecord], ec2.InstanceStatus]

_FILTERS = FilterTable[ec2.InstanceStatus](
    "ec2.DescribeInstanceStatus",
    {
        "availability-zone": lambda s: s.availability_zone,
        "availability-zone-id": lambda s: s.availability_zone_id,
        "event.code": lambda s: [e.code for e in s.events],
        "event.description": lambda s: [e.description for e in s.events],
        "event.instance-event-id": lambda s: [e.instance_event_id for e in s.events],
        "instance-state-code": lambda s: s.instance_state.code,
        "instance-state-name": lambda s: s.instance_state.name,
        "instance-status.reachability": lambda s: [d.status for d in s.instance_status.details],
        "instance-status.status": lambda s: s.instance_status.status,
        "system-status.reachability": lambda s: [d.status for d in s.system_status.details],
        "system-status.status": lambda s: s.system_status.status,
    },
    absent=(
        *(f"event.{of}" for of in ("not-after", "not-before", "not-before-deadline")),
        "operator.managed",
        "operator.principal",
        "application-status.status",
        "attached-ebs-status.status",
    ),
)
# Those for which guests have to be asked before it is known which are meant.
_OF_GUESTS: Final = frozenset({"instance-status.reachability", "instance-status.status"})


@use_case("ec2.DescribeInstanceStatus")
async def describe_instance_status(
    cloud: Cloud, call: Call, request: ec2.DescribeInstanceStatusRequest
) -> ec2.DescribeInstanceStatusResult:
    _FILTERS.matcher(request.filters)
    of_guests = [f for f in request.filters if f.name in _OF_GUESTS]
    matches = _FILTERS.matcher([f for f in request.filters if f.name not in _OF_GUESTS])
    limit = max_results_of(request)
    refuse_pages_of_named(request, request.instance_ids, "instancesSet")
    not_running_too = request.include_all_instances
    end_dry_run(request)
    after = after_of(request)
    found: Iterable[Stored[record_pb2.InstanceRecord]]
    if request.instance_ids:
        found = sorted(own_all(cloud.store, INSTANCE, call.account_id, request.instance_ids), key=place_of)
    else:
        found = cloud.store.in_order(record_pb2.InstanceRecord, call.account_id, after=after)
    views = (
        (instance, _view(cloud, instance.record))
        for instance in found
        if not_running_too or instance.record.state == rules.RUNNING
    )
    pairs: Iterable[Pair] = matching(views, matches)
    if of_guests:
        pairs = list(pairs)
        await _ask_guests(cloud, call, pairs)
        pairs = matching(pairs, _FILTERS.matcher(of_guests))
    shown, token = page(pairs, key=lambda p: place_of(p[0]), max_results=limit, request=request)
    if not of_guests:
        await _ask_guests(cloud, call, shown)
    return ec2.DescribeInstanceStatusResult(instance_statuses=[view for _, view in shown], next_token=token)


def _view(cloud: Cloud, record: record_pb2.InstanceRecord) -> ec2.InstanceStatus:
    system = system_check(record.state, cloud.clusters.alive(record.zone, record.node))
    lost = cloud.clusters.lost_since(record.zone, record.node)
    return ec2.InstanceStatus(
        instance_id=record.instance_id,
        instance_state=state_of(record.state),
        availability_zone=record.zone,
        availability_zone_id=zone_id(cloud, record.zone),
        system_status=_summary(system, since=lost),
        # Of a node that is well its guest is asked; of any other nobody knows.
        instance_status=_summary("insufficient-data" if system in ("ok", "impaired") else system),
    )


async def _ask_guests(cloud: Cloud, call: Call, pairs: Iterable[Pair]) -> None:
    """Fills in how they are, as far as anybody says so."""
    by_zone: defaultdict[str, list[Pair]] = defaultdict(list)
    for instance, view in pairs:
        if view.system_status.status == "ok":
            by_zone[instance.record.zone].append((instance, view))

    async def ask(zone: str, some: list[Pair]) -> None:
        order = cc.CheckInstancesRequest(instance_ids=[view.instance_id for _, view in some])
        try:
            answer = await cloud.clusters.stub(zone).CheckInstances(order)
        except CloudError:
            return
        checks = {check.instance_id: check for check in answer.checks}
        for instance, view in some:
            launched = instance.record.launch_time.ToSeconds()
            if (check := checks.get(view.instance_id)) is not None:
                status = guest_check(check.state, call.now - launched)
                awaited = check.state == nc.CHECK_STATE_AWAITED
                since = max(check.silent_since_ms / 1000, launched + _BOOT_S if awaited else 0)
                view.instance_status.CopyFrom(_summary(status, since=since))

    async with asyncio.TaskGroup() as tasks:
        for zone, members in by_zone.items():
            for start in range(0, len(members), _CHECKS_AT_ONCE):
                tasks.create_task(ask(zone, members[start : start + _CHECKS_AT_ONCE]))


def system_check(state: int, node_alive: bool | None) -> str:
    """`node_alive`: None while nobody says so."""
    if state == rules.PENDING:
        return "initializing"
    if state != rules.RUNNING:
        return "not-applicable"
    match node_alive:
        case True:
            return "ok"
        case False:
            return "impaired"
    return "insufficient-data"


def guest_check(state: nc.CheckState.ValueType, age_s: float) -> str:
    match state:
        case nc.CHECK_STATE_PASSED:
            return "ok"
        case nc.CHECK_STATE_AWAITED if age_s < _BOOT_S:
            return "initializing"
    return "impaired"


def _summary(status: str, *, since: float | None = None) -> ec2.InstanceStatusSummary:
    """`since`: when it began to be impaired, if it is."""
    summary = ec2.InstanceStatusSummary(status=status)
    if status in _REACHABILITY:
        impaired_since = timestamp(since) if status == "impaired" and since else None
        summary.details.add(name="reachability", status=_REACHABILITY[status], impaired_since=impaired_since)
    return summary

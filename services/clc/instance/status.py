"""DescribeInstanceStatus: the system check is of the node, the instance check of the instance on it.

A node whose lease ended is impaired, and nobody can say how its instances are; while no cluster controller speaks for
the zone, nothing is known of either. (EC2 User Guide, "Status checks for Amazon EC2 instances".)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from common.errors import InvalidArgument
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from services.clc.filters import FilterTable
from services.clc.instance import rules
from services.clc.instance.view import state_of
from services.clc.lookup import INSTANCE, own_all
from services.clc.paging import decode_token, page
from services.clc.region.describe import zone_id
from services.clc.store import Stored, place_of
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.vpc.describe import matching, max_results_of

# What the check `reachability` says for each status.
_REACHABILITY: Final = {
    "ok": "passed",
    "impaired": "failed",
    "initializing": "initializing",
    "insufficient-data": "insufficient-data",
}

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
)


@use_case("ec2.DescribeInstanceStatus")
async def describe_instance_status(
    cloud: Cloud, call: Call, request: ec2.DescribeInstanceStatusRequest
) -> ec2.DescribeInstanceStatusResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request)
    if limit is not None and request.instance_ids:
        raise InvalidArgument(
            "The parameter instancesSet cannot be used with the parameter maxResults",
            code="InvalidParameterCombination",
        )
    not_running_too = request.include_all_instances
    end_dry_run(request)
    after = decode_token(request.next_token) if request.next_token else ""
    found: Iterable[Stored[record_pb2.InstanceRecord]]
    if request.instance_ids:
        found = sorted(own_all(cloud.store, INSTANCE, call.account_id, request.instance_ids), key=place_of)
    else:
        found = cloud.store.in_order(record_pb2.InstanceRecord, call.account_id, after=after)
    pairs = (
        (instance, _view(cloud, instance.record))
        for instance in found
        if not_running_too or instance.record.state == rules.RUNNING
    )
    shown, token = page(
        matching(pairs, matches), key=lambda p: place_of(p[0]), max_results=limit, token=request.next_token
    )
    return ec2.DescribeInstanceStatusResult(instance_statuses=[view for _, view in shown], next_token=token)


def _view(cloud: Cloud, record: record_pb2.InstanceRecord) -> ec2.InstanceStatus:
    system, instance = checks(record.state, cloud.clusters.alive(record.zone, record.node))
    return ec2.InstanceStatus(
        instance_id=record.instance_id,
        instance_state=state_of(record.state),
        availability_zone=record.zone,
        availability_zone_id=zone_id(cloud, record.zone),
        system_status=_summary(system),
        instance_status=_summary(instance),
    )


def checks(state: int, node_alive: bool | None) -> tuple[str, str]:
    """Status of the system and of the instance. `node_alive`: None while nobody says so."""
    if state == rules.PENDING:
        return "initializing", "initializing"
    if state != rules.RUNNING:
        return "not-applicable", "not-applicable"
    match node_alive:
        case True:
            return "ok", "ok"
        case False:
            return "impaired", "insufficient-data"
    return "insufficient-data", "insufficient-data"


def _summary(status: str) -> ec2.InstanceStatusSummary:
    summary = ec2.InstanceStatusSummary(status=status)
    if status in _REACHABILITY:
        summary.details.add(name="reachability", status=_REACHABILITY[status])
    return summary

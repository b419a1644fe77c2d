"""StartInstances and StopInstances: an instance whose root device is an instance store can do neither."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import InvalidArgument, Unsupported, WrongState
from mallee.ec2.v1 import instance_pb2 as ec2
from services.clc.instance import rules
from services.clc.lookup import INSTANCE, own_all
from services.clc.use_case import Call, Cloud, use_case


@use_case("ec2.StartInstances")
async def start_instances(cloud: Cloud, call: Call, request: ec2.StartInstancesRequest) -> ec2.StartInstancesResult:
    raise _refusal(cloud, call, request.instance_ids, "started")


@use_case("ec2.StopInstances")
async def stop_instances(cloud: Cloud, call: Call, request: ec2.StopInstancesRequest) -> ec2.StopInstancesResult:
    raise _refusal(cloud, call, request.instance_ids, "stopped")


def _refusal(cloud: Cloud, call: Call, instance_ids: Sequence[str], verb: str) -> WrongState | Unsupported:
    """A dry run is told the same: the request would not have succeeded."""
    if not instance_ids:
        raise InvalidArgument("The request must contain the parameter InstanceId", code="MissingParameter")
    first = own_all(cloud.store, INSTANCE, call.account_id, instance_ids)[0].record
    if first.state not in (rules.PENDING, rules.RUNNING):
        return WrongState(
            f"The instance '{first.instance_id}' is not in a state from which it can be {verb}.",
            code="IncorrectInstanceState",
        )
    return Unsupported(
        f"The instance '{first.instance_id}' does not have an 'ebs' root device type and cannot be {verb}."
    )

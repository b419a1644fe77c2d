"""MonitorInstances and UnmonitorInstances: all of a call, or none."""

from __future__ import annotations

from common.errors import InvalidArgument, WrongState
from mallee.ec2.v1 import instance_pb2 as ec2
from services.clc.instance import rules
from services.clc.lookup import INSTANCE, own_all
from services.clc.store import Changes, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

Request = ec2.MonitorInstancesRequest | ec2.UnmonitorInstancesRequest


@use_case("ec2.MonitorInstances")
async def monitor_instances(
    cloud: Cloud, call: Call, request: ec2.MonitorInstancesRequest
) -> ec2.MonitorInstancesResult:
    return ec2.MonitorInstancesResult(instance_monitorings=await _set(cloud, call, request, detailed=True))


@use_case("ec2.UnmonitorInstances")
async def unmonitor_instances(
    cloud: Cloud, call: Call, request: ec2.UnmonitorInstancesRequest
) -> ec2.UnmonitorInstancesResult:
    return ec2.UnmonitorInstancesResult(instance_monitorings=await _set(cloud, call, request, detailed=False))


async def _set(cloud: Cloud, call: Call, request: Request, *, detailed: bool) -> list[ec2.InstanceMonitoring]:
    if not request.instance_ids:
        raise InvalidArgument("No instances specified", code="InvalidParameterCombination")

    async def attempt() -> list[ec2.InstanceMonitoring]:
        instances = own_all(cloud.store, INSTANCE, call.account_id, request.instance_ids)
        changes = Changes()
        for instance in instances:
            if instance.record.state not in (rules.PENDING, rules.RUNNING):
                raise WrongState(
                    f"The instance '{instance.record.instance_id}' is not in a state in which it can be monitored.",
                    code="IncorrectInstanceState",
                )
            draft = instance.draft()
            draft.detailed_monitoring = detailed
            if draft != instance.record:
                changes.update(instance, draft)
        end_dry_run(request)
        if changes:
            await cloud.store.commit(changes)
        state = ec2.Monitoring(state="enabled" if detailed else "disabled")
        return [ec2.InstanceMonitoring(instance_id=i.record.instance_id, monitoring=state) for i in instances]

    return await until_committed(attempt)

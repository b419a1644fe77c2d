"""RebootInstances: passed on to the instances' zones."""

from __future__ import annotations

from common.background import all_of
from common.errors import InvalidArgument, WrongState
from mallee.cc.v1 import service_pb2 as cc
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from services.clc.instance import rules
from services.clc.lookup import INSTANCE, own_all
from services.clc.use_case import Call, Cloud, end_dry_run, use_case


@use_case("ec2.RebootInstances")
async def reboot_instances(
    cloud: Cloud, call: Call, request: ec2.RebootInstancesRequest
) -> ec2.RebootInstancesResponse:
    if not request.instance_ids:
        raise InvalidArgument("No instances specified", code="InvalidParameterCombination")
    instances = own_all(cloud.store, INSTANCE, call.account_id, request.instance_ids)
    for instance in instances:
        if instance.record.state != rules.RUNNING:
            raise WrongState(
                f"The instance '{instance.record.instance_id}' is not in a state from which it can be rebooted.",
                code="IncorrectState",
            )
    end_dry_run(request)
    await all_of(*(reboot(cloud, instance.record) for instance in instances))
    return ec2.RebootInstancesResponse()


async def reboot(cloud: Cloud, record: record_pb2.InstanceRecord) -> None:
    await cloud.clusters.stub(record.zone).RebootInstance(cc.RebootInstanceRequest(instance_id=record.instance_id))

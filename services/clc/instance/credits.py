"""DescribeInstanceCreditSpecifications: no type of this cloud bursts on CPU credits."""

from __future__ import annotations

from common.errors import Unsupported
from mallee.ec2.v1 import instance_pb2 as ec2
from services.clc.filters import FilterTable
from services.clc.lookup import INSTANCE, own_all
from services.clc.paging import page
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.vpc.describe import max_results_of

_FILTERS = FilterTable[ec2.InstanceCreditSpecification](
    "ec2.DescribeInstanceCreditSpecifications", {"instance-id": lambda s: s.instance_id}
)


@use_case("ec2.DescribeInstanceCreditSpecifications")
async def describe_instance_credit_specifications(
    cloud: Cloud, call: Call, request: ec2.DescribeInstanceCreditSpecificationsRequest
) -> ec2.DescribeInstanceCreditSpecificationsResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request)
    end_dry_run(request)
    for instance in own_all(cloud.store, INSTANCE, call.account_id, request.instance_ids):
        raise Unsupported(
            f"The instance '{instance.record.instance_id}' has no CPU credits: its type,"
            f" {instance.record.shape.instance_type}, has its CPUs all the time."
        )
    there: list[ec2.InstanceCreditSpecification] = []
    shown, token = page(filter(matches, there), key=lambda s: s.instance_id, max_results=limit, request=request)
    return ec2.DescribeInstanceCreditSpecificationsResult(instance_credit_specifications=shown, next_token=token)

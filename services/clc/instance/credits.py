"""CPU credits: a type that its operator calls t2.micro has its CPUs all the time, as AWS's own has in unlimited mode.
Other types know no credits. (EC2 User Guide, "Burstable performance instances".)"""

from __future__ import annotations

import re
from typing import Final

from common.errors import InvalidArgument, Unsupported
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from services.clc.filters import FilterTable
from services.clc.instance import rules
from services.clc.listing import matching, max_results_of
from services.clc.lookup import INSTANCE, own_all
from services.clc.paging import page, refuse_pages_of_named
from services.clc.store import Stored, place_of
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_FAMILY: Final = re.compile(r"t\d")

_FILTERS = FilterTable[ec2.InstanceCreditSpecification](
    "ec2.DescribeInstanceCreditSpecifications", {"instance-id": lambda s: s.instance_id}
)


def is_burstable(instance_type: str) -> bool:
    return _FAMILY.match(instance_type) is not None


def check_credits(request: ec2.RunInstancesRequest, instance_type: str) -> None:
    """Of the one mode that there is. Raises InvalidArgument."""
    if request.credit_specification.cpu_credits and not is_burstable(instance_type):
        raise InvalidArgument(
            f"The creditSpecification.cpuCredits parameter is not supported with the instance type {instance_type}",
            code="InvalidParameterCombination",
        )


@use_case("ec2.DescribeInstanceCreditSpecifications")
async def describe_instance_credit_specifications(
    cloud: Cloud, call: Call, request: ec2.DescribeInstanceCreditSpecificationsRequest
) -> ec2.DescribeInstanceCreditSpecificationsResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request)
    refuse_pages_of_named(request, request.instance_ids, "instancesSet")
    end_dry_run(request)
    named = own_all(cloud.store, INSTANCE, call.account_id, request.instance_ids)
    for instance in named:
        if not is_burstable(kind := instance.record.shape.instance_type):
            raise Unsupported(f"The instance '{instance.record.instance_id}' has no CPU credits: its type is {kind}.")
    found = sorted(named, key=place_of) or cloud.store.in_order(record_pb2.InstanceRecord, call.account_id)
    shown, token = page(
        matching(((instance, _view(instance)) for instance in found if _has_credits(instance)), matches),
        key=lambda pair: place_of(pair[0]),
        max_results=limit,
        request=request,
    )
    return ec2.DescribeInstanceCreditSpecificationsResult(
        instance_credit_specifications=[view for _, view in shown], next_token=token
    )


def _has_credits(instance: Stored[record_pb2.InstanceRecord]) -> bool:
    return is_burstable(instance.record.shape.instance_type) and instance.record.state != rules.TERMINATED


def _view(instance: Stored[record_pb2.InstanceRecord]) -> ec2.InstanceCreditSpecification:
    return ec2.InstanceCreditSpecification(instance_id=instance.record.instance_id, cpu_credits="unlimited")

"""DescribeAccountAttributes: what holds for the caller's account."""

from __future__ import annotations

from mallee.ec2.v1 import account_attribute_pb2 as ec2
from services.clc import attribute as attribute_errors
from services.clc.instance.request import MAX_COUNT
from services.clc.security_group.groups import MAX_GROUPS
from services.clc.use_case import Call, Cloud, end_dry_run, use_case


@use_case("ec2.DescribeAccountAttributes")
async def describe_account_attributes(
    cloud: Cloud, call: Call, request: ec2.DescribeAccountAttributesRequest
) -> ec2.DescribeAccountAttributesResult:
    known = {
        "supported-platforms": "VPC",
        "default-vpc": cloud.store.holder(f"default-vpc/{call.account_id}") or "none",
        "max-elastic-ips": str(cloud.config.clc.addresses_per_account),
        "vpc-max-elastic-ips": str(cloud.config.clc.addresses_per_account),
        "vpc-max-security-groups-per-interface": str(MAX_GROUPS),
        "max-instances": str(_max_instances(cloud)),
    }
    for name in request.attribute_names:
        if name not in known:
            raise attribute_errors.unknown(name, parameter="attributeName")
    end_dry_run(request)
    return ec2.DescribeAccountAttributesResult(
        account_attributes=[
            ec2.AccountAttribute(
                attribute_name=name, attribute_values=[ec2.AccountAttributeValue(attribute_value=value)]
            )
            for name, value in known.items()
            if not request.attribute_names or name in request.attribute_names
        ]
    )


def _max_instances(cloud: Cloud) -> int:
    """Of the smallest type, where the vCPUs of an account are limited; else those of one request: room decides."""
    vcpus = cloud.config.clc.vcpus_per_account
    return vcpus // min(kind.vcpus for kind in cloud.config.instance_types) if vcpus else MAX_COUNT

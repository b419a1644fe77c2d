"""DescribeVpcAttribute and DescribeDhcpOptions: how names are found in a VPC."""

from __future__ import annotations

from common.errors import InvalidArgument
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import dhcp_options_pb2, image_pb2, vpc_pb2
from services.clc import attribute as attribute_errors
from services.clc.filters import FilterTable
from services.clc.listing import max_results_of
from services.clc.lookup import VPC, own
from services.clc.tag.view import as_mapping, shown
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.vpc.parts import OPTIONS, page_of_parts, select_parts

_FILTERS = FilterTable[dhcp_options_pb2.DhcpOptions](
    "ec2.DescribeDhcpOptions",
    {
        "dhcp-options-id": lambda d: d.dhcp_options_id,
        "key": lambda d: [c.key for c in d.dhcp_configurations],
        "owner-id": lambda d: d.owner_id,
        "value": lambda d: [v.value for c in d.dhcp_configurations for v in c.values],
    },
    tags=lambda d: as_mapping(d.tags),
)


@use_case("ec2.DescribeVpcAttribute")
async def describe_vpc_attribute(
    cloud: Cloud, call: Call, request: vpc_pb2.DescribeVpcAttributeRequest
) -> vpc_pb2.DescribeVpcAttributeResult:
    vpc = own(cloud.store, VPC, call.account_id, request.vpc_id)
    answer = vpc_pb2.DescribeVpcAttributeResult(vpc_id=vpc.record.vpc_id)
    match request.attribute:
        case "enableDnsSupport":
            answer.enable_dns_support.value = True
        case "enableDnsHostnames":
            # Public names that nothing outside this cloud could resolve are not given.
            answer.enable_dns_hostnames.value = False
        case "enableNetworkAddressUsageMetrics":
            answer.enable_network_address_usage_metrics.value = False
        case "":
            raise InvalidArgument("The request must contain the parameter attribute", code="MissingParameter")
        case other:
            raise attribute_errors.unknown(other)
    end_dry_run(request)
    return answer


@use_case("ec2.DescribeDhcpOptions")
async def describe_dhcp_options(
    cloud: Cloud, call: Call, request: dhcp_options_pb2.DescribeDhcpOptionsRequest
) -> dhcp_options_pb2.DescribeDhcpOptionsResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request)
    end_dry_run(request)
    vpcs = select_parts(cloud.store, call.account_id, OPTIONS, request.dhcp_options_ids)
    options, token = page_of_parts(vpcs, lambda vpc: _view(cloud, vpc), matches, max_results=limit, request=request)
    return dhcp_options_pb2.DescribeDhcpOptionsResult(dhcp_options=options, next_token=token)


def internal_domain(region: str) -> str:
    """Of private DNS names. (VPC User Guide, "DNS attributes for your VPC".)"""
    return "ec2.internal" if region == "us-east-1" else f"{region}.compute.internal"


def _view(cloud: Cloud, vpc: record_pb2.VpcRecord) -> dhcp_options_pb2.DhcpOptions:
    given = {"domain-name": internal_domain(cloud.config.region), "domain-name-servers": "AmazonProvidedDNS"}
    return dhcp_options_pb2.DhcpOptions(
        dhcp_options_id=OPTIONS.id_of(vpc),
        owner_id=vpc.account_id,
        dhcp_configurations=[
            dhcp_options_pb2.DhcpConfiguration(key=key, values=[image_pb2.AttributeValue(value=value)])
            for key, value in given.items()
        ],
        tags=shown(vpc.dhcp_options_tags),
    )

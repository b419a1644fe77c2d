"""DescribeInternetGateways: the gateway that a default VPC comes with."""

from __future__ import annotations

from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import internet_gateway_pb2 as ec2
from services.clc.filters import FilterTable
from services.clc.listing import max_results_of
from services.clc.tag.view import as_mapping, shown
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.vpc.parts import DEFAULT_GATEWAY, page_of_parts, select_parts

_FILTERS = FilterTable[ec2.InternetGateway](
    "ec2.DescribeInternetGateways",
    {
        "attachment.state": lambda g: [a.state for a in g.attachments],
        "attachment.vpc-id": lambda g: [a.vpc_id for a in g.attachments],
        "internet-gateway-id": lambda g: g.internet_gateway_id,
        "owner-id": lambda g: g.owner_id,
    },
    tags=lambda g: as_mapping(g.tags),
)


@use_case("ec2.DescribeInternetGateways")
async def describe_internet_gateways(
    cloud: Cloud, call: Call, request: ec2.DescribeInternetGatewaysRequest
) -> ec2.DescribeInternetGatewaysResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request)
    end_dry_run(request)
    vpcs = select_parts(cloud.store, call.account_id, DEFAULT_GATEWAY, request.internet_gateway_ids)
    gateways, token = page_of_parts(vpcs, _view, matches, max_results=limit, request=request)
    return ec2.DescribeInternetGatewaysResult(internet_gateways=gateways, next_token=token)


def _view(vpc: record_pb2.VpcRecord) -> ec2.InternetGateway:
    return ec2.InternetGateway(
        internet_gateway_id=DEFAULT_GATEWAY.id_of(vpc),
        owner_id=vpc.account_id,
        # An attachment of an internet gateway is `available`, not `attached`.
        attachments=[ec2.InternetGatewayAttachment(state="available", vpc_id=vpc.vpc_id)],
        tags=shown(vpc.internet_gateway_tags),
    )

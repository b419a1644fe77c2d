"""DescribeRouteTables: a VPC's main route table, which all its subnets follow."""

from __future__ import annotations

from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import route_table_pb2 as ec2
from services.clc.filters import FilterTable
from services.clc.listing import max_results_of
from services.clc.tag.view import as_mapping, shown
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.vpc.parts import DEFAULT_GATEWAY, MAIN_ROUTE_TABLE, page_of_parts, select_parts, twin_id

_FILTERS = FilterTable[ec2.RouteTable](
    "ec2.DescribeRouteTables",
    {
        "association.gateway-id": lambda t: [a.gateway_id for a in t.associations if a.gateway_id],
        "association.main": lambda t: ["true" if a.main else "false" for a in t.associations],
        "association.route-table-association-id": lambda t: [a.route_table_association_id for a in t.associations],
        "association.route-table-id": lambda t: [a.route_table_id for a in t.associations],
        "association.subnet-id": lambda t: [a.subnet_id for a in t.associations if a.subnet_id],
        "owner-id": lambda t: t.owner_id,
        "route-table-id": lambda t: t.route_table_id,
        "route.destination-cidr-block": lambda t: [r.destination_cidr_block for r in t.routes],
        "route.gateway-id": lambda t: [r.gateway_id for r in t.routes],
        "route.origin": lambda t: [r.origin for r in t.routes],
        "route.state": lambda t: [r.state for r in t.routes],
        "vpc-id": lambda t: t.vpc_id,
    },
    tags=lambda t: as_mapping(t.tags),
    absent=(
        "route.destination-ipv6-cidr-block",
        "route.destination-prefix-list-id",
        "route.egress-only-internet-gateway-id",
        "route.instance-id",
        "route.nat-gateway-id",
        "route.transit-gateway-id",
        "route.vpc-peering-connection-id",
    ),
)


@use_case("ec2.DescribeRouteTables")
async def describe_route_tables(
    cloud: Cloud, call: Call, request: ec2.DescribeRouteTablesRequest
) -> ec2.DescribeRouteTablesResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request, high=100)
    end_dry_run(request)
    vpcs = select_parts(cloud.store, call.account_id, MAIN_ROUTE_TABLE, request.route_table_ids)
    tables, token = page_of_parts(vpcs, _view, matches, max_results=limit, request=request)
    return ec2.DescribeRouteTablesResult(route_tables=tables, next_token=token)


def _view(vpc: record_pb2.VpcRecord) -> ec2.RouteTable:
    table_id = MAIN_ROUTE_TABLE.id_of(vpc)
    return ec2.RouteTable(
        route_table_id=table_id,
        vpc_id=vpc.vpc_id,
        owner_id=vpc.account_id,
        associations=[
            ec2.RouteTableAssociation(
                main=True,
                route_table_association_id=twin_id("rtbassoc", vpc.vpc_id),
                route_table_id=table_id,
                association_state=ec2.RouteTableAssociationState(state="associated"),
            )
        ],
        routes=[
            ec2.Route(destination_cidr_block=vpc.cidr, gateway_id="local", origin="CreateRouteTable", state="active"),
            ec2.Route(
                destination_cidr_block="0.0.0.0/0",
                gateway_id=DEFAULT_GATEWAY.id_of(vpc),
                origin="CreateRoute",
                state="active",
            ),
        ],
        tags=shown(vpc.route_table_tags),
    )

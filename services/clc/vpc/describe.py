"""DescribeVpcs and DescribeSubnets."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import subnet_pb2, vpc_pb2
from services.clc.filters import FilterTable
from services.clc.listing import max_results_of, select, shown_page
from services.clc.lookup import SUBNET, VPC
from services.clc.region.describe import zone_id
from services.clc.tag.view import as_mapping, shown
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

R = TypeVar("R", bound=Message)
M = TypeVar("M")

_VPC_FILTERS = FilterTable[vpc_pb2.Vpc](
    "ec2.DescribeVpcs",
    {
        "cidr": lambda v: v.cidr_block,
        "cidr-block": lambda v: v.cidr_block,
        "cidrBlock": lambda v: v.cidr_block,
        "cidr-block-association.association-id": lambda v: [a.association_id for a in v.cidr_block_association_set],
        "cidr-block-association.cidr-block": lambda v: [a.cidr_block for a in v.cidr_block_association_set],
        "cidr-block-association.state": lambda v: [a.cidr_block_state.state for a in v.cidr_block_association_set],
        "dhcp-options-id": lambda v: v.dhcp_options_id,
        "dhcpOptionsId": lambda v: v.dhcp_options_id,
        "is-default": lambda v: v.is_default,
        "isDefault": lambda v: v.is_default,
        "owner-id": lambda v: v.owner_id,
        "state": lambda v: v.state,
        "vpc-id": lambda v: v.vpc_id,
    },
    tags=lambda v: as_mapping(v.tags),
    absent=(
        "ipv6-cidr-block-association.association-id",
        "ipv6-cidr-block-association.ipv6-cidr-block",
        "ipv6-cidr-block-association.ipv6-pool",
        "ipv6-cidr-block-association.state",
    ),
)
_SUBNET_FILTERS = FilterTable[subnet_pb2.Subnet](
    "ec2.DescribeSubnets",
    {
        "availability-zone": lambda s: s.availability_zone,
        "availabilityZone": lambda s: s.availability_zone,
        "availability-zone-id": lambda s: s.availability_zone_id,
        "availabilityZoneId": lambda s: s.availability_zone_id,
        "available-ip-address-count": lambda s: s.available_ip_address_count,
        "cidr": lambda s: s.cidr_block,
        "cidr-block": lambda s: s.cidr_block,
        "cidrBlock": lambda s: s.cidr_block,
        "default-for-az": lambda s: s.default_for_az,
        "defaultForAz": lambda s: s.default_for_az,
        "enable-dns64": lambda s: s.enable_dns64,
        "ipv6-native": lambda s: s.ipv6_native,
        "map-customer-owned-ip-on-launch": lambda s: s.map_customer_owned_ip_on_launch,
        "map-public-ip-on-launch": lambda s: s.map_public_ip_on_launch,
        "owner-id": lambda s: s.owner_id,
        "private-dns-name-options-on-launch.enable-resource-name-dns-a-record": lambda s: (
            s.private_dns_name_options_on_launch.enable_resource_name_dns_a_record
        ),
        "private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record": lambda s: (
            s.private_dns_name_options_on_launch.enable_resource_name_dns_aaaa_record
        ),
        "private-dns-name-options-on-launch.hostname-type": lambda s: (
            s.private_dns_name_options_on_launch.hostname_type
        ),
        "state": lambda s: s.state,
        "subnet-arn": lambda s: s.subnet_arn,
        "subnet-id": lambda s: s.subnet_id,
        "vpc-id": lambda s: s.vpc_id,
    },
    tags=lambda s: as_mapping(s.tags),
    absent=(
        "customer-owned-ipv4-pool",
        "enable-lni-at-device-index",
        "ipv6-cidr-block-association.association-id",
        "ipv6-cidr-block-association.ipv6-cidr-block",
        "ipv6-cidr-block-association.state",
        "outpost-arn",
    ),
)


@use_case("ec2.DescribeVpcs")
async def describe_vpcs(cloud: Cloud, call: Call, request: vpc_pb2.DescribeVpcsRequest) -> vpc_pb2.DescribeVpcsResult:
    matches, limit = _VPC_FILTERS.matcher(request.filters), max_results_of(request)
    end_dry_run(request)
    pairs = ((vpc, vpc_view(vpc.record)) for vpc in select(cloud, call, VPC, request.vpc_ids))
    views, token = shown_page(pairs, matches, request=request, limit=limit)
    return vpc_pb2.DescribeVpcsResult(vpcs=views, next_token=token)


@use_case("ec2.DescribeSubnets")
async def describe_subnets(
    cloud: Cloud, call: Call, request: subnet_pb2.DescribeSubnetsRequest
) -> subnet_pb2.DescribeSubnetsResult:
    matches, limit = _SUBNET_FILTERS.matcher(request.filters), max_results_of(request)
    end_dry_run(request)
    pairs = ((subnet, subnet_view(cloud, subnet.record)) for subnet in select(cloud, call, SUBNET, request.subnet_ids))
    views, token = shown_page(pairs, matches, request=request, limit=limit)
    return subnet_pb2.DescribeSubnetsResult(subnets=views, next_token=token)


def vpc_view(vpc: record_pb2.VpcRecord) -> vpc_pb2.Vpc:
    return vpc_pb2.Vpc(
        vpc_id=vpc.vpc_id,
        owner_id=vpc.account_id,
        cidr_block=vpc.cidr,
        is_default=vpc.is_default,
        instance_tenancy="default",
        state="available",
        dhcp_options_id=vpc.dhcp_options_id,
        cidr_block_association_set=[
            vpc_pb2.VpcCidrBlockAssociation(
                association_id=vpc.vpc_id.replace("vpc-", "vpc-cidr-assoc-"),
                cidr_block=vpc.cidr,
                cidr_block_state=vpc_pb2.VpcCidrBlockState(state="associated"),
            )
        ],
        tags=shown(vpc.tags),
    )


def subnet_view(cloud: Cloud, subnet: record_pb2.SubnetRecord) -> subnet_pb2.Subnet:
    region, owner = cloud.config.region, subnet.account_id
    return subnet_pb2.Subnet(
        subnet_id=subnet.subnet_id,
        subnet_arn=f"arn:aws:ec2:{region}:{owner}:subnet/{subnet.subnet_id}",
        owner_id=owner,
        vpc_id=subnet.vpc_id,
        cidr_block=subnet.cidr,
        state="available",
        availability_zone=subnet.zone,
        availability_zone_id=zone_id(cloud, subnet.zone),
        available_ip_address_count=cloud.addresses.free_private(subnet),
        default_for_az=subnet.default_for_az,
        map_public_ip_on_launch=subnet.map_public_ip_on_launch,
        map_customer_owned_ip_on_launch=False,
        assign_ipv6_address_on_creation=False,
        enable_dns64=False,
        ipv6_native=False,
        private_dns_name_options_on_launch=subnet_pb2.PrivateDnsNameOptionsOnLaunch(
            hostname_type="ip-name",
            enable_resource_name_dns_a_record=False,
            enable_resource_name_dns_aaaa_record=False,
        ),
        tags=shown(subnet.tags),
    )

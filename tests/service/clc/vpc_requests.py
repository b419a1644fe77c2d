"""Each read of a VPC, its parts and the account, with every member set."""

from __future__ import annotations

from mallee.ec2.v1 import (
    account_attribute_pb2,
    dhcp_options_pb2,
    instance_pb2,
    instance_type_pb2,
    internet_gateway_pb2,
    network_acl_pb2,
    network_interface_pb2,
    prefix_list_pb2,
    route_table_pb2,
    snapshot_pb2,
    subnet_pb2,
    vpc_pb2,
)
from tests.service.clc.making import Make, constantly, interface, of, reads, vpc

PLACES: dict[str, Make] = {
    "DescribeVpcs": reads(vpc_pb2.DescribeVpcsRequest(), is_default="true"),
    "DescribeVpcAttribute": of(vpc, vpc_pb2.DescribeVpcAttributeRequest(attribute="enableDnsSupport"), "vpc_id"),
    "DescribeNetworkInterfaces": reads(network_interface_pb2.DescribeNetworkInterfacesRequest(), status="*"),
    "DescribeNetworkInterfaceAttribute": of(
        interface,
        network_interface_pb2.DescribeNetworkInterfaceAttributeRequest(attribute="groupSet"),
        "network_interface_id",
    ),
    "ModifyNetworkInterfaceAttribute": of(
        interface,
        network_interface_pb2.ModifyNetworkInterfaceAttributeRequest(
            source_dest_check=vpc_pb2.AttributeBooleanValue(value=False)
        ),
        "network_interface_id",
    ),
    "DescribeRouteTables": reads(route_table_pb2.DescribeRouteTablesRequest(), vpc_id="*"),
    "DescribeInternetGateways": reads(internet_gateway_pb2.DescribeInternetGatewaysRequest(), owner_id="*"),
    "DescribeNetworkAcls": reads(network_acl_pb2.DescribeNetworkAclsRequest(), default="true"),
    "DescribeDhcpOptions": reads(dhcp_options_pb2.DescribeDhcpOptionsRequest(), key="*"),
    "DescribePrefixLists": reads(prefix_list_pb2.DescribePrefixListsRequest(), prefix_list_name="*"),
    "DescribeSnapshots": reads(
        snapshot_pb2.DescribeSnapshotsRequest(owner_ids=["self"], restorable_by_user_ids=["all"]), status="*"
    ),
    "DescribeAccountAttributes": constantly(
        account_attribute_pb2.DescribeAccountAttributesRequest(attribute_names=["default-vpc"])
    ),
    "DescribeInstanceTypeOfferings": reads(
        instance_type_pb2.DescribeInstanceTypeOfferingsRequest(location_type="availability-zone"), location="*"
    ),
    "DescribeInstanceCreditSpecifications": reads(
        instance_pb2.DescribeInstanceCreditSpecificationsRequest(), instance_id="*"
    ),
    "DescribeSubnets": reads(subnet_pb2.DescribeSubnetsRequest(), default_for_az="true"),
}

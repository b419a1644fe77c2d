"""DescribeAddresses and DescribeAddressesAttribute."""

from __future__ import annotations

from common.errors import InvalidArgument
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import address_pb2 as ec2
from services.clc.address.find import by_public_ip
from services.clc.filters import FilterTable
from services.clc.listing import creation_key, select
from services.clc.lookup import ADDRESS
from services.clc.paging import check_max_results, page
from services.clc.tag.view import as_mapping, shown
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_FILTERS = FilterTable[ec2.Address](
    "ec2.DescribeAddresses",
    {
        "allocation-id": lambda a: a.allocation_id,
        "association-id": lambda a: a.association_id or None,
        "domain": lambda a: a.domain,
        "instance-id": lambda a: a.instance_id or None,
        "network-border-group": lambda a: a.network_border_group,
        "network-interface-id": lambda a: a.network_interface_id or None,
        "network-interface-owner-id": lambda a: a.network_interface_owner_id or None,
        "private-ip-address": lambda a: a.private_ip_address or None,
        "public-ip": lambda a: a.public_ip,
    },
    tags=lambda a: as_mapping(a.tags),
)


@use_case("ec2.DescribeAddresses")
async def describe_addresses(
    cloud: Cloud, call: Call, request: ec2.DescribeAddressesRequest
) -> ec2.DescribeAddressesResult:
    matches = _FILTERS.matcher(request.filters)
    end_dry_run(request)
    if request.allocation_ids or not request.public_ips:
        found = select(cloud, call, ADDRESS, request.allocation_ids)
    else:
        found = []
    found += [by_public_ip(cloud.store, call.account_id, public_ip) for public_ip in request.public_ips]
    views = (_view(cloud, address.record) for address in {a.key: a for a in found}.values())
    return ec2.DescribeAddressesResult(addresses=[view for view in views if matches(view)])


@use_case("ec2.DescribeAddressesAttribute")
async def describe_addresses_attribute(
    cloud: Cloud, call: Call, request: ec2.DescribeAddressesAttributeRequest
) -> ec2.DescribeAddressesAttributeResult:
    if request.attribute not in ("", "domain-name"):
        raise InvalidArgument(f"Value ({request.attribute}) for parameter attribute is invalid: domain-name")
    limit = None
    if request.HasField("max_results"):
        limit = request.max_results
        check_max_results(limit, low=1)
    end_dry_run(request)
    found, token = page(
        select(cloud, call, ADDRESS, request.allocation_ids),
        key=creation_key,
        max_results=limit,
        request=request,
    )
    return ec2.DescribeAddressesAttributeResult(
        addresses=[
            ec2.AddressAttribute(allocation_id=a.record.allocation_id, public_ip=a.record.public_ipv4) for a in found
        ],
        next_token=token,
    )


def _view(cloud: Cloud, address: record_pb2.AddressRecord) -> ec2.Address:
    view = ec2.Address(
        allocation_id=address.allocation_id,
        public_ip=address.public_ipv4,
        public_ipv4_pool="amazon",
        network_border_group=cloud.config.region,
        domain="vpc",
        tags=shown(address.tags),
    )
    instance = cloud.store.get(record_pb2.InstanceRecord, address.instance_id)
    if instance is not None:
        view.association_id = address.association_id
        view.instance_id = address.instance_id
        view.network_interface_id = instance.record.interface.interface_id
        view.network_interface_owner_id = instance.record.account_id
        view.private_ip_address = instance.record.interface.private_ipv4
    return view

"""DescribeNetworkInterfaces: the interfaces of instances, as EC2 shows them by themselves."""

from __future__ import annotations

from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2
from mallee.ec2.v1 import network_interface_pb2 as ec2
from services.clc.clock import written
from services.clc.filters import FilterTable
from services.clc.instance import rules
from services.clc.instance.describe import views_of
from services.clc.listing import matching, max_results_of
from services.clc.lookup import NETWORK_INTERFACE
from services.clc.paging import page, refuse_pages_of_named
from services.clc.region.describe import zone_id
from services.clc.store import Stored
from services.clc.tag.view import as_mapping, shown
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

Instance = Stored[record_pb2.InstanceRecord]

_FILTERS = FilterTable[ec2.NetworkInterface](
    "ec2.DescribeNetworkInterfaces",
    {
        "addresses.association.owner-id": lambda i: i.association.ip_owner_id or None,
        "addresses.association.public-ip": lambda i: i.association.public_ip or None,
        "addresses.primary": lambda i: ["true" if a.primary else "false" for a in i.private_ip_addresses],
        "addresses.private-ip-address": lambda i: [a.private_ip_address for a in i.private_ip_addresses],
        "association.allocation-id": lambda i: i.association.allocation_id or None,
        "association.association-id": lambda i: i.association.association_id or None,
        "association.ip-owner-id": lambda i: i.association.ip_owner_id or None,
        "association.public-dns-name": lambda i: i.association.public_dns_name or None,
        "association.public-ip": lambda i: i.association.public_ip or None,
        "attachment.attach-time": lambda i: written(i.attachment.attach_time),
        "attachment.attachment-id": lambda i: i.attachment.attachment_id,
        "attachment.delete-on-termination": lambda i: i.attachment.delete_on_termination,
        "attachment.device-index": lambda i: i.attachment.device_index,
        "attachment.instance-id": lambda i: i.attachment.instance_id,
        "attachment.instance-owner-id": lambda i: i.attachment.instance_owner_id,
        "attachment.status": lambda i: i.attachment.status,
        "availability-zone": lambda i: i.availability_zone,
        "availability-zone-id": lambda i: i.availability_zone_id,
        "description": lambda i: i.description,
        "group-id": lambda i: [g.group_id for g in i.groups],
        "group-name": lambda i: [g.group_name for g in i.groups],
        "interface-type": lambda i: i.interface_type,
        "mac-address": lambda i: i.mac_address,
        "network-interface-id": lambda i: i.network_interface_id,
        "operator.managed": lambda i: i.operator.managed,
        "owner-id": lambda i: i.owner_id,
        "private-dns-name": lambda i: i.private_dns_name,
        "private-ip-address": lambda i: i.private_ip_address,
        "requester-managed": lambda i: i.requester_managed,
        "source-dest-check": lambda i: i.source_dest_check,
        "status": lambda i: i.status,
        "subnet-id": lambda i: i.subnet_id,
        "vpc-id": lambda i: i.vpc_id,
    },
    tags=lambda i: as_mapping(i.tag_set),
    absent=(
        "ipv6-addresses.ipv6-address",
        "operator.principal",
        "requester-id",
    ),
)


@use_case("ec2.DescribeNetworkInterfaces")
async def describe_network_interfaces(
    cloud: Cloud, call: Call, request: ec2.DescribeNetworkInterfacesRequest
) -> ec2.DescribeNetworkInterfacesResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request)
    refuse_pages_of_named(request, request.network_interface_ids, "networkInterfaceIdSet")
    end_dry_run(request)
    found = interfaces_of(cloud, call.account_id)
    if ids := list(dict.fromkeys(request.network_interface_ids)):
        for given in ids:
            NETWORK_INTERFACE.check(given)
        if missing := [given for given in ids if given not in found]:
            raise NETWORK_INTERFACE.missing(missing)
        found = {given: found[given] for given in ids}
    pairs = ((instance, view_of(cloud, instance)) for instance in sorted(found.values(), key=_place))
    page_of, token = page(
        matching(pairs, matches), key=lambda pair: _place(pair[0]), max_results=limit, request=request
    )
    return ec2.DescribeNetworkInterfacesResult(network_interfaces=[view for _, view in page_of], next_token=token)


def interfaces_of(cloud: Cloud, account_id: str) -> dict[str, Instance]:
    """Interface id → the instance that has it. A terminated one has none any more."""
    return {
        instance.record.interface.interface_id: instance
        for instance in cloud.store.owned(record_pb2.InstanceRecord, account_id)
        if instance.record.state in rules.HOLDING
    }


def having(cloud: Cloud, account_id: str, interface_id: str) -> Instance:
    """The instance that has it. Raises NotFound (InvalidNetworkInterfaceID.NotFound)."""
    NETWORK_INTERFACE.check(interface_id)
    found = interfaces_of(cloud, account_id).get(interface_id)
    if found is None:
        raise NETWORK_INTERFACE.missing([interface_id])
    return found


def _place(instance: Instance) -> str:
    return f"{instance.created_revision:020}{instance.record.interface.interface_id}"


def view_of(cloud: Cloud, instance: Instance) -> ec2.NetworkInterface:
    (given,) = views_of(cloud).of(instance).network_interfaces
    record = instance.record
    association = _association(given, record) if given.HasField("association") else None
    return ec2.NetworkInterface(
        network_interface_id=given.network_interface_id,
        association=association,
        attachment=ec2.NetworkInterfaceAttachment(
            attach_time=given.attachment.attach_time,
            attachment_id=given.attachment.attachment_id,
            delete_on_termination=given.attachment.delete_on_termination,
            device_index=given.attachment.device_index,
            network_card_index=given.attachment.network_card_index,
            instance_id=record.instance_id,
            instance_owner_id=record.account_id,
            status=given.attachment.status,
        ),
        availability_zone=record.zone,
        availability_zone_id=zone_id(cloud, record.zone),
        description=given.description,
        groups=given.groups,
        interface_type=given.interface_type,
        mac_address=given.mac_address,
        operator=given.operator,
        owner_id=record.account_id,
        private_dns_name=given.private_dns_name,
        private_ip_address=given.private_ip_address,
        private_ip_addresses=[
            ec2.NetworkInterfacePrivateIpAddress(
                association=association,
                primary=True,
                private_dns_name=given.private_dns_name,
                private_ip_address=given.private_ip_address,
            )
        ],
        requester_managed=False,
        source_dest_check=given.source_dest_check,
        status=given.status,
        subnet_id=given.subnet_id,
        tag_set=shown(record.interface_tags),
        vpc_id=given.vpc_id,
    )


def _association(
    given: instance_pb2.InstanceNetworkInterface, record: record_pb2.InstanceRecord
) -> ec2.NetworkInterfaceAssociation:
    return ec2.NetworkInterfaceAssociation(
        allocation_id=record.allocation_id or None,
        association_id=record.association_id or None,
        ip_owner_id=given.association.ip_owner_id,
        public_dns_name=given.association.public_dns_name,
        public_ip=given.association.public_ip,
    )

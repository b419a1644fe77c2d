"""The filters of DescribeInstances: over the instance as it is shown, its record, and what its reservation shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from mallee.ec2.v1.filter_pb2 import Filter
from services.clc.clock import written
from services.clc.filters import FilterTable, Getter, is_pattern
from services.clc.tag.view import as_mapping

Matches = Callable[[ec2.Instance, record_pb2.InstanceRecord, record_pb2.ReservationRecord], bool]


def matcher(filters: Sequence[Filter]) -> Matches:
    """Raises InvalidArgument for an unknown filter."""
    of_record = _OF_RECORD.matcher(on_record := _OF_RECORD.mine(filters))
    of_reservation = _OF_RESERVATION.matcher(on_reservation := _OF_RESERVATION.mine(filters))
    of_view = _OF_VIEW.matcher([f for f in filters if f not in on_record and f not in on_reservation])

    def matches(
        view: ec2.Instance, record: record_pb2.InstanceRecord, reservation: record_pb2.ReservationRecord
    ) -> bool:
        return of_view(view) and of_record(record) and of_reservation(reservation)

    return matches


def named_ids(filters: Sequence[Filter]) -> set[str] | None:
    """The only instances that can match, where a filter names them; None: any can."""
    named = [set(f.values) for f in filters if f.name == "instance-id" and not any(map(is_pattern, f.values))]
    return set.intersection(*named) if named else None


def _interfaces(
    get: Callable[[ec2.InstanceNetworkInterface], Iterable[str] | str | bool | int],
) -> Getter[ec2.Instance]:
    """Over all its interfaces. A value that is empty is none."""

    def values(instance: ec2.Instance) -> list[str]:
        found: list[str] = []
        for interface in instance.network_interfaces:
            match get(interface):
                case bool() as holds:
                    found.append("true" if holds else "false")
                case int() as number:
                    found.append(str(number))
                case str() as text:
                    found.append(text)
                case several:
                    found += several
        return [value for value in found if value]

    return values


_INTERFACE: Final[dict[str, Getter[ec2.Instance]]] = {
    f"network-interface.{name}": getter
    for name, getter in {
        "addresses.association.ip-owner-id": _interfaces(lambda n: n.association.ip_owner_id),
        "addresses.association.public-dns-name": _interfaces(lambda n: n.association.public_dns_name),
        "addresses.association.public-ip": _interfaces(lambda n: n.association.public_ip),
        "addresses.primary": _interfaces(lambda n: ["true" if a.primary else "false" for a in n.private_ip_addresses]),
        "addresses.private-dns-name": _interfaces(lambda n: [a.private_dns_name for a in n.private_ip_addresses]),
        "addresses.private-ip-address": _interfaces(lambda n: [a.private_ip_address for a in n.private_ip_addresses]),
        "association.ip-owner-id": _interfaces(lambda n: n.association.ip_owner_id),
        "association.public-dns-name": _interfaces(lambda n: n.association.public_dns_name),
        "association.public-ip": _interfaces(lambda n: n.association.public_ip),
        "attachment.attach-time": _interfaces(lambda n: written(n.attachment.attach_time)),
        "attachment.attachment-id": _interfaces(lambda n: n.attachment.attachment_id),
        "attachment.delete-on-termination": _interfaces(lambda n: n.attachment.delete_on_termination),
        "attachment.device-index": _interfaces(lambda n: n.attachment.device_index),
        "attachment.network-card-index": _interfaces(lambda n: n.attachment.network_card_index),
        "attachment.status": _interfaces(lambda n: n.attachment.status),
        "description": _interfaces(lambda n: n.description),
        "group-id": _interfaces(lambda n: [g.group_id for g in n.groups]),
        "group-name": _interfaces(lambda n: [g.group_name for g in n.groups]),
        "mac-address": _interfaces(lambda n: n.mac_address),
        "network-interface-id": _interfaces(lambda n: n.network_interface_id),
        "operator.managed": _interfaces(lambda n: "true" if n.operator.managed else "false"),
        "owner-id": _interfaces(lambda n: n.owner_id),
        "private-dns-name": _interfaces(lambda n: n.private_dns_name),
        "private-ip-address": _interfaces(lambda n: n.private_ip_address),
        "source-dest-check": _interfaces(lambda n: n.source_dest_check),
        "status": _interfaces(lambda n: n.status),
        "subnet-id": _interfaces(lambda n: n.subnet_id),
        "vpc-id": _interfaces(lambda n: n.vpc_id),
        # Of what holds for each of them alike.
        "attachment.instance-id": lambda i: i.instance_id if i.network_interfaces else None,
        "attachment.instance-owner-id": _interfaces(lambda n: n.owner_id),
        "availability-zone": lambda i: i.placement.availability_zone if i.network_interfaces else None,
        "requester-managed": _interfaces(lambda n: False),
        "public-dns-name": _interfaces(lambda n: n.association.public_dns_name),
    }.items()
}

_OF_VIEW = FilterTable[ec2.Instance](
    "ec2.DescribeInstances",
    {
        "architecture": lambda i: i.architecture,
        "availability-zone": lambda i: i.placement.availability_zone,
        "availability-zone-id": lambda i: i.placement.availability_zone_id,
        "boot-mode": lambda i: i.boot_mode,
        "capacity-reservation-specification.capacity-reservation-preference": lambda i: (
            i.capacity_reservation_specification.capacity_reservation_preference
        ),
        "client-token": lambda i: i.client_token or None,
        "current-instance-boot-mode": lambda i: i.current_instance_boot_mode,
        "dns-name": lambda i: i.public_dns_name or None,
        "ebs-optimized": lambda i: i.ebs_optimized,
        "ena-support": lambda i: i.ena_support,
        "enclave-options.enabled": lambda i: i.enclave_options.enabled,
        "group-id": lambda i: [g.group_id for g in i.security_groups],
        "group-name": lambda i: [g.group_name for g in i.security_groups],
        "hibernation-options.configured": lambda i: i.hibernation_options.configured,
        "hypervisor": lambda i: i.hypervisor,
        "image-id": lambda i: i.image_id,
        "instance-id": lambda i: i.instance_id,
        "instance-state-code": lambda i: i.state.code,
        "instance-state-name": lambda i: i.state.name,
        "instance-type": lambda i: i.instance_type,
        "instance.group-id": lambda i: [g.group_id for g in i.security_groups],
        "instance.group-name": lambda i: [g.group_name for g in i.security_groups],
        "ip-address": lambda i: i.public_ip_address or None,
        "kernel-id": lambda i: i.kernel_id or None,
        "key-name": lambda i: i.key_name or None,
        "launch-index": lambda i: i.ami_launch_index,
        "launch-time": lambda i: written(i.launch_time),
        "maintenance-options.auto-recovery": lambda i: i.maintenance_options.auto_recovery,
        "metadata-options.http-endpoint": lambda i: i.metadata_options.http_endpoint,
        "metadata-options.http-protocol-ipv6": lambda i: i.metadata_options.http_protocol_ipv6,
        "metadata-options.http-put-response-hop-limit": lambda i: i.metadata_options.http_put_response_hop_limit,
        "metadata-options.http-tokens": lambda i: i.metadata_options.http_tokens,
        "metadata-options.instance-metadata-tags": lambda i: i.metadata_options.instance_metadata_tags,
        "metadata-options.state": lambda i: i.metadata_options.state,
        "monitoring-state": lambda i: i.monitoring.state,
        "placement-group-name": lambda i: i.placement.group_name or None,
        "platform": lambda i: i.platform or None,
        "network-performance-options.bandwidth-weighting": lambda i: i.network_performance_options.bandwidth_weighting,
        "operator.managed": lambda i: i.operator.managed,
        "platform-details": lambda i: i.platform_details,
        "private-dns-name": lambda i: i.private_dns_name or None,
        "private-dns-name-options.enable-resource-name-dns-a-record": lambda i: (
            i.private_dns_name_options.enable_resource_name_dns_a_record
        ),
        "private-dns-name-options.enable-resource-name-dns-aaaa-record": lambda i: (
            i.private_dns_name_options.enable_resource_name_dns_aaaa_record
        ),
        "private-dns-name-options.hostname-type": lambda i: i.private_dns_name_options.hostname_type or None,
        "private-ip-address": lambda i: i.private_ip_address or None,
        "ramdisk-id": lambda i: i.ramdisk_id or None,
        "reason": lambda i: i.state_transition_reason or None,
        "root-device-name": lambda i: i.root_device_name,
        "root-device-type": lambda i: i.root_device_type,
        "source-dest-check": lambda i: i.source_dest_check,
        "state-reason-code": lambda i: i.state_reason.code or None,
        "state-reason-message": lambda i: i.state_reason.message or None,
        "subnet-id": lambda i: i.subnet_id or None,
        "host-id": lambda i: i.placement.host_id or None,
        "tenancy": lambda i: i.placement.tenancy,
        "block-device-mapping.attach-time": lambda i: [written(d.ebs.attach_time) for d in i.block_device_mappings],
        "block-device-mapping.delete-on-termination": lambda i: [
            "true" if d.ebs.delete_on_termination else "false" for d in i.block_device_mappings
        ],
        "block-device-mapping.device-name": lambda i: [d.device_name for d in i.block_device_mappings],
        "block-device-mapping.status": lambda i: [d.ebs.status for d in i.block_device_mappings],
        "block-device-mapping.volume-id": lambda i: [d.ebs.volume_id for d in i.block_device_mappings],
        "usage-operation": lambda i: i.usage_operation,
        "usage-operation-update-time": lambda i: written(i.usage_operation_update_time),
        "virtualization-type": lambda i: i.virtualization_type,
        "vpc-id": lambda i: i.vpc_id or None,
    }
    | _INTERFACE,
    tags=lambda i: as_mapping(i.tags),
    absent=(
        "affinity",
        "capacity-reservation-id",
        *(
            f"capacity-reservation-specification.capacity-reservation-target.capacity-reservation-{of}"
            for of in ("id", "resource-group-arn")
        ),
        "iam-instance-profile.arn",
        "iam-instance-profile.id",
        "instance-lifecycle",
        "ipv6-address",
        "metadata-options.http-protocol-ipv4",
        *(
            f"network-interface.{prefix}association.{of}"
            for prefix in ("", "addresses.")
            for of in ("carrier-ip", "customer-owned-ip")
        ),
        *(f"network-interface.{of}" for of in ("ipv6-address", "ipv6-addresses.ipv6-address", "outpost-arn")),
        *(f"network-interface.ipv{version}-prefixes.ipv{version}-prefix" for version in (4, 6)),
        *(
            f"network-interface.{of}"
            for of in ("deny-all-igw-traffic", "ipv6-addresses.is-primary-ipv6", "ipv6-native")
        ),
        *(f"network-interface.{of}" for of in ("operator.principal", "requester-id")),
        "operator.principal",
        "outpost-arn",
        "placement-partition-number",
        "product-code",
        "product-code.type",
        "requester-id",
        "spot-instance-request-id",
        "tpm-support",
    ),
)

# What is not shown with the instance itself. A terminated one has no address any more.
_OF_RECORD = FilterTable[record_pb2.InstanceRecord](
    "ec2.DescribeInstances (record)",
    {
        f"network-interface.{prefix}association.{name}-id": getter
        for prefix in ("", "addresses.")
        for name, getter in {
            "allocation": lambda r: r.allocation_id or None,
            "association": lambda r: r.association_id or None,
        }.items()
    }
    | {
        "network-interface.tag-key": lambda r: list(r.interface_tags),
        "network-interface.tag-value": lambda r: list(r.interface_tags.values()),
    },
)

# What all instances of a reservation share.
_OF_RESERVATION = FilterTable[record_pb2.ReservationRecord](
    "ec2.DescribeInstances (reservation)",
    {"owner-id": lambda r: r.account_id, "reservation-id": lambda r: r.reservation_id},
)

"""DescribeInstances: by id, filter and page, grouped by reservation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from weakref import WeakKeyDictionary

from common.errors import InvalidArgument, NotFound
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from services.clc.filters import FilterTable
from services.clc.instance.view import Views, reservation_view
from services.clc.lookup import INSTANCE, own_all
from services.clc.paging import check_max_results, page
from services.clc.store import Store, Stored
from services.clc.tag.view import as_mapping
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

Instances = Iterable[Stored[record_pb2.InstanceRecord]]

_FILTERS = FilterTable[ec2.Instance](
    "ec2.DescribeInstances",
    {
        "architecture": lambda i: i.architecture,
        "availability-zone": lambda i: i.placement.availability_zone,
        "client-token": lambda i: i.client_token,
        "dns-name": lambda i: i.public_dns_name,
        "group-id": lambda i: [g.group_id for g in i.security_groups],
        "group-name": lambda i: [g.group_name for g in i.security_groups],
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
        "launch-time": lambda i: i.launch_time.ToJsonString().removesuffix("Z").split(".")[0] + ".000Z",
        "metadata-options.http-endpoint": lambda i: i.metadata_options.http_endpoint,
        "metadata-options.http-put-response-hop-limit": lambda i: str(i.metadata_options.http_put_response_hop_limit),
        "metadata-options.instance-metadata-tags": lambda i: i.metadata_options.instance_metadata_tags,
        "metadata-options.http-tokens": lambda i: i.metadata_options.http_tokens,
        "monitoring-state": lambda i: i.monitoring.state,
        "network-interface.mac-address": lambda i: [n.mac_address for n in i.network_interfaces],
        "network-interface.network-interface-id": lambda i: [n.network_interface_id for n in i.network_interfaces],
        "network-interface.addresses.private-ip-address": lambda i: [
            n.private_ip_address for n in i.network_interfaces
        ],
        "network-interface.subnet-id": lambda i: [n.subnet_id for n in i.network_interfaces],
        "network-interface.vpc-id": lambda i: [n.vpc_id for n in i.network_interfaces],
        "placement-group-name": lambda i: i.placement.group_name or None,
        "platform": lambda i: i.platform or None,
        "private-dns-name": lambda i: i.private_dns_name or None,
        "private-ip-address": lambda i: i.private_ip_address or None,
        "ramdisk-id": lambda i: i.ramdisk_id or None,
        "reason": lambda i: i.state_transition_reason,
        "root-device-name": lambda i: i.root_device_name,
        "root-device-type": lambda i: i.root_device_type,
        "source-dest-check": lambda i: i.source_dest_check,
        "state-reason-code": lambda i: i.state_reason.code or None,
        "state-reason-message": lambda i: i.state_reason.message or None,
        "subnet-id": lambda i: i.subnet_id or None,
        "tenancy": lambda i: i.placement.tenancy,
        "virtualization-type": lambda i: i.virtualization_type,
        "vpc-id": lambda i: i.vpc_id or None,
    },
    tags=lambda i: as_mapping(i.tags),
)

# Filters over what all instances of a reservation share.
_RESERVATION_FILTERS = FilterTable[record_pb2.ReservationRecord](
    "ec2.DescribeInstances (reservation)",
    {"owner-id": lambda r: r.account_id, "reservation-id": lambda r: r.reservation_id},
)
_RESERVATION_NAMES = frozenset({"owner-id", "reservation-id"})

_views: WeakKeyDictionary[Store, Views] = WeakKeyDictionary()


@use_case("ec2.DescribeInstances")
async def describe_instances(
    cloud: Cloud, call: Call, request: ec2.DescribeInstancesRequest
) -> ec2.DescribeInstancesResult:
    matches = _FILTERS.matcher([f for f in request.filters if f.name not in _RESERVATION_NAMES])
    of_reservation = _RESERVATION_FILTERS.matcher([f for f in request.filters if f.name in _RESERVATION_NAMES])
    limit = _limit(request)
    end_dry_run(request)
    found: Instances
    if request.instance_ids:
        found = own_all(cloud.store, INSTANCE, call.account_id, request.instance_ids)
    else:
        found = cloud.store.owned(record_pb2.InstanceRecord, call.account_id)
    views = views_of(cloud.store)
    wanted = (i for i in sorted(found, key=_key) if matches(views.of(i)) and of_reservation(_reservation(cloud, i)))
    shown, token = page(wanted, key=_key, max_results=limit, token=request.next_token)
    return ec2.DescribeInstancesResult(reservations=_grouped(cloud, shown), next_token=token)


def views_of(store: Store) -> Views:
    """One set of views per store, made when first asked for."""
    if store not in _views:
        _views[store] = Views(store)
    return _views[store]


def reservation_of(cloud: Cloud, reservation_id: str) -> ec2.Reservation:
    """All of a reservation, in launch order. Raises NotFound when it has been forgotten."""
    store = cloud.store
    reservation = store.get(record_pb2.ReservationRecord, reservation_id)
    if reservation is None:
        raise NotFound(f"The reservation '{reservation_id}' does not exist", code="InvalidReservationID.NotFound")
    instances = (store.get(record_pb2.InstanceRecord, i) for i in reservation.record.instance_ids)
    views = views_of(store)
    return reservation_view(reservation.record, [views.of(i) for i in instances if i is not None])


def _limit(request: ec2.DescribeInstancesRequest) -> int | None:
    if not request.HasField("max_results"):
        return None
    if request.instance_ids:
        raise InvalidArgument(
            "The parameter instancesSet cannot be used with the parameter maxResults",
            code="InvalidParameterCombination",
        )
    check_max_results(request.max_results)
    return request.max_results


def _key(stored: Stored[record_pb2.InstanceRecord]) -> str:
    """By age; those of one launch were created together and go by launch index."""
    record = stored.record
    return f"{stored.created_revision:020}{record.reservation_id}{record.launch_index:05}"


def _reservation(cloud: Cloud, stored: Stored[record_pb2.InstanceRecord]) -> record_pb2.ReservationRecord:
    found = cloud.store.get(record_pb2.ReservationRecord, stored.record.reservation_id)
    return found.record if found else record_pb2.ReservationRecord(reservation_id=stored.record.reservation_id)


def _grouped(cloud: Cloud, shown: Sequence[Stored[record_pb2.InstanceRecord]]) -> list[ec2.Reservation]:
    views = views_of(cloud.store)
    return [
        reservation_view(_reservation(cloud, members[0]), [views.of(i) for i in members])
        for members in (list(group) for _, group in groupby(shown, key=lambda i: i.record.reservation_id))
    ]

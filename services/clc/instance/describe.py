"""DescribeInstances: by id, filter and page, grouped by reservation."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from weakref import WeakKeyDictionary

from common.errors import NotFound
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from services.clc.instance.filters import matcher, named_ids
from services.clc.instance.view import Views, reservation_view
from services.clc.lookup import INSTANCE, own_all
from services.clc.paging import after_of, check_max_results, page, refuse_pages_of_named
from services.clc.region.describe import zone_id
from services.clc.store import Store, Stored, place_of
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

Instances = Iterable[Stored[record_pb2.InstanceRecord]]

_views: WeakKeyDictionary[Store, Views] = WeakKeyDictionary()


@use_case("ec2.DescribeInstances")
async def describe_instances(
    cloud: Cloud, call: Call, request: ec2.DescribeInstancesRequest
) -> ec2.DescribeInstancesResult:
    matches, limit = matcher(request.filters), _limit(request)
    end_dry_run(request)
    found = _candidates(cloud, call, request)
    views = views_of(cloud)
    if request.filters:
        found = (i for i in found if matches(views.of(i), i.record, _reservation(cloud, i)))
    shown, token = page(
        found,
        key=place_of,
        max_results=limit,
        request=request,
        size_bytes=lambda i: len(views.bytes_of(i)),
    )
    result = ec2.DescribeInstancesResult(next_token=token)
    for _, members in groupby(shown, key=lambda i: i.record.reservation_id):
        first, *others = members
        reservation = _reservation(cloud, first)
        added = result.reservations.add(reservation_id=reservation.reservation_id, owner_id=reservation.account_id)
        for instance in (first, *others):
            added.instances.add().MergeFromString(views.bytes_of(instance))
    return result


def _candidates(cloud: Cloud, call: Call, request: ec2.DescribeInstancesRequest) -> Instances:
    """In their order: those named by id or in a filter by id, or all from the page's first one on."""
    store = cloud.store
    if request.instance_ids:
        return sorted(own_all(store, INSTANCE, call.account_id, request.instance_ids), key=place_of)
    if (named := named_ids(request.filters)) is not None:
        found = (store.get(record_pb2.InstanceRecord, instance_id) for instance_id in named)
        return sorted((i for i in found if i is not None and i.record.account_id == call.account_id), key=place_of)
    after = after_of(request)
    return store.in_order(record_pb2.InstanceRecord, call.account_id, after=after)


def views_of(cloud: Cloud) -> Views:
    """One set of views per store, made when first asked for."""
    if cloud.store not in _views:
        zone_ids = {zone.name: zone_id(cloud, zone.name) for zone in cloud.config.zones}
        _views[cloud.store] = Views(cloud.store, cloud.attached, zone_ids)
    return _views[cloud.store]


def reservation_of(cloud: Cloud, reservation_id: str) -> ec2.Reservation:
    """All of a reservation, in launch order. Raises NotFound when it has been forgotten."""
    store = cloud.store
    reservation = store.get(record_pb2.ReservationRecord, reservation_id)
    if reservation is None:
        raise NotFound(f"The reservation '{reservation_id}' does not exist", code="InvalidReservationID.NotFound")
    instances = (store.get(record_pb2.InstanceRecord, i) for i in reservation.record.instance_ids)
    views = views_of(cloud)
    return reservation_view(reservation.record, [views.of(i) for i in instances if i is not None])


def _limit(request: ec2.DescribeInstancesRequest) -> int | None:
    refuse_pages_of_named(request, request.instance_ids, "instancesSet")
    if not request.HasField("max_results"):
        return None
    check_max_results(request.max_results)
    return request.max_results


def _reservation(cloud: Cloud, stored: Stored[record_pb2.InstanceRecord]) -> record_pb2.ReservationRecord:
    found = cloud.store.get(record_pb2.ReservationRecord, stored.record.reservation_id)
    return found.record if found else record_pb2.ReservationRecord(reservation_id=stored.record.reservation_id)

"""RunInstances: check, admit, allocate, one transaction, answer. From then on nothing can be lost."""

from __future__ import annotations

import hashlib

from common.errors import InvalidArgument, NoCapacity, Unavailable
from common.ids import InstanceId, InterfaceAttachmentId, InterfaceId, ReservationId, mac_of
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.clock import timestamp
from services.clc.instance import rules
from services.clc.instance.describe import reservation_of
from services.clc.instance.limit import within_limit
from services.clc.instance.request import DEFAULT_ROOT_DEVICE, Wanted, check
from services.clc.instance.rules import EBS, INSTANCE_STORE
from services.clc.instance.volumes import add_volumes, room_for_volumes
from services.clc.security_group.groups import name_groups
from services.clc.store import Changes, Stored, token_id, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.vpc.addresses import public_claim
from services.clc.vpc.options import internal_domain

_ACTION = "RunInstances"


@use_case("ec2.RunInstances")
async def run_instances(cloud: Cloud, call: Call, request: ec2.RunInstancesRequest) -> ec2.Reservation:
    digest = _digest(request)

    async def attempt() -> ec2.Reservation:
        if (earlier := _earlier(cloud, call, request.client_token, digest)) is not None:
            return earlier
        wanted = check(cloud, call, request)
        end_dry_run(request)
        return await _launch(cloud, call, wanted, request.client_token, digest)

    return await until_committed(attempt)


def _earlier(cloud: Cloud, call: Call, token: str, digest: bytes) -> ec2.Reservation | None:
    """The answer that a ClientToken has had already."""
    if not token:
        return None
    used = cloud.store.get(record_pb2.ClientTokenRecord, token_id(call.account_id, _ACTION, token))
    if used is None:
        return None
    if used.record.request_digest != digest:
        raise InvalidArgument(
            "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
            code="IdempotentParameterMismatch",
        )
    return reservation_of(cloud, used.record.result_id)


async def _launch(cloud: Cloud, call: Call, wanted: Wanted, token: str, digest: bytes) -> ec2.Reservation:
    changes = Changes()
    subnet, count = _place(cloud, wanted)
    vcpus = wanted.shape.vcpus
    count = within_limit(cloud, changes, call.account_id, vcpus=vcpus, least=wanted.min_count, most=count)
    public = wanted.interface.public
    public_count = count if (subnet.record.map_public_ip_on_launch if public is None else public) else 0
    with (
        cloud.clusters.admitting(subnet.record.zone, [wanted.room] * count, host=wanted.host_id),
        cloud.addresses.hold_private(subnet.record, count, wanted=wanted.interface.private_ipv4) as private,
        cloud.addresses.hold_public(public_count) as public_ipv4s,
        room_for_volumes(cloud, wanted, subnet.record.zone, count),
    ):
        reservation = _reservation(call, wanted, token, count)
        instances = [
            _instance(cloud, call, wanted, subnet.record, reservation, index, private[index]) for index in range(count)
        ]
        for instance, address in zip(instances, public_ipv4s, strict=False):
            instance.interface.public_ipv4 = address
            instance.public_ipv4_at_start = wanted.from_volume
        _add(changes, wanted, subnet, reservation, instances)
        add_volumes(cloud, call, changes, wanted, instances)
        if token:
            changes.create(
                record_pb2.ClientTokenRecord(
                    account_id=call.account_id,
                    action=_ACTION,
                    token=token,
                    request_digest=digest,
                    result_id=reservation.reservation_id,
                    created=timestamp(call.now),
                )
            )
        await cloud.store.commit(changes)
    return reservation_of(cloud, reservation.reservation_id)


def _place(cloud: Cloud, wanted: Wanted) -> tuple[Stored[record_pb2.SubnetRecord], int]:
    """The subnet whose zone takes most of them, and how many. Raises NoCapacity below MinCount."""
    room = {
        s.key: cloud.clusters.admissible(s.record.zone, wanted.room, wanted.max_count, host=wanted.host_id)
        for s in wanted.subnets
    }
    known = {key: count for key, count in room.items() if count is not None}
    if not known:
        raise Unavailable("No cluster controller of the zone answers yet; try again in a moment.")
    best, *equals = (s for s in wanted.subnets if known.get(s.key) == max(known.values()))
    if equals:
        # By how much they have left in all, so that launches spread; the first zone of equals.
        in_all = {s.key: cloud.clusters.admissible(s.record.zone, wanted.room, 1 << 20) for s in (best, *equals)}
        best = max(sorted((best, *equals), key=lambda s: s.record.zone), key=lambda s: in_all[s.key] or 0)
    if known[best.key] < wanted.min_count and wanted.host_id:
        raise NoCapacity(
            f"There is not enough capacity on the host {wanted.host_id} to launch {wanted.min_count} instances of"
            f" {wanted.shape.instance_type}: {known[best.key]} of them fit now.",
            code="InsufficientCapacityOnHost",
        )
    if known[best.key] < wanted.min_count:
        zones = ", ".join(sorted(s.record.zone for s in wanted.subnets))
        where, other = f"any Availability Zone ({zones})", "or a smaller type"
        if wanted.zone_chosen:
            where, other = f"the Availability Zone you requested ({zones})", "a smaller type, or another zone"
        raise NoCapacity(
            f"We currently do not have sufficient {wanted.shape.instance_type} capacity in {where}:"
            f" {known[best.key]} of them fit now. Try fewer, {other}.",
            code="InsufficientInstanceCapacity",
        )
    return best, known[best.key]


def _reservation(call: Call, wanted: Wanted, token: str, count: int) -> record_pb2.ReservationRecord:
    return record_pb2.ReservationRecord(
        reservation_id=ReservationId.new(),
        account_id=call.account_id,
        user_data=wanted.user_data or b"",
        has_user_data=wanted.user_data is not None,
        key_name=wanted.key.record.name if wanted.key else "",
        public_key=wanted.key.record.public_key if wanted.key else "",
        client_token=token,
        created=timestamp(call.now),
        instance_ids=[InstanceId.new() for _ in range(count)],
    )


def _instance(
    cloud: Cloud,
    call: Call,
    wanted: Wanted,
    subnet: record_pb2.SubnetRecord,
    reservation: record_pb2.ReservationRecord,
    index: int,
    private_ipv4: str,
) -> record_pb2.InstanceRecord:
    interface_id = InterfaceId.new()
    domain = internal_domain(cloud.config.region)
    return record_pb2.InstanceRecord(
        instance_id=reservation.instance_ids[index],
        account_id=call.account_id,
        reservation_id=reservation.reservation_id,
        launch_index=index,
        state=rules.PENDING,
        generation=1,
        image_id=wanted.machine.record.image_id,
        kernel_id=wanted.kernel.record.image_id if wanted.kernel else "",
        ramdisk_id=wanted.ramdisk.record.image_id if wanted.ramdisk else "",
        shape=wanted.shape,
        zone=subnet.zone,
        host_id=wanted.host_id,
        interface=nc.NetworkInterface(
            interface_id=interface_id,
            vpc_id=subnet.vpc_id,
            subnet_id=subnet.subnet_id,
            mac=mac_of(interface_id),
            private_ipv4=private_ipv4,
            subnet_cidr=subnet.cidr,
            vpc_cidr=wanted.vpc.record.cidr,
            security_group_ids=[group.record.group_id for group in wanted.groups],
            private_dns_name=f"ip-{private_ipv4.replace('.', '-')}.{domain}",
        ),
        interface_description=wanted.interface.description,
        attachment_id=InterfaceAttachmentId.new(),
        launch_time=timestamp(int(call.now)),
        tags=wanted.tags,
        interface_tags=wanted.interface_tags,
        root_device_type=EBS if wanted.from_volume else INSTANCE_STORE,
        root_device_name=wanted.machine.record.root_device_name or DEFAULT_ROOT_DEVICE,
        ephemeral=wanted.ephemeral,
        disable_api_termination=wanted.disable_api_termination,
        disable_api_stop=wanted.disable_api_stop,
        shutdown_behavior=wanted.shutdown_behavior,
        detailed_monitoring=wanted.detailed_monitoring,
        metadata_options=wanted.metadata_options,
        architecture=wanted.machine.record.architecture,
        request_id=call.request_id,
    )


def _add(
    changes: Changes,
    wanted: Wanted,
    subnet: Stored[record_pb2.SubnetRecord],
    reservation: record_pb2.ReservationRecord,
    instances: list[record_pb2.InstanceRecord],
) -> None:
    """What the launch names must still be there when it is written; what it takes must be free."""
    named = (wanted.vpc, subnet, wanted.machine, wanted.kernel, wanted.ramdisk, wanted.key)
    for stored in {found.key: found for found in named if found is not None}.values():
        changes.require(stored)
    name_groups(changes, wanted.groups)
    changes.create(reservation)
    for instance in instances:
        changes.create(instance)
        for claim in claims_of(instance):
            changes.claim(claim, instance.instance_id)


def claims_of(instance: record_pb2.InstanceRecord) -> list[str]:
    """The addresses an instance holds until it is terminated. An elastic one is held by its own record."""
    interface = instance.interface
    claims = [f"private/{interface.subnet_id}/{interface.private_ipv4}"]
    if not interface.public_ipv4 or instance.allocation_id:
        return claims
    return [*claims, public_claim(interface.public_ipv4)]


def _digest(request: ec2.RunInstancesRequest) -> bytes:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()

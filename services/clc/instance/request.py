"""What RunInstances asks for, checked against what there is: rules only, nothing is made."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from common.config import InstanceTypeConfig
from common.errors import InvalidArgument, NotFound, Unsupported
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import instance_pb2 as ec2
from mallee.nc.v1 import instance_pb2 as nc
from services.clc.capacity import Room
from services.clc.image.use_cases import launchable
from services.clc.instance import metadata_options
from services.clc.instance.block_devices import mappings_of
from services.clc.instance.credits import check_credits
from services.clc.instance.host import zone_of_host
from services.clc.instance.interface import WantedInterface, interface_of
from services.clc.instance.rules import EBS
from services.clc.key_pair.use_cases import named
from services.clc.lookup import SECURITY_GROUP, SUBNET, own, own_all
from services.clc.region.describe import zone_id
from services.clc.security_group.groups import check_together, default_vpc, find_group
from services.clc.snapshot.find import completed_snapshot
from services.clc.store import Stored
from services.clc.tag import rules as tags
from services.clc.use_case import Call, Cloud
from services.clc.volume.device import slot_of
from services.clc.vpc.addresses import is_within

MAX_USER_DATA_BYTES: Final = 16 << 10
MAX_COUNT: Final = 1000
_MAX_TOKEN: Final = 64
_DEFAULT_TYPE: Final = "t2.micro"
DEFAULT_ROOT_DEVICE: Final = "/dev/sda1"
_KERNEL_ARGUMENTS: Final = "root=/dev/vda rw console=ttyS0 net.ifnames=0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A launch that is sound: everything it names is there and may be used by the caller."""

    min_count: int
    max_count: int
    shape: nc.InstanceShape
    machine: Stored[record_pb2.ImageRecord]
    kernel: Stored[record_pb2.ImageRecord] | None
    ramdisk: Stored[record_pb2.ImageRecord] | None
    key: Stored[record_pb2.KeyPairRecord] | None
    vpc: Stored[record_pb2.VpcRecord]
    # Any of them will do, the zone with most room is taken.
    subnets: tuple[Stored[record_pb2.SubnetRecord], ...]
    # By the user, or the subnet was: there is one.
    zone_chosen: bool
    groups: tuple[Stored[record_pb2.SecurityGroupRecord], ...]
    # The one node to place it on. Empty: any.
    host_id: str
    interface: WantedInterface
    user_data: bytes | None
    tags: dict[str, str]
    interface_tags: dict[str, str]
    metadata_options: record_pb2.MetadataOptionsRecord
    shutdown_behavior: str
    disable_api_termination: bool
    disable_api_stop: bool
    detailed_monitoring: bool
    # Beside the disk that is made of an instance-store image; of an ebs image the root is among them.
    devices: tuple[record_pb2.BlockDeviceMappingRecord, ...]
    volume_tags: dict[str, str]

    @property
    def from_volume(self) -> bool:
        """Its root is a volume."""
        return self.machine.record.root_device_type == EBS

    @property
    def volumes(self) -> tuple[record_pb2.BlockDeviceMappingRecord, ...]:
        return tuple(device for device in self.devices if not device.virtual_name)

    @property
    def ephemeral(self) -> tuple[record_pb2.BlockDeviceMappingRecord, ...]:
        return tuple(device for device in self.devices if device.virtual_name)

    @property
    def room(self) -> Room:
        return room_of(self.shape)


def room_of(shape: nc.InstanceShape) -> Room:
    return Room(vcpus=shape.vcpus, memory_bytes=shape.memory_bytes, disk_bytes=shape.disk_bytes)


def shape_of(kind: InstanceTypeConfig) -> nc.InstanceShape:
    return nc.InstanceShape(
        instance_type=kind.name,
        vcpus=kind.vcpus,
        memory_bytes=kind.memory_mib << 20,
        disk_bytes=kind.disk_gib << 30,
    )


def check(cloud: Cloud, call: Call, request: ec2.RunInstancesRequest) -> Wanted:
    """Raises CloudError in EC2's words."""
    minimum, maximum = _counts(request)
    shape = _shape(cloud, request.instance_type or _DEFAULT_TYPE)
    _check_cpus(request.cpu_options, shape)
    check_credits(request, shape.instance_type)
    machine, kernel, ramdisk = _images(cloud, call, request, shape)
    devices = devices_of(cloud, call, request, machine.record)
    if machine.record.root_device_type == EBS:
        fill_spaces(devices, shape)
    interface = interface_of(request, shape.instance_type)
    vpc, subnets = _subnets(cloud, call, request.placement, interface.subnet_id)
    if interface.private_ipv4 and maximum > 1:
        raise InvalidArgument(
            "PrivateIpAddress can be given for a single instance only", code="InvalidParameterCombination"
        )
    if interface.private_ipv4:
        subnets = (_subnet_of(cloud, subnets, interface.private_ipv4),)
    given_tags = tags.from_specifications(
        request.tag_specifications, allowed=["instance", "volume", "network-interface"]
    )
    options = metadata_options.of_launch(request.metadata_options, _account_defaults(cloud, call))
    metadata_options.check_tag_keys(options, given_tags["instance"])
    if request.ebs_optimized:
        raise Unsupported("EbsOptimized is not supported: no instance type here has it.")
    return Wanted(
        min_count=minimum,
        max_count=maximum,
        shape=shape,
        machine=machine,
        kernel=kernel,
        ramdisk=ramdisk,
        key=named(cloud.store, call.account_id, [request.key_name])[0] if request.key_name else None,
        vpc=vpc,
        subnets=subnets,
        zone_chosen=bool(
            interface.subnet_id or request.placement.availability_zone or request.placement.availability_zone_id
        ),
        groups=_groups(cloud, call, interface, vpc.record),
        host_id=request.placement.host_id,
        interface=interface,
        user_data=_user_data(request),
        tags=given_tags["instance"],
        interface_tags=given_tags["network-interface"],
        metadata_options=options,
        shutdown_behavior=_shutdown_behavior(request, machine.record),
        disable_api_termination=request.disable_api_termination,
        disable_api_stop=_disable_api_stop(request, machine.record),
        detailed_monitoring=request.monitoring.enabled,
        devices=devices,
        volume_tags=given_tags["volume"],
    )


def _counts(request: ec2.RunInstancesRequest) -> tuple[int, int]:
    for name, given in (("MinCount", request.HasField("min_count")), ("MaxCount", request.HasField("max_count"))):
        if not given:
            raise InvalidArgument(f"The request must contain the parameter {name}", code="MissingParameter")
    if request.min_count < 1 or request.max_count < request.min_count:
        raise InvalidArgument(
            f"Value ({request.min_count}) for parameter minCount is invalid: it must be at least 1 and not above"
            f" maxCount ({request.max_count})"
        )
    if request.max_count > MAX_COUNT:
        raise InvalidArgument(f"At most {MAX_COUNT} instances can be run in one request", code="InstanceLimitExceeded")
    if len(request.client_token) > _MAX_TOKEN or not request.client_token.isascii():
        raise InvalidArgument(f"ClientToken may have {_MAX_TOKEN} ASCII characters")
    return request.min_count, request.max_count


def _shape(cloud: Cloud, name: str) -> nc.InstanceShape:
    for kind in cloud.config.instance_types:
        if kind.name == name:
            return shape_of(kind)
    known = ", ".join(kind.name for kind in cloud.config.instance_types)
    raise InvalidArgument(f"Invalid value '{name}' for InstanceType. Valid values: {known}")


def _check_cpus(wanted: ec2.CpuOptionsRequest, shape: nc.InstanceShape) -> None:
    """The type's own are the only ones there are."""
    for name, given, has in (
        ("CoreCount", wanted.core_count if wanted.HasField("core_count") else None, shape.vcpus),
        ("ThreadsPerCore", wanted.threads_per_core if wanted.HasField("threads_per_core") else None, 1),
    ):
        if given not in (None, has):
            raise InvalidArgument(
                f"The value ({given}) for CpuOptions.{name} is not valid for {shape.instance_type}: {has}",
                code="InvalidParameterCombination",
            )


def _images(
    cloud: Cloud, call: Call, request: ec2.RunInstancesRequest, shape: nc.InstanceShape
) -> tuple[
    Stored[record_pb2.ImageRecord], Stored[record_pb2.ImageRecord] | None, Stored[record_pb2.ImageRecord] | None
]:
    if not request.image_id:
        raise InvalidArgument("The request must contain the parameter ImageId", code="MissingParameter")
    machine = launchable(cloud.store, call.account_id, request.image_id, "machine")
    if machine.record.root_device_type != EBS and machine.record.virtual_size_bytes > shape.disk_bytes:
        raise InvalidArgument(
            f"The image's disk of {machine.record.virtual_size_bytes} bytes is larger than the"
            f" {shape.disk_bytes} bytes that {shape.instance_type} has; choose a larger instance type.",
            code="InvalidParameterCombination",
        )
    kernel_id = request.kernel_id or machine.record.kernel_id
    ramdisk_id = request.ramdisk_id or machine.record.ramdisk_id
    if ramdisk_id and not kernel_id:
        raise InvalidArgument("A ramdisk needs a kernel: give KernelId too.", code="InvalidParameterCombination")
    kernel = launchable(cloud.store, call.account_id, kernel_id, "kernel") if kernel_id else None
    ramdisk = launchable(cloud.store, call.account_id, ramdisk_id, "ramdisk") if ramdisk_id else None
    return machine, kernel, ramdisk


def _subnets(
    cloud: Cloud, call: Call, placement: ec2.Placement, subnet_id: str
) -> tuple[Stored[record_pb2.VpcRecord], tuple[Stored[record_pb2.SubnetRecord], ...]]:
    store, zone = cloud.store, _zone(cloud, call, placement)
    if placement.tenancy not in ("", "default"):
        raise Unsupported(f"Placement.Tenancy '{placement.tenancy}' is not supported; only 'default' is.")
    if placement.group_name:
        raise Unsupported("Placement.GroupName is not supported: this cloud has no placement groups yet.")
    if subnet_id:
        subnet = own(store, SUBNET, call.account_id, subnet_id)
        if zone and subnet.record.zone != zone:
            raise InvalidArgument(
                f"The availability zone {zone} is not that of the subnet {subnet_id}",
                code="InvalidParameterCombination",
            )
        vpc = store.get(record_pb2.VpcRecord, subnet.record.vpc_id)
        assert vpc is not None
        return vpc, (subnet,)
    vpc = default_vpc(store, call.account_id)
    subnets = tuple(
        subnet
        for subnet in store.owned(record_pb2.SubnetRecord, call.account_id)
        if subnet.record.vpc_id == vpc.record.vpc_id
        and subnet.record.default_for_az
        and zone in ("", subnet.record.zone)
    )
    if not subnets:
        raise NotFound(f"No default subnet in availability zone '{zone}'.", code="MissingInput")
    return vpc, subnets


def _subnet_of(
    cloud: Cloud, subnets: Sequence[Stored[record_pb2.SubnetRecord]], private_ipv4: str
) -> Stored[record_pb2.SubnetRecord]:
    """The one of them that the address is of. Raises InvalidArgument unless the address can be had."""
    found = next((s for s in subnets if is_within(s.record.cidr, private_ipv4)), subnets[0])
    cloud.addresses.check_private(found.record, private_ipv4)
    return found


def _zone(cloud: Cloud, call: Call, placement: ec2.Placement) -> str:
    """The zone by its name or its id, or that of the host; empty: any."""
    by_id = {zone_id(cloud, zone.name): zone.name for zone in cloud.config.zones}
    zone, given_id = placement.availability_zone, placement.availability_zone_id
    if zone and zone not in by_id.values():
        raise InvalidArgument(f"Invalid availability zone: [{zone}]")
    if given_id and given_id not in by_id:
        raise InvalidArgument(f"Invalid availability zone id: [{given_id}]")
    if zone and given_id and by_id[given_id] != zone:
        raise InvalidArgument(
            f"The availability zone {zone} is not the one with the id {given_id}", code="InvalidParameterCombination"
        )
    zone = zone or by_id.get(given_id, "")
    return zone_of_host(cloud, call, placement.host_id, wanted_zone=zone) if placement.host_id else zone


def _groups(
    cloud: Cloud, call: Call, interface: WantedInterface, vpc: record_pb2.VpcRecord
) -> tuple[Stored[record_pb2.SecurityGroupRecord], ...]:
    store = cloud.store
    found = own_all(store, SECURITY_GROUP, call.account_id, interface.group_ids)
    found += [find_group(store, call.account_id, name=name) for name in interface.group_names]
    if not found:
        found = own_all(store, SECURITY_GROUP, call.account_id, [vpc.default_group_id])
    check_together(found, vpc.vpc_id)
    return tuple({group.record.group_id: group for group in found}.values())


def _user_data(request: ec2.RunInstancesRequest) -> bytes | None:
    if not request.HasField("user_data"):
        return None
    try:
        raw = base64.b64decode(request.user_data, validate=True)
    except ValueError:
        raise InvalidArgument("Invalid BASE64 encoding of user data.", code="InvalidUserData.Malformed") from None
    if len(raw) > MAX_USER_DATA_BYTES:
        raise InvalidArgument("User data is limited to 16384 bytes")
    return raw


def _shutdown_behavior(request: ec2.RunInstancesRequest, machine: record_pb2.ImageRecord) -> str:
    from_volume = machine.root_device_type == EBS
    match request.instance_initiated_shutdown_behavior:
        case "":
            return "stop" if from_volume else "terminate"
        case "terminate" | "stop" as given if from_volume or given == "terminate":
            return given
        case "stop":
            raise InvalidArgument(
                "The instanceInitiatedShutdownBehavior 'stop' is not supported for instances whose root device is"
                " instance-store; use 'terminate'.",
                code="InvalidParameterCombination",
            )
        case other:
            raise InvalidArgument(
                f"Value ({other}) for parameter InstanceInitiatedShutdownBehavior is invalid: stop or terminate"
            )


def _disable_api_stop(request: ec2.RunInstancesRequest, machine: record_pb2.ImageRecord) -> bool:
    if request.disable_api_stop and machine.root_device_type != EBS:
        raise Unsupported("DisableApiStop is not supported for instances whose root device is instance-store.")
    return request.disable_api_stop


def devices_of(
    cloud: Cloud, call: Call, request: ec2.RunInstancesRequest, machine: record_pb2.ImageRecord
) -> tuple[record_pb2.BlockDeviceMappingRecord, ...]:
    """Of the image, changed and added to by the request."""
    from_volume = machine.root_device_type == EBS
    root = machine.root_device_name or DEFAULT_ROOT_DEVICE

    def snapshot_of(snapshot_id: str, of_image: bool) -> record_pb2.SnapshotRecord:
        # Who may run an image may have volumes of its snapshots.
        found = cloud.store.get(record_pb2.SnapshotRecord, snapshot_id) if of_image else None
        return (found or completed_snapshot(cloud.store, call.account_id, snapshot_id)).record

    devices = mappings_of(
        request.block_device_mappings,
        find_snapshot=snapshot_of,
        base=machine.block_devices,
        root_device_name=root,
    )
    if not from_volume and any(slot_of(device.device_name) == slot_of(root) for device in devices):
        raise InvalidArgument(
            f"The device '{root}' is that of the image, which is of instance-store: it cannot be mapped",
            code="InvalidBlockDeviceMapping",
        )
    # A type has one space of its own, which the root of an instance-store image takes. What a type does not have is
    # left out, as EC2 does.
    spaces = {"ephemeral0"} if from_volume else set()
    return tuple(device for device in devices if not device.virtual_name or device.virtual_name in spaces)


def fill_spaces(devices: Iterable[record_pb2.BlockDeviceMappingRecord], shape: nc.InstanceShape) -> None:
    """An instance on volumes takes the type's own space of its node where it is mapped, and nothing else."""
    spaces = [device for device in devices if device.virtual_name]
    for device in spaces:
        device.size_gib = shape.disk_bytes >> 30
    if not spaces:
        shape.disk_bytes = 0


def _account_defaults(cloud: Cloud, call: Call) -> record_pb2.MetadataOptionsRecord:
    account = cloud.store.get(record_pb2.AccountRecord, call.account_id)
    return account.record.metadata_defaults if account else record_pb2.MetadataOptionsRecord()


def kernel_arguments(wanted_kernel: bool) -> str:
    return _KERNEL_ARGUMENTS if wanted_kernel else ""

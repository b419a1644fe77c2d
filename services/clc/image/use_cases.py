"""RegisterImage and DeregisterImage."""

from __future__ import annotations

import re
from typing import Final

from common.errors import InvalidArgument, NotFound, Unauthenticated, Unsupported
from common.ids import KernelImageId, MachineImageId, RamdiskImageId, ResourceId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2 as ec2
from mallee.walrus.v1 import service_pb2 as walrus
from services.clc.clock import timestamp
from services.clc.image.record import (
    add_image,
    check_name,
    check_name_free,
    is_lately_gone,
    name_claim,
    no_longer_available,
    visible,
)
from services.clc.instance.block_devices import mappings_of
from services.clc.lookup import IMAGE, own
from services.clc.snapshot.create import check_description
from services.clc.snapshot.delete import images_of, mark_deleted
from services.clc.snapshot.find import Snapshot, completed_snapshot, own_snapshot
from services.clc.snapshot.rules import SHOWN as SHOWN_SNAPSHOTS
from services.clc.store import Changes, Store, Stored, until_committed
from services.clc.tag import rules as tags
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.volume.device import slot_of
from services.clc.walrus import Pinned

# Of the root device, as in /dev/sda1; nothing is what it is called by default.
_DEVICE: Final = re.compile(r"((/dev/)?[a-z][a-z0-9/]{0,30})?\Z")
_KINDS: Final[dict[int, tuple[type[ResourceId], str]]] = {
    walrus.IMAGE_KIND_MACHINE: (MachineImageId, "machine"),
    walrus.IMAGE_KIND_KERNEL: (KernelImageId, "kernel"),
    walrus.IMAGE_KIND_RAMDISK: (RamdiskImageId, "ramdisk"),
}


@use_case("ec2.RegisterImage")
async def register_image(cloud: Cloud, call: Call, request: ec2.RegisterImageRequest) -> ec2.RegisterImageResult:
    _check(request)
    given_tags = tags.from_specifications(request.tag_specifications, allowed=["image"])["image"]
    for image_id, kind in ((request.kernel_id, "kernel"), (request.ramdisk_id, "ramdisk")):
        if image_id:
            launchable(cloud.store, call.account_id, image_id, kind)
    record = record_pb2.ImageRecord(
        account_id=call.account_id,
        name=request.name,
        description=request.description,
        image_type="machine",
        architecture=request.architecture or "x86_64",
        kernel_id=request.kernel_id,
        ramdisk_id=request.ramdisk_id,
        state=record_pb2.IMAGE_STATE_AVAILABLE,
        created=timestamp(call.now),
        tags=given_tags,
        root_device_name=request.root_device_name or "/dev/sda1",
        virtualization_type=request.virtualization_type or "hvm",
        ena_support=request.ena_support,
        sriov_net_support=request.sriov_net_support,
    )
    if request.image_location or not request.block_device_mappings:
        return await _register_object(cloud, call, request, record)
    return await _register_snapshot(cloud, call, request, record)


async def _register_object(
    cloud: Cloud, call: Call, request: ec2.RegisterImageRequest, record: record_pb2.ImageRecord
) -> ec2.RegisterImageResult:
    """An instance store begins as the object."""
    bucket, key = _location(request.image_location)
    snapshots = _take_devices(cloud, record, request)
    if any(device.snapshot_id and _is_root(device, record) for device in record.block_devices):
        raise InvalidArgument(
            "The parameter imageLocation cannot be used with a snapshot as the root device",
            code="InvalidParameterCombination",
        )
    check_name_free(cloud.store, call.account_id, request.name)
    end_dry_run(request)
    record.image_id, pinned = await _pin(cloud, call, bucket, key)
    # A bundle's own word, where the request has none.
    record.architecture = request.architecture or pinned.architecture or record.architecture
    record.kernel_id = record.kernel_id or _of_bundle(cloud, call, pinned.kernel_id, "kernel")
    record.ramdisk_id = record.ramdisk_id or _of_bundle(cloud, call, pinned.ramdisk_id, "ramdisk")
    record.location = request.image_location
    record.image_type = _KINDS[pinned.kind][1]
    record.sha256, record.size_bytes = pinned.sha256, pinned.size_bytes
    record.format, record.virtual_size_bytes = pinned.format, pinned.virtual_size_bytes

    async def attempt() -> ec2.RegisterImageResult:
        check_name_free(cloud.store, call.account_id, request.name)
        changes = Changes()
        for snapshot_id in snapshots:
            changes.require(_registrable(cloud.store, call.account_id, snapshot_id))
        add_image(changes, record)
        changes.release(pinning_claim(pin_id(record.image_id)))
        await cloud.store.commit(changes)
        return ec2.RegisterImageResult(image_id=record.image_id)

    return await until_committed(attempt)


async def _register_snapshot(
    cloud: Cloud, call: Call, request: ec2.RegisterImageRequest, record: record_pb2.ImageRecord
) -> ec2.RegisterImageResult:
    """A volume is made of the snapshot for each instance."""
    record.image_id = MachineImageId.new()
    record.location = f"{call.account_id}/{request.name}"
    record.root_device_type = "ebs"

    async def attempt() -> ec2.RegisterImageResult:
        snapshots = _take_devices(cloud, record, request)
        root = next((device for device in record.block_devices if _is_root(device, record)), None)
        if root is None or not root.snapshot_id:
            raise InvalidArgument("No root snapshot specified in device mapping", code="InvalidBlockDeviceMapping")
        record.root_device_name = root.device_name
        check_name_free(cloud.store, call.account_id, request.name)
        end_dry_run(request)
        changes = Changes()
        for snapshot_id in snapshots:
            changes.require(_registrable(cloud.store, call.account_id, snapshot_id))
        add_image(changes, record)
        await cloud.store.commit(changes)
        return ec2.RegisterImageResult(image_id=record.image_id)

    return await until_committed(attempt)


def _take_devices(cloud: Cloud, record: record_pb2.ImageRecord, request: ec2.RegisterImageRequest) -> set[str]:
    """Fills in the record's; ids of the snapshots they are made of. Raises CloudError."""

    def find(snapshot_id: str, _: bool) -> record_pb2.SnapshotRecord:
        return _registrable(cloud.store, record.account_id, snapshot_id).record

    del record.block_devices[:]
    for given in request.block_device_mappings:
        if given.ebs.snapshot_id and given.ebs.HasField("encrypted"):
            raise InvalidArgument(
                f"the encrypted flag cannot be specified since device {given.device_name} has a snapshot specified.",
                code="InvalidBlockDeviceMapping",
            )
    if request.block_device_mappings:
        root_name = record.root_device_name
        record.block_devices.extend(
            mappings_of(request.block_device_mappings, find_snapshot=find, root_device_name=root_name)
        )
    return {device.snapshot_id for device in record.block_devices if device.snapshot_id}


def _registrable(store: Store, account_id: str, snapshot_id: str) -> Snapshot:
    own_snapshot(store, account_id, snapshot_id)
    return completed_snapshot(store, account_id, snapshot_id)


def _is_root(device: record_pb2.BlockDeviceMappingRecord, record: record_pb2.ImageRecord) -> bool:
    return slot_of(device.device_name) == slot_of(record.root_device_name)


@use_case("ec2.DeregisterImage")
async def deregister_image(cloud: Cloud, call: Call, request: ec2.DeregisterImageRequest) -> ec2.DeregisterImageResult:
    async def attempt() -> ec2.DeregisterImageResult:
        image = own_image(cloud.store, call.account_id, request.image_id)
        end_dry_run(request)
        draft = image.draft()
        draft.state = record_pb2.IMAGE_STATE_DEREGISTERED
        changes = Changes()
        changes.update(image, draft)
        changes.release(name_claim(draft))
        answer = ec2.DeregisterImageResult(return_value=True)
        if request.delete_associated_snapshots:
            answer.delete_snapshot_results.extend(_delete_snapshots(cloud.store, changes, image.record))
        await cloud.store.commit(changes)
        return answer

    return await until_committed(attempt)


def _delete_snapshots(
    store: Store, changes: Changes, image: record_pb2.ImageRecord
) -> list[ec2.DeleteSnapshotReturnCode]:
    """Those that no other image is made of."""
    results = []
    for snapshot_id in sorted({device.snapshot_id for device in image.block_devices if device.snapshot_id}):
        snapshot = store.get(record_pb2.SnapshotRecord, snapshot_id)
        if snapshot is None or snapshot.record.state not in SHOWN_SNAPSHOTS:
            code = "client-error"
        elif set(images_of(store, snapshot_id)) - {image.image_id}:
            code = "skipped"
        else:
            mark_deleted(store, changes, snapshot)
            code = "success"
        results.append(ec2.DeleteSnapshotReturnCode(snapshot_id=snapshot_id, return_code=code))
    return results


def own_image(store: Store, account_id: str, image_id: str) -> Stored[record_pb2.ImageRecord]:
    """Raises Unauthenticated (AuthFailure) for one that the account may run but does not own, NotFound for one that is
    not there (InvalidAMIID.Unavailable: not any more)."""
    image = store.get(record_pb2.ImageRecord, image_id)
    if image is not None and image.record.account_id != account_id and visible(image.record, account_id):
        raise Unauthenticated(f"Not authorized for image:{image_id}", code="AuthFailure")
    if is_lately_gone(store, account_id, image_id):
        raise no_longer_available(image_id)
    return own(store, IMAGE, account_id, image_id)


def launchable(store: Store, account_id: str, image_id: str, kind: str) -> Stored[record_pb2.ImageRecord]:
    """An image of this kind that the account may run. Raises NotFound, InvalidArgument (InvalidAMIID.…)."""
    IMAGE.check(image_id)
    image = store.get(record_pb2.ImageRecord, image_id)
    if is_lately_gone(store, account_id, image_id):
        raise no_longer_available(image_id)
    if image is None or not visible(image.record, account_id):
        raise IMAGE.missing([image_id])
    if image.record.state != record_pb2.IMAGE_STATE_AVAILABLE:
        raise NotFound(f"The image id '[{image_id}]' is not available", code="InvalidAMIID.Unavailable")
    if image.record.image_type != kind:
        raise InvalidArgument(
            f"The image id '[{image_id}]' is a {image.record.image_type} image, not a {kind} image",
            code="InvalidAMIID.Malformed",
        )
    return image


def _of_bundle(cloud: Cloud, call: Call, image_id: str, kind: str) -> str:
    if image_id:
        launchable(cloud.store, call.account_id, image_id, kind)
    return image_id


async def _pin(cloud: Cloud, call: Call, bucket: str, key: str) -> tuple[str, Pinned]:
    """The image's id, whose prefix its content decides, and what Walrus found.

    That it is being pinned is written down first: a pin that no record follows is swept by it (reconcile.py).
    """
    digits = MachineImageId.new().removeprefix("ami-")
    claimed = Changes()
    claimed.claim(pinning_claim(f"ami-{digits}"), str(call.now))
    await cloud.store.commit(claimed)
    account = cloud.store.get(record_pb2.AccountRecord, call.account_id)
    certificates = account.record.signing_certificates if account is not None else ()
    pinned = await cloud.images.pin(f"ami-{digits}", bucket=bucket, key=key, certificates=certificates)
    return f"{_KINDS[pinned.kind][0].prefix}-{digits}", pinned


def pin_id(image_id: str) -> str:
    """The name under which Walrus keeps an image's bytes: chosen before its kind was known."""
    return "ami-" + image_id.rpartition("-")[2]


def pinning_claim(pin: str) -> str:
    return f"pinning/{pin}"


def _location(location: str) -> tuple[str, str]:
    if not location:
        raise InvalidArgument("The request must contain the parameter ImageLocation", code="MissingParameter")
    bucket, _, key = location.removeprefix("/").partition("/")
    if not bucket or not key:
        raise InvalidArgument(f"Invalid image location '{location}': expected bucket/key")
    return bucket, key


def _check(request: ec2.RegisterImageRequest) -> None:
    check_name(request.name)
    check_description(request.description)
    if not _DEVICE.match(request.root_device_name):
        raise InvalidArgument(f"Value ({request.root_device_name}) for parameter rootDeviceName is invalid.")
    for name, given, known in (
        ("Architecture", request.architecture, ("", "x86_64")),
        ("VirtualizationType", request.virtualization_type, ("", "hvm", "paravirtual")),
        ("BootMode", request.boot_mode, ("", "legacy-bios")),
        ("ImdsSupport", request.imds_support, ("",)),
        ("SriovNetSupport", request.sriov_net_support, ("", "simple")),
    ):
        if given not in known:
            raise Unsupported(f"Value ({given}) for parameter {name} is not supported by this cloud.")

"""RegisterImage, DeregisterImage, DescribeImages."""

from __future__ import annotations

import re
from typing import Final

from common.errors import AlreadyExists, InvalidArgument, NotFound, Unauthenticated, Unsupported
from common.ids import KernelImageId, MachineImageId, RamdiskImageId, ResourceId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2 as ec2
from mallee.walrus.v1 import service_pb2 as walrus
from services.clc.clock import timestamp
from services.clc.filters import FilterTable
from services.clc.lookup import IMAGE, check_accounts, own, visible_all
from services.clc.paging import page
from services.clc.store import Changes, Store, Stored, sorted_by_creation, until_committed
from services.clc.tag import rules as tags
from services.clc.tag.view import as_mapping, shown
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.vpc.describe import creation_key, matching, max_results_of
from services.clc.walrus import Pinned

_NAME: Final = re.compile(r"[a-zA-Z0-9()\[\] ./\-'@_]{3,128}\Z")
# Of the root device, as in /dev/sda1; nothing is what it is called by default.
_DEVICE: Final = re.compile(r"((/dev/)?[a-z][a-z0-9/]{0,30})?\Z")
_KINDS: Final[dict[int, tuple[type[ResourceId], str]]] = {
    walrus.IMAGE_KIND_MACHINE: (MachineImageId, "machine"),
    walrus.IMAGE_KIND_KERNEL: (KernelImageId, "kernel"),
    walrus.IMAGE_KIND_RAMDISK: (RamdiskImageId, "ramdisk"),
}

_FILTERS = FilterTable[ec2.Image](
    "ec2.DescribeImages",
    {
        "architecture": lambda i: i.architecture,
        "boot-mode": lambda i: i.boot_mode or None,
        "creation-date": lambda i: i.creation_date,
        "description": lambda i: i.description,
        "ena-support": lambda i: i.ena_support,
        "hypervisor": lambda i: i.hypervisor,
        "image-id": lambda i: i.image_id,
        "image-type": lambda i: i.image_type,
        "is-public": lambda i: i.public,
        "kernel-id": lambda i: i.kernel_id,
        "manifest-location": lambda i: i.image_location,
        "name": lambda i: i.name,
        "owner-alias": lambda i: i.image_owner_alias or None,
        "owner-id": lambda i: i.owner_id,
        "platform": lambda i: i.platform or None,
        "ramdisk-id": lambda i: i.ramdisk_id,
        "root-device-name": lambda i: i.root_device_name,
        "root-device-type": lambda i: i.root_device_type,
        "sriov-net-support": lambda i: i.sriov_net_support or None,
        "state": lambda i: i.state,
        "virtualization-type": lambda i: i.virtualization_type,
    },
    tags=lambda i: as_mapping(i.tags),
    # What images that another cloud copies, scans, sells or keeps as volumes would have.
    absent=(
        *(
            f"block-device-mapping.{of}"
            for of in ("delete-on-termination", "device-name", "encrypted", "snapshot-id", "volume-size", "volume-type")
        ),
        "free-tier-eligible",
        "image-allowed",
        *(f"image-watermark.source-image-{of}" for of in ("creation-time", "id", "region")),
        "image-watermark.watermark-creation-time",
        "image-watermark.watermark-key",
        *(f"instance-type-specification.{of}-instance-type" for of in ("supported", "unsupported")),
        "product-code",
        "product-code.type",
        "public-ssm-parameter-name",
        *(f"scan-result.{of}-fix-available-since" for of in ("critical", "high", "medium", "low", "informational")),
        "scan-result.finding-scan-date",
        "scan-result.highest-finding-severity-label",
        "source-image-id",
        "source-image-region",
        "source-instance-id",
        "state-reason-code",
        "state-reason-message",
    ),
)


@use_case("ec2.RegisterImage")
async def register_image(cloud: Cloud, call: Call, request: ec2.RegisterImageRequest) -> ec2.RegisterImageResult:
    bucket, key = _location(request.image_location)
    _check(request)
    given_tags = tags.from_specifications(request.tag_specifications, allowed=["image"])["image"]
    for image_id, kind in ((request.kernel_id, "kernel"), (request.ramdisk_id, "ramdisk")):
        if image_id:
            launchable(cloud.store, call.account_id, image_id, kind)
    _check_name_free(cloud.store, call.account_id, request.name)
    end_dry_run(request)
    image_id, pinned = await _pin(cloud, call, bucket, key)
    record = record_pb2.ImageRecord(
        image_id=image_id,
        account_id=call.account_id,
        name=request.name,
        description=request.description,
        location=request.image_location,
        image_type=_KINDS[pinned.kind][1],
        architecture=request.architecture or "x86_64",
        kernel_id=request.kernel_id,
        ramdisk_id=request.ramdisk_id,
        state=record_pb2.IMAGE_STATE_AVAILABLE,
        sha256=pinned.sha256,
        size_bytes=pinned.size_bytes,
        format=pinned.format,
        virtual_size_bytes=pinned.virtual_size_bytes,
        created=timestamp(call.now),
        tags=given_tags,
        root_device_name=request.root_device_name or "/dev/sda1",
        virtualization_type=request.virtualization_type or "hvm",
        ena_support=request.ena_support,
        sriov_net_support=request.sriov_net_support,
    )

    async def attempt() -> ec2.RegisterImageResult:
        _check_name_free(cloud.store, call.account_id, request.name)
        changes = Changes()
        changes.create(record)
        changes.claim(_name_claim(record), image_id)
        changes.release(pinning_claim(pin_id(image_id)))
        await cloud.store.commit(changes)
        return ec2.RegisterImageResult(image_id=image_id)

    return await until_committed(attempt)


@use_case("ec2.DeregisterImage")
async def deregister_image(cloud: Cloud, call: Call, request: ec2.DeregisterImageRequest) -> ec2.DeregisterImageResult:
    async def attempt() -> ec2.DeregisterImageResult:
        image = own_image(cloud.store, call.account_id, request.image_id)
        if image.record.state != record_pb2.IMAGE_STATE_AVAILABLE:
            raise NotFound(
                f"The image id '[{request.image_id}]' is no longer available", code="InvalidAMIID.Unavailable"
            )
        end_dry_run(request)
        draft = image.draft()
        draft.state = record_pb2.IMAGE_STATE_DEREGISTERED
        changes = Changes()
        changes.update(image, draft)
        changes.release(_name_claim(draft))
        await cloud.store.commit(changes)
        return ec2.DeregisterImageResult(return_value=True)

    return await until_committed(attempt)


@use_case("ec2.DescribeImages")
async def describe_images(cloud: Cloud, call: Call, request: ec2.DescribeImagesRequest) -> ec2.DescribeImagesResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request, low=1)
    check_accounts(request.owners, words=("self", "amazon", "aws-marketplace", "aws-backup-vault"))
    check_accounts(request.executable_users, words=("self", "all"))
    # No image is ever deprecated or disabled here, so both change nothing.
    _ = request.include_deprecated, request.include_disabled
    end_dry_run(request)
    if request.image_ids:
        found = visible_all(cloud.store, IMAGE, request.image_ids, lambda i: _visible(i, call.account_id))
    else:
        found = [i for i in cloud.store.all(record_pb2.ImageRecord) if _visible(i.record, call.account_id)]
    wanted = (i for i in sorted_by_creation(found) if _asked_for(i.record, call, request))
    pairs = ((image, _view_for(call.account_id, image.record)) for image in wanted)
    page_of, token = page(
        matching(pairs, matches), key=lambda p: creation_key(p[0]), max_results=limit, request=request
    )
    return ec2.DescribeImagesResult(images=[shown_image for _, shown_image in page_of], next_token=token)


def own_image(store: Store, account_id: str, image_id: str) -> Stored[record_pb2.ImageRecord]:
    """Raises Unauthenticated (AuthFailure) for one that the account may run but does not own, else as `own`."""
    image = store.get(record_pb2.ImageRecord, image_id)
    if image is not None and image.record.account_id != account_id and _visible(image.record, account_id):
        raise Unauthenticated(f"Not authorized for image:{image_id}", code="AuthFailure")
    return own(store, IMAGE, account_id, image_id)


def launchable(store: Store, account_id: str, image_id: str, kind: str) -> Stored[record_pb2.ImageRecord]:
    """An image of this kind that the account may run. Raises NotFound, InvalidArgument (InvalidAMIID.…)."""
    IMAGE.check(image_id)
    image = store.get(record_pb2.ImageRecord, image_id)
    if image is None or not _visible(image.record, account_id):
        raise IMAGE.missing([image_id])
    if image.record.image_type != kind:
        raise InvalidArgument(
            f"The image id '[{image_id}]' is a {image.record.image_type} image, not a {kind} image",
            code="InvalidAMIID.Malformed",
        )
    return image


async def _pin(cloud: Cloud, call: Call, bucket: str, key: str) -> tuple[str, Pinned]:
    """The image's id, whose prefix its content decides, and what Walrus found.

    That it is being pinned is written down first: a pin that no record follows is swept by it (reconcile.py).
    """
    digits = MachineImageId.new().removeprefix("ami-")
    claimed = Changes()
    claimed.claim(pinning_claim(f"ami-{digits}"), str(call.now))
    await cloud.store.commit(claimed)
    pinned = await cloud.images.pin(f"ami-{digits}", bucket=bucket, key=key)
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
    if key.endswith(".manifest.xml"):
        raise Unsupported("Bundles (manifest.xml) are not supported yet; register the image file itself as bucket/key.")
    return bucket, key


def _check(request: ec2.RegisterImageRequest) -> None:
    if not request.name:
        raise InvalidArgument("The request must contain the parameter name", code="MissingParameter")
    if not _NAME.match(request.name):
        raise InvalidArgument(
            "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', ')', '.',"
            " '-', '/' and '_'",
            code="InvalidAMIName.Malformed",
        )
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


def check_description(description: str) -> None:
    if len(description) > 255:
        raise InvalidArgument("Character limit exceeded: the description may have 255 characters")


def _check_name_free(store: Store, account_id: str, name: str) -> None:
    if taken := store.holder(f"image-name/{account_id}/{name}"):
        raise AlreadyExists(f"AMI name {name} is already in use by AMI {taken}", code="InvalidAMIName.Duplicate")


def _name_claim(image: record_pb2.ImageRecord) -> str:
    return f"image-name/{image.account_id}/{image.name}"


def _visible(image: record_pb2.ImageRecord, account_id: str) -> bool:
    if image.state != record_pb2.IMAGE_STATE_AVAILABLE:
        return False
    return image.public or account_id == image.account_id or account_id in image.launch_account_ids


def _asked_for(image: record_pb2.ImageRecord, call: Call, request: ec2.DescribeImagesRequest) -> bool:
    owners = {call.account_id if owner == "self" else owner for owner in request.owners}
    users = {call.account_id if user == "self" else user for user in request.executable_users}
    if owners and image.account_id not in owners:
        return False
    return not users or ("all" in users and image.public) or bool(users & set(image.launch_account_ids))


def _view_for(account_id: str, image: record_pb2.ImageRecord) -> ec2.Image:
    """Tags are the owner's own, and are not shared with the image. (EC2 User Guide, "Share an AMI".)"""
    shown_image = view(image)
    if image.account_id != account_id:
        shown_image.ClearField("tags")
    return shown_image


def view(image: record_pb2.ImageRecord) -> ec2.Image:
    return ec2.Image(
        image_id=image.image_id,
        image_location=image.location,
        image_type=image.image_type,
        name=image.name,
        description=image.description or None,
        owner_id=image.account_id,
        state="available" if image.state == record_pb2.IMAGE_STATE_AVAILABLE else "deregistered",
        public=image.public,
        architecture=image.architecture,
        kernel_id=image.kernel_id or None,
        ramdisk_id=image.ramdisk_id or None,
        creation_date=image.created.ToJsonString().split(".")[0].removesuffix("Z") + ".000Z",
        root_device_name=image.root_device_name if image.image_type == "machine" else None,
        root_device_type="instance-store",
        virtualization_type=image.virtualization_type,
        hypervisor="xen",
        ena_support=image.ena_support if image.ena_support else None,
        sriov_net_support=image.sriov_net_support or None,
        platform_details="Linux/UNIX",
        usage_operation="RunInstances",
        boot_mode="legacy-bios" if image.image_type == "machine" else None,
        tags=shown(image.tags),
    )

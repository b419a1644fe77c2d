"""CopyImage, within the one region there is."""

from __future__ import annotations

from common.errors import InvalidArgument, NotFound, Unsupported
from common.ids import MachineImageId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2 as ec2
from services.clc.clock import timestamp
from services.clc.idempotency import earlier, remember
from services.clc.image.record import add_image, check_name, check_name_free, visible
from services.clc.image.use_cases import pin_id, pinning_claim
from services.clc.lookup import IMAGE, visible_all
from services.clc.snapshot.copy import check_region, copy_of
from services.clc.snapshot.create import check_description
from services.clc.snapshot.find import Snapshot
from services.clc.snapshot.find import visible as snapshot_visible
from services.clc.store import Changes, Stored, until_committed
from services.clc.tag import rules as tags
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

ACTION = "CopyImage"


@use_case("ec2.CopyImage")
async def copy_image(cloud: Cloud, call: Call, request: ec2.CopyImageRequest) -> ec2.CopyImageResult:
    check_region(cloud, request.source_region, "sourceRegion")
    check_name(request.name)
    check_description(request.description)
    given_tags = tags.from_specifications(request.tag_specifications, allowed=["image", "snapshot"])
    image_id, pinned = MachineImageId.new(), False

    async def attempt() -> ec2.CopyImageResult:
        nonlocal pinned
        if (made := earlier(cloud, call, ACTION, request)) is not None:
            return ec2.CopyImageResult(image_id=made)
        source = _source(cloud, call, request.source_image_id)
        check_name_free(cloud.store, call.account_id, request.name)
        copied = source.record.tags if request.copy_image_tags and source.record.account_id == call.account_id else {}
        image = _copy(call, source.record, image_id)
        image.name, image.description = request.name, request.description
        image.location = f"{call.account_id}/{request.name}"
        image.client_token = request.client_token
        image.tags.update(tags.merged(copied, given_tags["image"]))
        changes = Changes()
        changes.require(source)
        _copy_snapshots(cloud, call, changes, image, given_tags["snapshot"])
        end_dry_run(request)
        if image.root_device_type != "ebs":
            if not pinned:
                await _pin(cloud, call, source.record, image)
                pinned = True
            changes.release(pinning_claim(pin_id(image_id)))
        add_image(changes, image)
        remember(changes, call, ACTION, request, image.image_id)
        await cloud.store.commit(changes)
        return ec2.CopyImageResult(image_id=image.image_id)

    return await until_committed(attempt)


def _source(cloud: Cloud, call: Call, image_id: str) -> Stored[record_pb2.ImageRecord]:
    if not image_id:
        raise InvalidArgument("The request must contain the parameter sourceImageId", code="MissingParameter")
    (image,) = visible_all(cloud.store, IMAGE, [image_id], lambda record: visible(record, call.account_id))
    if image.record.state != record_pb2.IMAGE_STATE_AVAILABLE:
        raise NotFound(f"The image id '[{image_id}]' is not available", code="InvalidAMIID.Unavailable")
    if image.record.image_type != "machine":
        raise Unsupported(f"The image '{image_id}' is a {image.record.image_type} image: it cannot be copied.")
    return image


async def _pin(cloud: Cloud, call: Call, source: record_pb2.ImageRecord, image: record_pb2.ImageRecord) -> None:
    """The bytes of an instance store are kept for the copy, too. It is written down first, as by a registration."""
    claimed = Changes()
    claimed.claim(pinning_claim(pin_id(image.image_id)), str(call.now))
    await cloud.store.commit(claimed)
    await cloud.images.copy_pin(pin_id(source.image_id), pin_id(image.image_id))


def _copy(call: Call, source: record_pb2.ImageRecord, image_id: str) -> record_pb2.ImageRecord:
    """All that it is but for its names and who may run it."""
    on_volumes = source.root_device_type == "ebs"
    return record_pb2.ImageRecord(
        image_id=image_id,
        account_id=call.account_id,
        image_type=source.image_type,
        architecture=source.architecture,
        kernel_id=source.kernel_id,
        ramdisk_id=source.ramdisk_id,
        state=record_pb2.IMAGE_STATE_PENDING if on_volumes else record_pb2.IMAGE_STATE_AVAILABLE,
        sha256=source.sha256,
        size_bytes=source.size_bytes,
        format=source.format,
        virtual_size_bytes=source.virtual_size_bytes,
        created=timestamp(call.now),
        root_device_name=source.root_device_name,
        root_device_type=source.root_device_type,
        virtualization_type=source.virtualization_type,
        ena_support=source.ena_support,
        sriov_net_support=source.sriov_net_support,
        block_devices=source.block_devices,
        source_image_id=source.image_id,
    )


def _copy_snapshots(
    cloud: Cloud, call: Call, changes: Changes, image: record_pb2.ImageRecord, snapshot_tags: dict[str, str]
) -> None:
    """Its devices are made of copies of their own from now on."""
    copies: dict[str, record_pb2.SnapshotRecord] = {}
    for device in image.block_devices:
        if not device.snapshot_id:
            continue
        if device.snapshot_id not in copies:
            source = _readable(cloud, call, device.snapshot_id)
            description = (
                f"Copied for DestinationAmi {image.image_id} from SourceAmi {image.source_image_id} for SourceSnapshot"
                f" {device.snapshot_id}. Task created on {int(call.now * 1000):,}."
            )
            copies[device.snapshot_id] = copy_of(call, source.record, description)
            copies[device.snapshot_id].tags.update(snapshot_tags)
            changes.require(source)
            changes.create(copies[device.snapshot_id])
        device.snapshot_id = copies[device.snapshot_id].snapshot_id


def _readable(cloud: Cloud, call: Call, snapshot_id: str) -> Snapshot:
    """Leave to run an image is no leave to copy what it is made of. (EC2 User Guide, "Copy an AMI".)"""
    snapshot = cloud.store.get(record_pb2.SnapshotRecord, snapshot_id)
    if snapshot is None or not snapshot_visible(snapshot.record, call.account_id):
        raise InvalidArgument("You do not have permission to access the storage of this ami", code="InvalidRequest")
    return snapshot

"""DescribeImages, and images as EC2 shows them."""

from __future__ import annotations

from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import image_pb2 as ec2
from mallee.ec2.v1 import state_reason_pb2
from services.clc.filters import FilterTable
from services.clc.image.record import SHOWN, is_lately_gone, visible
from services.clc.listing import max_results_of, shown_page
from services.clc.lookup import IMAGE, check_accounts, visible_all
from services.clc.paging import refuse_pages_of_named
from services.clc.store import sorted_by_creation
from services.clc.tag.view import as_mapping, shown
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_FILTERS = FilterTable[ec2.Image](
    "ec2.DescribeImages",
    {
        "architecture": lambda i: i.architecture,
        "block-device-mapping.delete-on-termination": lambda i: [
            "true" if device.ebs.delete_on_termination else "false" for device in _volumes(i)
        ],
        "block-device-mapping.device-name": lambda i: [device.device_name for device in i.block_device_mappings],
        "block-device-mapping.encrypted": lambda i: ["false" for _ in _volumes(i)],
        "block-device-mapping.snapshot-id": lambda i: [device.ebs.snapshot_id for device in _volumes(i)],
        "block-device-mapping.volume-size": lambda i: [str(device.ebs.volume_size) for device in _volumes(i)],
        "block-device-mapping.volume-type": lambda i: [device.ebs.volume_type for device in _volumes(i)],
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
        "source-image-id": lambda i: i.source_image_id or None,
        "source-image-region": lambda i: i.source_image_region or None,
        "source-instance-id": lambda i: i.source_instance_id or None,
        "sriov-net-support": lambda i: i.sriov_net_support or None,
        "state": lambda i: i.state,
        "state-reason-code": lambda i: i.state_reason.code or None,
        "state-reason-message": lambda i: i.state_reason.message or None,
        "virtualization-type": lambda i: i.virtualization_type,
    },
    tags=lambda i: as_mapping(i.tags),
    # What images that another cloud copies, scans, sells or keeps as volumes would have.
    absent=(
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
    ),
)


@use_case("ec2.DescribeImages")
async def describe_images(cloud: Cloud, call: Call, request: ec2.DescribeImagesRequest) -> ec2.DescribeImagesResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request)
    refuse_pages_of_named(request, request.image_ids, "imageIdsSet")
    check_accounts(request.owners, words=("self", "amazon", "aws-marketplace", "aws-backup-vault"))
    check_accounts(request.executable_users, words=("self", "all"))
    # No image is ever deprecated or disabled here, so both change nothing.
    _ = request.include_deprecated, request.include_disabled
    end_dry_run(request)
    if request.image_ids:
        # Lately deregistered ones are no mistake, and show nothing. (API reference, DescribeImages.)
        named = [i for i in request.image_ids if not is_lately_gone(cloud.store, call.account_id, i)]
        found = visible_all(cloud.store, IMAGE, named, lambda i: visible(i, call.account_id))
    else:
        found = [i for i in cloud.store.all(record_pb2.ImageRecord) if visible(i.record, call.account_id)]
    wanted = (i for i in sorted_by_creation(found) if _asked_for(i.record, call, request))
    pairs = ((image, _view_for(cloud, call.account_id, image.record)) for image in wanted)
    views, token = shown_page(pairs, matches, request=request, limit=limit)
    return ec2.DescribeImagesResult(images=views, next_token=token)


def _asked_for(image: record_pb2.ImageRecord, call: Call, request: ec2.DescribeImagesRequest) -> bool:
    owners = {call.account_id if owner == "self" else owner for owner in request.owners}
    users = {call.account_id if user == "self" else user for user in request.executable_users}
    if owners and image.account_id not in owners:
        return False
    return not users or ("all" in users and image.public) or bool(users & set(image.launch_account_ids))


def _view_for(cloud: Cloud, account_id: str, image: record_pb2.ImageRecord) -> ec2.Image:
    """Tags are the owner's own, and are not shared with the image. (EC2 User Guide, "Share an AMI".)"""
    shown_image = view(image)
    if image.source_image_id:
        shown_image.source_image_region = cloud.config.region
    if image.account_id != account_id:
        shown_image.ClearField("tags")
    return shown_image


def view(image: record_pb2.ImageRecord) -> ec2.Image:
    return ec2.Image(
        image_id=image.image_id,
        image_location=image.location,
        image_type=image.image_type,
        name=image.name,
        description=image.description,
        owner_id=image.account_id,
        state=SHOWN[image.state],
        state_reason=_reason(image),
        public=image.public,
        architecture=image.architecture,
        kernel_id=image.kernel_id or None,
        ramdisk_id=image.ramdisk_id or None,
        creation_date=image.created.ToJsonString().split(".")[0].removesuffix("Z") + ".000Z",
        root_device_name=image.root_device_name if image.image_type == "machine" else None,
        root_device_type=image.root_device_type or "instance-store",
        block_device_mappings=[mapping_view(device) for device in image.block_devices],
        source_instance_id=image.source_instance_id or None,
        source_image_id=image.source_image_id or None,
        virtualization_type=image.virtualization_type,
        hypervisor="xen",
        ena_support=image.ena_support if image.ena_support else None,
        sriov_net_support=image.sriov_net_support or None,
        platform_details="Linux/UNIX",
        usage_operation="RunInstances",
        deregistration_protection="disabled",
        boot_mode="legacy-bios" if image.image_type == "machine" else None,
        tags=shown(image.tags),
    )


def mapping_view(device: record_pb2.BlockDeviceMappingRecord) -> ec2.BlockDeviceMapping:
    if device.virtual_name:
        return ec2.BlockDeviceMapping(device_name=device.device_name, virtual_name=device.virtual_name)
    provisioned = device.volume_type in ("gp3", "io1", "io2")
    return ec2.BlockDeviceMapping(
        device_name=device.device_name,
        ebs=ec2.EbsBlockDevice(
            snapshot_id=device.snapshot_id or None,
            volume_size=device.size_gib,
            volume_type=device.volume_type,
            iops=device.iops if provisioned else None,
            throughput=device.throughput_mibps or None,
            delete_on_termination=device.delete_on_termination,
            encrypted=False,
        ),
    )


def _volumes(image: ec2.Image) -> list[ec2.BlockDeviceMapping]:
    return [device for device in image.block_device_mappings if device.HasField("ebs")]


def _reason(image: record_pb2.ImageRecord) -> state_reason_pb2.StateReason | None:
    if not image.state_reason_code:
        return None
    return state_reason_pb2.StateReason(code=image.state_reason_code, message=image.state_reason_message)

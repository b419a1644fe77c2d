"""DescribeVolumeStatus, EnableVolumeIO, and the attributes of a volume."""

from __future__ import annotations

from common.errors import WrongState
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import operator_pb2
from mallee.ec2.v1 import volume_pb2 as ec2
from mallee.sc.v1 import volume_pb2 as sc
from services.clc import attribute as attribute_errors
from services.clc.filters import FilterTable
from services.clc.listing import max_results_of, select, shown_page
from services.clc.lookup import VOLUME, own
from services.clc.paging import refuse_pages_of_named
from services.clc.region.describe import zone_id
from services.clc.store import Changes, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case

_FILTERS = FilterTable[ec2.VolumeStatusItem](
    "ec2.DescribeVolumeStatus",
    {
        "attachment-status.instance-id": lambda v: [a.instance_id for a in v.attachment_statuses],
        "attachment-status.io-performance": lambda v: [a.io_performance for a in v.attachment_statuses],
        "availability-zone": lambda v: v.availability_zone,
        "availability-zone-id": lambda v: v.availability_zone_id,
        "operator.managed": lambda v: v.operator.managed,
        "volume-status.details-name": lambda v: [d.name for d in v.volume_status.details],
        "volume-status.details-status": lambda v: [d.status for d in v.volume_status.details],
        "volume-status.status": lambda v: v.volume_status.status,
    },
    absent=(
        "action.code",
        "action.description",
        "action.event-id",
        "event.description",
        "event.event-id",
        "event.event-type",
        "event.not-after",
        "event.not-before",
        "operator.principal",
    ),
)


@use_case("ec2.DescribeVolumeStatus")
async def describe_volume_status(
    cloud: Cloud, call: Call, request: ec2.DescribeVolumeStatusRequest
) -> ec2.DescribeVolumeStatusResult:
    refuse_pages_of_named(request, request.volume_ids, "volumesSet")
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request, or_less=True)
    end_dry_run(request)
    pairs = ((volume, _item(cloud, volume.record)) for volume in select(cloud, call, VOLUME, request.volume_ids))
    views, token = shown_page(pairs, matches, request=request, limit=limit)
    return ec2.DescribeVolumeStatusResult(volume_statuses=views, next_token=token)


@use_case("ec2.EnableVolumeIO")
async def enable_volume_io(cloud: Cloud, call: Call, request: ec2.EnableVolumeIORequest) -> ec2.EnableVolumeIOResponse:
    volume = own(cloud.store, VOLUME, call.account_id, request.volume_id).record
    end_dry_run(request)
    if _item(cloud, volume).volume_status.status == "ok":
        raise WrongState(f"Volume {volume.volume_id} already has IO enabled.", code="IncorrectState")
    return ec2.EnableVolumeIOResponse()


@use_case("ec2.DescribeVolumeAttribute")
async def describe_volume_attribute(
    cloud: Cloud, call: Call, request: ec2.DescribeVolumeAttributeRequest
) -> ec2.DescribeVolumeAttributeResult:
    volume = own(cloud.store, VOLUME, call.account_id, request.volume_id).record
    answer = ec2.DescribeVolumeAttributeResult(volume_id=volume.volume_id)
    match request.attribute:
        case "autoEnableIO":
            answer.auto_enable_io.value = volume.auto_enable_io
        case "productCodes":
            pass
        case "":
            raise attribute_errors.none_given()
        case other:
            raise attribute_errors.unknown(other)
    end_dry_run(request)
    return answer


@use_case("ec2.ModifyVolumeAttribute")
async def modify_volume_attribute(
    cloud: Cloud, call: Call, request: ec2.ModifyVolumeAttributeRequest
) -> ec2.ModifyVolumeAttributeResponse:
    async def attempt() -> ec2.ModifyVolumeAttributeResponse:
        volume = own(cloud.store, VOLUME, call.account_id, request.volume_id)
        if not request.HasField("auto_enable_io") or not request.auto_enable_io.HasField("value"):
            raise attribute_errors.none_given()
        draft = volume.draft()
        draft.auto_enable_io = request.auto_enable_io.value
        end_dry_run(request)
        if draft != volume.record:
            changes = Changes()
            changes.update(volume, draft)
            await cloud.store.commit(changes)
        return ec2.ModifyVolumeAttributeResponse()

    return await until_committed(attempt)


def _item(cloud: Cloud, volume: record_pb2.VolumeRecord) -> ec2.VolumeStatusItem:
    heard = cloud.storage.volume(volume.zone, volume.volume_id)
    match heard.state if heard else None:
        case None | sc.VOLUME_STATE_CREATING:
            status, io_enabled = "insufficient-data", "passed"
        case sc.VOLUME_STATE_FAILED:
            status, io_enabled = "impaired", "failed"
        case _:
            status, io_enabled = "ok", "passed"
    return ec2.VolumeStatusItem(
        volume_id=volume.volume_id,
        availability_zone=volume.zone,
        availability_zone_id=zone_id(cloud, volume.zone),
        operator=operator_pb2.OperatorResponse(managed=False),
        volume_status=ec2.VolumeStatusInfo(
            status=status,
            details=[
                ec2.VolumeStatusDetails(name="io-enabled", status=io_enabled),
                ec2.VolumeStatusDetails(name="io-performance", status="not-applicable"),
            ],
        ),
        attachment_statuses=[
            ec2.VolumeStatusAttachmentStatus(instance_id=volume.attachment.instance_id, io_performance="not-applicable")
        ]
        if volume.HasField("attachment")
        else [],
    )

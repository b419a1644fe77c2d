"""DescribeVolumes."""

from __future__ import annotations

from typing import Final

from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import operator_pb2
from mallee.ec2.v1 import volume_pb2 as ec2
from services.clc.clock import written
from services.clc.filters import FilterTable
from services.clc.listing import max_results_of, select, shown_page
from services.clc.lookup import VOLUME
from services.clc.paging import refuse_pages_of_named
from services.clc.region.describe import zone_id
from services.clc.tag.view import as_mapping, shown
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.volume.types import TYPES

# As AWS calls them.
STATES: Final[dict[int, str]] = {
    record_pb2.VOLUME_STATE_CREATING: "creating",
    record_pb2.VOLUME_STATE_AVAILABLE: "available",
    record_pb2.VOLUME_STATE_IN_USE: "in-use",
    record_pb2.VOLUME_STATE_DELETING: "deleting",
    record_pb2.VOLUME_STATE_ERROR: "error",
}
ATTACHMENT_STATES: Final[dict[int, str]] = {
    record_pb2.ATTACHMENT_STATE_ATTACHING: "attaching",
    record_pb2.ATTACHMENT_STATE_ATTACHED: "attached",
    record_pb2.ATTACHMENT_STATE_DETACHING: "detaching",
    record_pb2.ATTACHMENT_STATE_BUSY: "busy",
}

_FILTERS = FilterTable[ec2.Volume](
    "ec2.DescribeVolumes",
    {
        "attachment.attach-time": lambda v: [written(a.attach_time) for a in v.attachments],
        "attachment.delete-on-termination": lambda v: [
            "true" if a.delete_on_termination else "false" for a in v.attachments
        ],
        "attachment.device": lambda v: [a.device for a in v.attachments],
        "attachment.instance-id": lambda v: [a.instance_id for a in v.attachments],
        "attachment.status": lambda v: [a.state for a in v.attachments],
        "availability-zone": lambda v: v.availability_zone,
        "availability-zone-id": lambda v: v.availability_zone_id,
        "create-time": lambda v: written(v.create_time),
        "encrypted": lambda v: v.encrypted,
        "multi-attach-enabled": lambda v: v.multi_attach_enabled,
        "operator.managed": lambda v: v.operator.managed,
        "size": lambda v: v.size,
        "snapshot-id": lambda v: v.snapshot_id,
        "status": lambda v: v.state,
        "volume-id": lambda v: v.volume_id,
        "volume-type": lambda v: v.volume_type,
    },
    tags=lambda v: as_mapping(v.tags),
    absent=(
        "fast-restored",
        "operator.principal",
    ),
)


@use_case("ec2.DescribeVolumes")
async def describe_volumes(cloud: Cloud, call: Call, request: ec2.DescribeVolumesRequest) -> ec2.DescribeVolumesResult:
    refuse_pages_of_named(request, request.volume_ids, "volumesSet")
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request, or_less=True)
    end_dry_run(request)
    pairs = ((volume, volume_view(cloud, volume.record)) for volume in select(cloud, call, VOLUME, request.volume_ids))
    views, token = shown_page(pairs, matches, request=request, limit=limit)
    return ec2.DescribeVolumesResult(volumes=views, next_token=token)


def volume_view(cloud: Cloud, volume: record_pb2.VolumeRecord) -> ec2.Volume:
    its = TYPES.get(volume.volume_type)
    return ec2.Volume(
        volume_id=volume.volume_id,
        state=STATES[volume.state],
        size=volume.size_gib,
        volume_type=volume.volume_type,
        iops=volume.iops or None,
        throughput=volume.throughput_mibps if its and its.throughput_mibps else None,
        snapshot_id=volume.snapshot_id,
        availability_zone=volume.zone,
        availability_zone_id=zone_id(cloud, volume.zone),
        create_time=volume.created,
        encrypted=False,
        multi_attach_enabled=False,
        operator=operator_pb2.OperatorResponse(managed=False),
        attachments=[attachment_view(volume)] if volume.HasField("attachment") else [],
        tags=shown(volume.tags),
    )


def attachment_view(volume: record_pb2.VolumeRecord) -> ec2.VolumeAttachment:
    attachment = volume.attachment
    return ec2.VolumeAttachment(
        volume_id=volume.volume_id,
        instance_id=attachment.instance_id,
        device=attachment.device_name,
        state=ATTACHMENT_STATES[attachment.state],
        attach_time=attachment.attached,
        delete_on_termination=attachment.delete_on_termination,
    )

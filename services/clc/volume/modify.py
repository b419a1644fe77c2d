"""ModifyVolume and DescribeVolumesModifications: a volume grows, or changes its type or limits, while it is used."""

from __future__ import annotations

from typing import Final, Literal

from common.errors import InvalidArgument, NotFound, WrongState
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import volume_pb2 as ec2
from services.clc.clock import timestamp, written
from services.clc.filters import FilterTable
from services.clc.listing import max_results_of, select, shown_page
from services.clc.lookup import VOLUME, own
from services.clc.store import Changes, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.volume.describe import STATES
from services.clc.volume.types import GIB, TYPES, Shape, check_shape, limits_of, type_of

MODIFYING: Final = record_pb2.MODIFICATION_STATE_MODIFYING
OPTIMIZING: Final = record_pb2.MODIFICATION_STATE_OPTIMIZING

_NAMES: Final[dict[int, str]] = {
    MODIFYING: "modifying",
    OPTIMIZING: "optimizing",
    record_pb2.MODIFICATION_STATE_COMPLETED: "completed",
    record_pb2.MODIFICATION_STATE_FAILED: "failed",
}
_PROGRESS: Final[dict[int, int]] = {
    MODIFYING: 0,
    OPTIMIZING: 50,
    record_pb2.MODIFICATION_STATE_COMPLETED: 100,
    record_pb2.MODIFICATION_STATE_FAILED: 0,
}
_WISHES: Final[tuple[Literal["size", "volume_type", "iops", "throughput"], ...]] = (
    "size",
    "volume_type",
    "iops",
    "throughput",
)
_STEADY: Final = frozenset({record_pb2.VOLUME_STATE_AVAILABLE, record_pb2.VOLUME_STATE_IN_USE})
# IOPS of a volume that gets a type which has some to provision, and nothing is said.
_DEFAULT_IOPS: Final = 3000

_FILTERS = FilterTable[ec2.VolumeModification](
    "ec2.DescribeVolumesModifications",
    {
        "modification-state": lambda m: m.modification_state,
        "original-iops": lambda m: m.original_iops,
        "original-size": lambda m: m.original_size,
        "original-volume-type": lambda m: m.original_volume_type,
        "originalMultiAttachEnabled": lambda m: m.original_multi_attach_enabled,
        "start-time": lambda m: written(m.start_time),
        "target-iops": lambda m: m.target_iops,
        "target-size": lambda m: m.target_size,
        "target-volume-type": lambda m: m.target_volume_type,
        "targetMultiAttachEnabled": lambda m: m.target_multi_attach_enabled,
        "volume-id": lambda m: m.volume_id,
    },
)


@use_case("ec2.ModifyVolume")
async def modify_volume(cloud: Cloud, call: Call, request: ec2.ModifyVolumeRequest) -> ec2.ModifyVolumeResult:
    async def attempt() -> ec2.ModifyVolumeResult:
        volume = own(cloud.store, VOLUME, call.account_id, request.volume_id)
        record = volume.record
        if record.state not in _STEADY:
            raise WrongState(f"Volume '{record.volume_id}' is in the '{STATES[record.state]}' state.")
        if record.modification.state in (MODIFYING, OPTIMIZING):
            raise WrongState(
                f"Volume {record.volume_id} cannot be modified in modification state"
                f" {_NAMES[record.modification.state].upper()}",
                code="IncorrectModificationState",
            )
        target = _target(record, request)
        with cloud.storage[record.zone].admitting((target.size_gib - record.size_gib) * GIB):
            end_dry_run(request)
            draft = volume.draft()
            draft.generation += 1
            draft.request_id = call.request_id
            _begin(draft, target, now=call.now)
            changes = Changes()
            changes.update(volume, draft)
            await cloud.store.commit(changes)
        return ec2.ModifyVolumeResult(volume_modification=_view(draft))

    return await until_committed(attempt)


@use_case("ec2.DescribeVolumesModifications")
async def describe_volumes_modifications(
    cloud: Cloud, call: Call, request: ec2.DescribeVolumesModificationsRequest
) -> ec2.DescribeVolumesModificationsResult:
    matches, limit = _FILTERS.matcher(request.filters), max_results_of(request, low=1, high=500)
    end_dry_run(request)
    volumes = select(cloud, call, VOLUME, request.volume_ids)
    modified = [volume for volume in volumes if volume.record.HasField("modification")]
    if request.volume_ids and len(modified) < len(volumes):
        never = next(v.record.volume_id for v in volumes if not v.record.HasField("modification"))
        raise NotFound(f"Modification for volume '{never}' does not exist.", code="InvalidVolumeModification.NotFound")
    pairs = ((volume, _view(volume.record)) for volume in modified)
    views, token = shown_page(pairs, matches, request=request, limit=limit)
    return ec2.DescribeVolumesModificationsResult(volumes_modifications=views, next_token=token)


def wanted_shape(volume: record_pb2.VolumeRecord) -> Shape:
    """What the storage controller is to make it: what it is to become, while it is modified."""
    to = volume.modification
    if to.state == MODIFYING:
        return Shape(
            size_gib=to.target_size_gib,
            volume_type=to.target_volume_type,
            iops=to.target_iops,
            throughput_mibps=to.target_throughput_mibps,
        )
    return shape_of_record(volume)


def shape_of_record(volume: record_pb2.VolumeRecord) -> Shape:
    return Shape(
        size_gib=volume.size_gib,
        volume_type=volume.volume_type,
        iops=volume.iops,
        throughput_mibps=volume.throughput_mibps,
    )


def _target(volume: record_pb2.VolumeRecord, request: ec2.ModifyVolumeRequest) -> Shape:
    """Raises InvalidArgument."""
    size_gib = request.size if request.HasField("size") else volume.size_gib
    if size_gib < volume.size_gib:
        raise InvalidArgument("New size cannot be smaller than existing size")
    kind = type_of(request.volume_type) if request.HasField("volume_type") else TYPES[volume.volume_type]
    same = kind.name == volume.volume_type
    iops = request.iops if request.HasField("iops") else None
    throughput = request.throughput if request.HasField("throughput") else None
    if iops is None and kind.iops is not None:
        iops = volume.iops if same else _DEFAULT_IOPS
        if volume.volume_type == "gp2" and kind.name == "gp3":
            # It is not slower than it was. (EBS User Guide, "Request modifications to your EBS volumes".)
            iops = max(iops, min(volume.iops, kind.iops_per_gib * size_gib))
    if throughput is None and kind.throughput_mibps is not None:
        throughput = volume.throughput_mibps if same else kind.throughput_mibps.low
        if volume.volume_type == "gp2":
            before_mibps = limits_of(shape_of_record(volume)).throughput_bytes_per_s >> 20
            throughput = max(throughput, min(before_mibps, (iops or 0) // 4))
    target = check_shape(size_gib=size_gib, volume_type=kind.name, iops=iops, throughput_mibps=throughput)
    said = (request.HasField(name) for name in _WISHES)
    if not any(said):
        raise InvalidArgument(
            "Invalid input: Must specify at least one of size, type, iops, throughput or multi-attach."
        )
    return target


def _begin(draft: record_pb2.VolumeRecord, target: Shape, *, now: float) -> None:
    draft.modification.CopyFrom(
        record_pb2.VolumeModificationRecord(
            state=MODIFYING,
            original_size_gib=draft.size_gib,
            original_volume_type=draft.volume_type,
            original_iops=draft.iops,
            original_throughput_mibps=draft.throughput_mibps,
            target_size_gib=target.size_gib,
            target_volume_type=target.volume_type,
            target_iops=target.iops,
            target_throughput_mibps=target.throughput_mibps,
            started=timestamp(now),
        )
    )


def _view(volume: record_pb2.VolumeRecord) -> ec2.VolumeModification:
    its = volume.modification
    return ec2.VolumeModification(
        volume_id=volume.volume_id,
        modification_state=_NAMES[its.state],
        status_message=its.message or None,
        original_size=its.original_size_gib,
        original_volume_type=its.original_volume_type,
        original_iops=its.original_iops or None,
        original_throughput=its.original_throughput_mibps or None,
        original_multi_attach_enabled=False,
        target_size=its.target_size_gib,
        target_volume_type=its.target_volume_type,
        target_iops=its.target_iops or None,
        target_throughput=its.target_throughput_mibps or None,
        target_multi_attach_enabled=False,
        progress=_PROGRESS[its.state],
        start_time=its.started,
        end_time=its.ended if its.HasField("ended") else None,
    )

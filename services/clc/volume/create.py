"""CreateVolume and DeleteVolume: recorded; the reconciler has the storage controller do it."""

from __future__ import annotations

from typing import Final

from common.errors import InvalidArgument, NotFound, WrongState
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import volume_pb2 as ec2
from services.clc.idempotency import earlier, remember, token_of
from services.clc.lookup import VOLUME, own
from services.clc.region.describe import zone_id
from services.clc.snapshot.find import completed_snapshot
from services.clc.store import Changes, until_committed
from services.clc.tag import rules as tags
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.volume.describe import STATES, volume_view
from services.clc.volume.new import shape_of, volume_record, within_volume_limit
from services.clc.volume.types import GIB

ACTION: Final = "CreateVolume"
# From which a volume can be deleted.
_DELETABLE: Final = frozenset({record_pb2.VOLUME_STATE_AVAILABLE, record_pb2.VOLUME_STATE_ERROR})


@use_case("ec2.CreateVolume")
async def create_volume(cloud: Cloud, call: Call, request: ec2.CreateVolumeRequest) -> ec2.Volume:
    async def attempt() -> ec2.Volume:
        if (made := earlier(cloud, call, ACTION, request)) is not None:
            return _made(cloud, call, request, made)
        changes = Changes()
        record = _record(cloud, call, request, changes)
        within_volume_limit(cloud, changes, call.account_id)
        with cloud.storage[record.zone].admitting(record.size_gib * GIB):
            end_dry_run(request)
            remember(changes, call, ACTION, request, record.volume_id)
            await cloud.store.commit(changes)
        return volume_view(cloud, record)

    return await until_committed(attempt)


@use_case("ec2.DeleteVolume")
async def delete_volume(cloud: Cloud, call: Call, request: ec2.DeleteVolumeRequest) -> ec2.DeleteVolumeResponse:
    async def attempt() -> ec2.DeleteVolumeResponse:
        volume = own(cloud.store, VOLUME, call.account_id, request.volume_id)
        record = volume.record
        if record.HasField("attachment"):
            raise WrongState(
                f"Volume {record.volume_id} is currently attached to {record.attachment.instance_id}",
                code="VolumeInUse",
            )
        if record.state == record_pb2.VOLUME_STATE_DELETING:
            end_dry_run(request)
            return ec2.DeleteVolumeResponse()
        if record.state not in _DELETABLE:
            raise WrongState(f"Volume '{record.volume_id}' is in the '{STATES[record.state]}' state.")
        end_dry_run(request)
        draft = volume.draft()
        draft.state = record_pb2.VOLUME_STATE_DELETING
        draft.request_id = call.request_id
        changes = Changes()
        changes.update(volume, draft)
        await cloud.store.commit(changes)
        return ec2.DeleteVolumeResponse()

    return await until_committed(attempt)


def _made(cloud: Cloud, call: Call, request: ec2.CreateVolumeRequest, volume_id: str) -> ec2.Volume:
    """By an earlier request of this token; it may be gone again."""
    used = token_of(cloud.store, call.account_id, ACTION, request.client_token)
    if used is not None and used.record.HasField("gone"):
        return ec2.Volume.FromString(used.record.last_shown)
    return volume_view(cloud, own(cloud.store, VOLUME, call.account_id, volume_id).record)


def _record(cloud: Cloud, call: Call, request: ec2.CreateVolumeRequest, changes: Changes) -> record_pb2.VolumeRecord:
    """Checked, and added to `changes`."""
    zone = _zone(cloud, request)
    given_tags = tags.from_specifications(request.tag_specifications, allowed=["volume"])["volume"]
    snapshot = None
    if request.HasField("snapshot_id"):
        snapshot = completed_snapshot(cloud.store, call.account_id, request.snapshot_id)
        # It must still be there when this is written.
        changes.require(snapshot)
    shape = shape_of(
        size_gib=request.size if request.HasField("size") else None,
        snapshot_gib=snapshot.record.volume_size_gib if snapshot else None,
        volume_type=request.volume_type,
        iops=request.iops if request.HasField("iops") else None,
        throughput_mibps=request.throughput if request.HasField("throughput") else None,
    )
    record = volume_record(call, shape, zone=zone, snapshot_id=request.snapshot_id, tags=given_tags)
    record.client_token = request.client_token
    changes.create(record)
    return record


def _zone(cloud: Cloud, request: ec2.CreateVolumeRequest) -> str:
    by_id = {zone_id(cloud, zone.name): zone.name for zone in cloud.config.zones}
    name, given_id = request.availability_zone, request.availability_zone_id
    if name and given_id:
        raise InvalidArgument(
            "The parameter availabilityZone cannot be used with the parameter availabilityZoneId",
            code="InvalidParameterCombination",
        )
    if not name and not given_id:
        raise InvalidArgument("The request must contain the parameter zone", code="MissingParameter")
    if given_id and given_id not in by_id:
        raise NotFound(f"The zone ID '{given_id}' does not exist.", code="InvalidZone.NotFound")
    if name and name not in by_id.values():
        raise NotFound(f"The zone '{name}' does not exist.", code="InvalidZone.NotFound")
    return name or by_id[given_id]

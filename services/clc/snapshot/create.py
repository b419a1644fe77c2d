"""CreateSnapshot and CreateSnapshots: the records first, then the point in time, then the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from common.errors import CloudError, InvalidArgument, NoCapacity, WrongState
from common.ids import SnapshotId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import snapshot_pb2 as ec2
from mallee.sc.v1 import service_pb2 as sc
from mallee.sc.v1 import snapshot_pb2 as sc_snapshot
from services.clc.clock import timestamp
from services.clc.lookup import INSTANCE, VOLUME, own, own_all
from services.clc.snapshot import rules
from services.clc.snapshot.view import info, view
from services.clc.store import Changes, Store, Stored, until_committed
from services.clc.tag import rules as tags
from services.clc.use_case import Call, Cloud, end_dry_run, use_case
from services.clc.volume.describe import STATES

Volume = Stored[record_pb2.VolumeRecord]
_READY = (record_pb2.VOLUME_STATE_AVAILABLE, record_pb2.VOLUME_STATE_IN_USE)


@use_case("ec2.CreateSnapshot")
async def create_snapshot(cloud: Cloud, call: Call, request: ec2.CreateSnapshotRequest) -> ec2.Snapshot:
    given_tags = tags.from_specifications(request.tag_specifications, allowed=["snapshot"])["snapshot"]
    check_location(request.location)
    check_description(request.description)

    async def attempt() -> list[record_pb2.SnapshotRecord]:
        volume = own(cloud.store, VOLUME, call.account_id, request.volume_id)
        check_ready(cloud.store, volume.record)
        end_dry_run(request)
        record = snapshot_of(call, volume.record, request.description, given_tags)
        changes = Changes()
        changes.require(volume)
        changes.create(record)
        await cloud.store.commit(changes)
        return [record]

    records = await until_committed(attempt)
    await fix_point(cloud, records)
    shown = view(_latest(cloud, records)[0], call.account_id)
    if shown.progress == "0%":
        # As EC2 has it in this answer alone.
        shown.progress = ""
    return shown


@use_case("ec2.CreateSnapshots")
async def create_snapshots(cloud: Cloud, call: Call, request: ec2.CreateSnapshotsRequest) -> ec2.CreateSnapshotsResult:
    given_tags = tags.from_specifications(request.tag_specifications, allowed=["snapshot"])["snapshot"]
    check_location(request.location)
    check_description(request.description)
    if request.copy_tags_from_source not in ("", "volume"):
        raise InvalidArgument(
            f"Value ({request.copy_tags_from_source}) for parameter copyTagsFromSource is invalid. Expecting volume."
        )

    async def attempt() -> list[record_pb2.SnapshotRecord]:
        volumes = _volumes(cloud, call, request.instance_specification)
        changes = Changes()
        records = []
        for volume in volumes:
            check_ready(cloud.store, volume.record)
            copied = volume.record.tags if request.copy_tags_from_source else {}
            its_tags = tags.merged(copied, given_tags)
            records.append(snapshot_of(call, volume.record, request.description, its_tags))
            changes.require(volume)
            changes.create(records[-1])
        end_dry_run(request)
        await cloud.store.commit(changes)
        return records

    records = await until_committed(attempt)
    await fix_point(cloud, records)
    return ec2.CreateSnapshotsResult(snapshots=[info(record) for record in _latest(cloud, records)])


def attached_to(cloud: Cloud, instance: record_pb2.InstanceRecord) -> list[Volume]:
    """The volumes that the instance has, in the order of their devices, and not those that are still to be made."""
    return [v for v in cloud.attached.of(instance.instance_id) if v.record.state == record_pb2.VOLUME_STATE_IN_USE]


def check_ready(store: Store, volume: record_pb2.VolumeRecord) -> None:
    """Raises WrongState, NoCapacity (ConcurrentSnapshotLimitExceeded)."""
    if volume.state not in _READY:
        raise WrongState(f"Volume '{volume.volume_id}' is in the '{STATES[volume.state]}' state.")
    pending = sum(
        snapshot.record.volume_id == volume.volume_id and snapshot.record.state == rules.PENDING
        for snapshot in store.owned(record_pb2.SnapshotRecord, volume.account_id)
    )
    if pending >= rules.MOST_PENDING.get(volume.volume_type, rules.MOST_PENDING_OF_OTHERS):
        raise NoCapacity(
            "Maximum allowed in-progress snapshots for a single volume exceeded.",
            code="ConcurrentSnapshotLimitExceeded",
        )


def check_location(location: str) -> None:
    if location not in ("", "regional"):
        raise InvalidArgument(f"Value ({location}) for parameter location is invalid. Expecting regional.")


def check_description(description: str) -> None:
    if len(description) > 255:
        raise InvalidArgument("Character limit exceeded: the description may have 255 characters")


def snapshot_of(
    call: Call, volume: record_pb2.VolumeRecord, description: str, its_tags: Mapping[str, str]
) -> record_pb2.SnapshotRecord:
    return record_pb2.SnapshotRecord(
        snapshot_id=SnapshotId.new(),
        account_id=call.account_id,
        state=rules.PENDING,
        volume_id=volume.volume_id,
        volume_size_gib=volume.size_gib,
        description=description,
        started=timestamp(call.now),
        tags=its_tags,
        zone=volume.zone,
        request_id=call.request_id,
    )


async def fix_point(cloud: Cloud, records: Sequence[record_pb2.SnapshotRecord]) -> None:
    """One point in time for all of these, which are in one zone. Raises CloudError when there is none, and they go.

    If this process dies before, the reconciler does it: nobody was answered yet.
    """
    try:
        await fix_point_of(cloud, records)
    except CloudError:
        await _give_up(cloud, [record.snapshot_id for record in records])
        raise


async def fix_point_of(cloud: Cloud, records: Sequence[record_pb2.SnapshotRecord]) -> None:
    """As often as it is asked for: a point that stands is not fixed anew. Raises CloudError."""
    if not records:
        return
    zone = cloud.storage[records[0].zone]
    specs = [
        sc_snapshot.SnapshotSpec(
            snapshot_id=record.snapshot_id, account_id=record.account_id, volume_id=record.volume_id
        )
        for record in records
    ]
    for observation in (await zone.stub.CreateSnapshots(sc.CreateSnapshotsRequest(specs=specs))).observations:
        zone.note(observation)


async def _give_up(cloud: Cloud, snapshot_ids: Sequence[str]) -> None:
    async def attempt() -> None:
        changes = Changes()
        for snapshot_id in snapshot_ids:
            stored = cloud.store.get(record_pb2.SnapshotRecord, snapshot_id)
            if stored is not None and stored.record.state == rules.PENDING:
                draft = stored.draft()
                draft.state = rules.DELETING
                changes.update(stored, draft)
        if changes:
            await cloud.store.commit(changes)

    await until_committed(attempt)


def _latest(cloud: Cloud, records: Sequence[record_pb2.SnapshotRecord]) -> list[record_pb2.SnapshotRecord]:
    """As they stand now, as far as anybody may see them; the storage controller may have been quick."""
    found = (cloud.store.get(record_pb2.SnapshotRecord, record.snapshot_id) for record in records)
    return [
        stored.record if stored is not None and stored.record.state in rules.SHOWN else record
        for stored, record in zip(found, records, strict=True)
    ]


def _volumes(cloud: Cloud, call: Call, wanted: ec2.InstanceSpecification) -> list[Volume]:
    instance = own(cloud.store, INSTANCE, call.account_id, wanted.instance_id).record
    there = attached_to(cloud, instance)
    root = [v for v in there if v.record.attachment.device_name == instance.root_device_name]
    left_out = own_all(cloud.store, VOLUME, call.account_id, wanted.exclude_data_volume_ids)
    for volume in left_out:
        if volume.key not in {v.key for v in there} or volume.key in {v.key for v in root}:
            raise InvalidArgument(
                f"The volume '{volume.record.volume_id}' is not a data volume of the instance '{instance.instance_id}'."
            )
    excluded = {v.key for v in left_out} | ({v.key for v in root} if wanted.exclude_boot_volume else set())
    volumes = [v for v in there if v.key not in excluded]
    if not volumes:
        raise InvalidArgument(f"The instance '{instance.instance_id}' has no volume to make a snapshot of.")
    return volumes

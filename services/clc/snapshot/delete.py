"""DeleteSnapshot. Images that are made of a snapshot keep it."""

from __future__ import annotations

from common.errors import WrongState
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import snapshot_pb2 as ec2
from services.clc.snapshot import rules
from services.clc.snapshot.find import Snapshot, own_snapshot, use_of
from services.clc.store import Changes, Store, until_committed
from services.clc.use_case import Call, Cloud, end_dry_run, use_case


@use_case("ec2.DeleteSnapshot")
async def delete_snapshot(cloud: Cloud, call: Call, request: ec2.DeleteSnapshotRequest) -> ec2.DeleteSnapshotResponse:
    async def attempt() -> ec2.DeleteSnapshotResponse:
        snapshot = own_snapshot(cloud.store, call.account_id, request.snapshot_id)
        if users := images_of(cloud.store, request.snapshot_id):
            raise WrongState(
                f"The snapshot {request.snapshot_id} is currently in use by {', '.join(sorted(users))}",
                code="InvalidSnapshot.InUse",
            )
        end_dry_run(request)
        changes = Changes()
        mark_deleted(cloud.store, changes, snapshot)
        await cloud.store.commit(changes)
        return ec2.DeleteSnapshotResponse()

    return await until_committed(attempt)


def images_of(store: Store, snapshot_id: str) -> list[str]:
    """Ids of the images that are made of it, whoever's they are."""
    return [
        image.record.image_id
        for image in store.all(record_pb2.ImageRecord)
        if image.record.state != record_pb2.IMAGE_STATE_DEREGISTERED
        and any(device.snapshot_id == snapshot_id for device in image.record.block_devices)
    ]


def mark_deleted(store: Store, changes: Changes, snapshot: Snapshot) -> None:
    """No image may have come to use it since `images_of` was asked."""
    name = use_of(snapshot.record.snapshot_id)
    changes.unchanged(name, store.bumped(name))
    draft = snapshot.draft()
    draft.state = rules.DELETING
    draft.tags.clear()
    changes.update(snapshot, draft)

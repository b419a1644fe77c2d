"""The point in time of an image that is taken of a running instance: its guest is shut down, the point of all its
volumes is fixed meanwhile, and it is booted again. By the leader alone; the image's record says how far it is.

Repeating any of it is safe, so a leader that dies leaves nothing but work for the next; a node that hears of none boots
the guest by itself. Its owner sees a running instance all the time.
(EC2 User Guide, "Create an Amazon EBS-backed AMI": the instance is shut down, snapshots are taken, it is rebooted.)
"""

from __future__ import annotations

from typing import Final

from common.errors import CloudError, InvalidArgument, NoCapacity, NotFound, Stale, Unavailable, WrongState
from common.log import get_logger
from mallee.cc.v1 import service_pb2 as cc
from mallee.clc.v1 import record_pb2
from services.clc.instance import rules as instances
from services.clc.instance.stop import STOP_GRACE_S
from services.clc.snapshot import rules as snapshots
from services.clc.snapshot.create import fix_point_of
from services.clc.store import Changes, Stored
from services.clc.use_case import Cloud

# The order is repeated after so long; without word from us a guest stays down for a while longer than that.
_REPEAT_S: Final = 5.0
_REST_S: Final = 60
# A guest that is not down by then, of a node that is silent, is not waited for.
_PATIENCE_S: Final = STOP_GRACE_S + 120.0
_FOR_GOOD: Final = (InvalidArgument, NoCapacity, NotFound, WrongState)
_log = get_logger(__name__)

Image = Stored[record_pb2.ImageRecord]


class Rests:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def step(self, image: Image) -> float | None:
        """The next thing to do for an image with a point; seconds to the next look."""
        record = image.record
        if record.point == record_pb2.IMAGE_POINT_DUE and record.state == record_pb2.IMAGE_STATE_PENDING:
            return await self._fix(image)
        if not self._others_wait(record):
            await self._wake(record)
        draft = image.draft()
        draft.point = record_pb2.IMAGE_POINT_UNSPECIFIED
        await self._replace(image, draft)
        return None

    async def _fix(self, image: Image) -> float | None:
        record = image.record
        if self._cloud.clock() - record.created.ToMilliseconds() / 1000 > _PATIENCE_S:
            await self._fail(image, "Server.InternalError", "The instance could not be shut down.")
            return None
        if not await self._rests(record):
            return _REPEAT_S
        try:
            await fix_point_of(self._cloud, [stored.record for stored in self._snapshots(record)])
        except _FOR_GOOD as error:
            await self._fail(image, error.code, error.message)
            return None
        draft = image.draft()
        draft.point = record_pb2.IMAGE_POINT_FIXED
        await self._replace(image, draft)
        _log.info("the point in time of an image is fixed", image_id=record.image_id)
        return None

    async def _rests(self, record: record_pb2.ImageRecord) -> bool:
        """Nothing of the guest runs; or it is told to come to rest."""
        instance = self._cloud.store.get(record_pb2.InstanceRecord, record.source_instance_id)
        if instance is None or instance.record.state in (instances.STOPPED, instances.TERMINATED):
            return True
        if instance.record.state != instances.RUNNING:
            return False
        try:
            return await self._order(instance.record, rest_s=_REST_S)
        except (Unavailable, WrongState, Stale, NotFound) as error:
            # It starts, moves or ends just now, or nobody answers.
            _log.info("no rest yet", instance_id=record.source_instance_id, error=error.message)
            return False

    async def _wake(self, record: record_pb2.ImageRecord) -> None:
        """One that does not hear of it wakes by itself."""
        instance = self._cloud.store.get(record_pb2.InstanceRecord, record.source_instance_id)
        if instance is None or instance.record.state != instances.RUNNING:
            return
        try:
            await self._order(instance.record, rest_s=0)
        except CloudError as error:
            _log.info("a guest wakes by itself", instance_id=record.source_instance_id, error=error.message)

    async def _order(self, instance: record_pb2.InstanceRecord, *, rest_s: int) -> bool:
        """Whether it is down for so long."""
        order = cc.RestInstanceRequest(
            instance_id=instance.instance_id, generation=instance.generation, grace_s=STOP_GRACE_S, rest_s=rest_s
        )
        return (await self._cloud.clusters.stub(instance.zone).RestInstance(order)).at_rest

    def _others_wait(self, record: record_pb2.ImageRecord) -> bool:
        return any(
            other.record.source_instance_id == record.source_instance_id
            and other.record.image_id != record.image_id
            and other.record.state == record_pb2.IMAGE_STATE_PENDING
            and other.record.point == record_pb2.IMAGE_POINT_DUE
            for other in self._cloud.store.owned(record_pb2.ImageRecord, record.account_id)
        )

    def _snapshots(self, record: record_pb2.ImageRecord) -> list[Stored[record_pb2.SnapshotRecord]]:
        """Those that its point in time is for, and that are still wanted."""
        found = (
            self._cloud.store.get(record_pb2.SnapshotRecord, device.snapshot_id) for device in record.block_devices
        )
        return [
            stored
            for stored in found
            if stored and stored.record.image_id == record.image_id and stored.record.state == snapshots.PENDING
        ]

    async def _fail(self, image: Image, code: str, message: str) -> None:
        """Its snapshots have failed; the image follows them."""
        _log.warning("an image comes to nothing", image_id=image.record.image_id, code=code, message=message)
        changes = Changes()
        for snapshot in self._snapshots(image.record):
            lost = snapshot.draft()
            lost.state, lost.reason_code, lost.reason_message = snapshots.ERROR, code, message
            changes.update(snapshot, lost)
        draft = image.draft()
        draft.point = record_pb2.IMAGE_POINT_FIXED
        changes.update(image, draft)
        await self._cloud.store.commit(changes)

    async def _replace(self, image: Image, draft: record_pb2.ImageRecord) -> None:
        changes = Changes()
        changes.update(image, draft)
        await self._cloud.store.commit(changes)

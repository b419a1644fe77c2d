"""Follows images to their end: pending ones until their snapshots are there, deregistered ones until Walrus has
forgotten what no launch needs any more, pins until their registration has ended; then their ids are known for a while.
"""

from __future__ import annotations

from typing import Final

from common.log import get_logger
from mallee.clc.v1 import record_pb2
from services.clc.idempotency import forget
from services.clc.image.copy import ACTION as COPY
from services.clc.image.record import GONE, gone_claim, next_state
from services.clc.image.rest import Rests
from services.clc.image.use_cases import pin_id, pinning_claim
from services.clc.instance import rules
from services.clc.snapshot import rules as snapshots
from services.clc.store import Changes, Stored
from services.clc.use_case import Cloud

_AGAIN_S: Final = 5.0
# A registration that has not ended after this long has died.
_PINNING_S: Final = 1800.0
_SWEEP_S: Final = 600.0
# A deregistered image is known for as long as a terminated instance is shown.
_REMEMBERED_S: Final = 3600.0
_log = get_logger(__name__)

Image = Stored[record_pb2.ImageRecord]


class ImageReconciler:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._rests = Rests(cloud)

    async def step(self, image_id: str) -> float | None:
        image = self._cloud.store.get(record_pb2.ImageRecord, image_id)
        if image is None:
            return None
        if image.record.point:
            return await self._rests.step(image)
        if image.record.state == record_pb2.IMAGE_STATE_PENDING:
            await self._follow(image)
        if image.record.state == record_pb2.IMAGE_STATE_DEREGISTERED:
            return await self._forget(image)
        return None

    async def _follow(self, image: Image) -> None:
        """Each change of one of its snapshots nudges this."""
        store = self._cloud.store
        ids = [device.snapshot_id for device in image.record.block_devices if device.snapshot_id]
        found = [store.get(record_pb2.SnapshotRecord, snapshot_id) for snapshot_id in ids]
        state = next_state(image.record.state, [s.record.state if s is not None else None for s in found])
        if state is None:
            return
        draft = image.draft()
        draft.state = state
        if state == record_pb2.IMAGE_STATE_FAILED:
            broken = next((s.record for s in found if s is not None and s.record.state == snapshots.ERROR), None)
            draft.state_reason_code = "Server.InternalError"
            draft.state_reason_message = (
                f"Snapshot {broken.snapshot_id} failed: {broken.reason_message}" if broken else "A snapshot was deleted"
            )
            _log.warning("an image failed", image_id=draft.image_id, message=draft.state_reason_message)
        changes = Changes()
        changes.update(image, draft)
        await store.commit(changes)

    async def _forget(self, image: Image) -> float | None:
        store, record = self._cloud.store, image.record
        if any(
            instance.record.state == rules.PENDING
            and record.image_id in (instance.record.image_id, instance.record.kernel_id, instance.record.ramdisk_id)
            for instance in store.all(record_pb2.InstanceRecord)
        ):
            return _AGAIN_S
        if record.sha256:
            await self._cloud.images.unpin(pin_id(record.image_id))
        changes = Changes()
        changes.delete(image)
        changes.claim(gone_claim(record.account_id, record.image_id), str(self._cloud.clock()))
        forget(store, changes, account_id=record.account_id, action=COPY, token=record.client_token)
        await store.commit(changes)
        return None

    async def sweep(self, _: str) -> float | None:
        store, now = self._cloud.store, self._cloud.clock()
        for pin in list(store.claims("pinning/")):
            since = store.holder(pinning_claim(pin))
            if since is not None and now - float(since) > _PINNING_S:
                await self._cloud.images.unpin(pin)
                changes = Changes()
                changes.release(pinning_claim(pin))
                await store.commit(changes)
        for gone in list(store.claims(GONE)):
            since = store.holder(f"{GONE}{gone}")
            if since is not None and now - float(since) > _REMEMBERED_S:
                changes = Changes()
                changes.release(f"{GONE}{gone}")
                await store.commit(changes)
        return _SWEEP_S

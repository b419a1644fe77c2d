"""Lets Walrus forget images: deregistered ones that no launch still needs, and pins whose registration was cut off."""

from __future__ import annotations

from typing import Final

from mallee.clc.v1 import record_pb2
from services.clc.image.use_cases import pin_id, pinning_claim
from services.clc.instance import rules
from services.clc.store import Changes
from services.clc.use_case import Cloud

_AGAIN_S: Final = 5.0
# A registration that has not ended after this long has died.
_PINNING_S: Final = 1800.0
_SWEEP_S: Final = 600.0


class ImageReconciler:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def step(self, image_id: str) -> float | None:
        store = self._cloud.store
        image = store.get(record_pb2.ImageRecord, image_id)
        if image is None or image.record.state != record_pb2.IMAGE_STATE_DEREGISTERED:
            return None
        if any(
            instance.record.state == rules.PENDING
            and image_id in (instance.record.image_id, instance.record.kernel_id, instance.record.ramdisk_id)
            for instance in store.all(record_pb2.InstanceRecord)
        ):
            return _AGAIN_S
        await self._cloud.images.unpin(pin_id(image_id))
        changes = Changes()
        changes.delete(image)
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
        return _SWEEP_S

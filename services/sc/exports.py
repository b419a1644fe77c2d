"""Who may use a volume, durably: granted by the CLC, redeemed by the node, revoked until nobody can write."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Final

from common.errors import NotFound, Unavailable
from common.ids import VolumeId
from mallee.sc.v1.record_pb2 import VolumeRecord
from mallee.sc.v1.volume_pb2 import VOLUME_STATE_AVAILABLE, VOLUME_STATE_DELETING, Grant
from services.sc import grants
from services.sc.drivers.base import ExportGrant, ExportPlace
from services.sc.engine import Engine
from services.sc.grants import Grants, Holder
from services.sc.store import Records

# How long a node is kept waiting for its grant: it asks again.
PATIENCE_S: Final = 10.0


class Exports:
    def __init__(self, volumes: Records[VolumeRecord], engine: Engine) -> None:
        self._volumes = volumes
        self._engine = engine
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    def changed(self, volume_id: str) -> None:
        """Its record was written."""
        for event in self._waiting.get(volume_id, ()):
            event.set()

    async def grant(self, volume_id: str, grant: Grant) -> None:
        """Durable when it returns. Raises NotFound, WrongState, Stale."""
        holder = Holder(generation=grant.generation, node=grant.node, instance_id=grant.instance_id)

        def change(record: VolumeRecord | None) -> VolumeRecord:
            if record is None or record.state == VOLUME_STATE_DELETING:
                raise _not_found(volume_id)
            return _with(record, grants.grant(grants_of(record), holder))

        await self._volumes.update(volume_id, change)

    async def revoke(self, volume_id: str, generation: int) -> None:
        """When it returns the node is cut off. Raises Unavailable."""

        def begin(record: VolumeRecord | None) -> VolumeRecord | None:
            return record and _with(record, grants.begin_revoke(grants_of(record), generation))

        def end(record: VolumeRecord | None) -> VolumeRecord | None:
            return record and _with(record, grants.end_revoke(grants_of(record), generation))

        record = await self._volumes.update(volume_id, begin)
        if record is None or not record.revoking:
            return
        async with self._engine.alone(VolumeId(volume_id)):
            # Another one may have ended it, and a newer grant may have been redeemed, while this one waited.
            record = self._volumes.get(volume_id)
            if record is None or not record.revoking:
                return
            await self._engine.driver.unexport(VolumeId(volume_id))
            await self._volumes.update(volume_id, end)
        self._engine.look_again()

    async def redeem(
        self, volume_id: str, generation: int, *, node: str, local: bool, patience_s: float = PATIENCE_S
    ) -> ExportPlace:
        """Raises Denied, Unavailable."""
        await self._wait_for_grant(volume_id, generation, node, patience_s)
        async with self._engine.alone(VolumeId(volume_id)):
            # Revoked while it waited for its turn: the cut comes after this, or came before.
            if self._holder(volume_id, generation, node) is None:
                raise _no_grant(volume_id, generation)
            grant = ExportGrant(generation=generation, node=node, local=local)
            place = await self._engine.driver.export(VolumeId(volume_id), grant)
        self._engine.look_again()
        return place

    async def _wait_for_grant(self, volume_id: str, generation: int, node: str, patience_s: float) -> None:
        changed = asyncio.Event()
        self._waiting[volume_id].add(changed)
        try:
            async with asyncio.timeout(patience_s):
                while self._holder(volume_id, generation, node) is None:
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            raise _no_grant(volume_id, generation) from None
        finally:
            self._waiting[volume_id].discard(changed)
            if not self._waiting[volume_id]:
                del self._waiting[volume_id]

    def _holder(self, volume_id: str, generation: int, node: str) -> Holder | None:
        record = self._volumes.get(volume_id)
        if record is None:
            return None
        holder = grants.redeem(grants_of(record), generation, node)
        return holder if record.state == VOLUME_STATE_AVAILABLE else None


def grants_of(record: VolumeRecord) -> Grants:
    standing = None
    if record.HasField("grant"):
        grant = record.grant
        standing = Holder(generation=grant.generation, node=grant.node, instance_id=grant.instance_id)
    return Grants(standing=standing, revoking=record.revoking, newest=record.newest_grant)


def _with(record: VolumeRecord, now: Grants) -> VolumeRecord:
    record.ClearField("grant")
    if now.standing is not None:
        held = now.standing
        record.grant.CopyFrom(Grant(generation=held.generation, node=held.node, instance_id=held.instance_id))
    record.revoking, record.newest_grant = now.revoking, now.newest
    return record


def _not_found(volume_id: str) -> NotFound:
    return NotFound(f"{volume_id} is not in this zone", code="InvalidVolume.NotFound")


def _no_grant(volume_id: str, generation: int) -> Unavailable:
    return Unavailable(f"{volume_id} is not granted as generation {generation} yet")

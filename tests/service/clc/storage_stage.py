"""A storage controller that the test plays: it does what it is told at once, unless it is slow, away or refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from common.errors import CloudError, NotFound, Stale, Unavailable, WrongState
from mallee.sc.v1 import service_pb2 as sc
from mallee.sc.v1 import volume_pb2 as volumes
from tests.service.clc.played_snapshots import PlayedSnapshots

GIB = 1 << 30


class PlayedStorage(PlayedSnapshots):
    def __init__(self, zone: str, *, free_gib: int = 20_000) -> None:
        super().__init__()
        self.zone = zone
        self.capacity = sc.StorageCapacity(total_bytes=free_gib * GIB, free_bytes=free_gib * GIB)
        self.specs: dict[str, volumes.VolumeSpec] = {}
        self.volumes: dict[str, volumes.VolumeObservation] = {}
        # Volume → the newest generation of a grant that was revoked.
        self.revoked: dict[str, int] = {}
        # Every order, as it came: ("grant", volume id, generation) …
        self.orders: list[tuple[str, str, int]] = []
        self.away = False
        # Volumes are not made, and changes do not come into force, until `finish`.
        self.slow = False
        # Of every order of that name.
        self.refuse: dict[str, CloudError] = {}
        # The order of this number, counted from 1, is done, and who gave it never hears so. 0: none.
        self.silent_at = 0

    # What Peers would give.
    def leader_stub(self, _: object) -> PlayedStorage:
        if self.away:
            raise Unavailable("nobody leads the zone now")
        return self

    async def EnsureVolume(self, request: sc.EnsureVolumeRequest) -> sc.EnsureVolumeResponse:
        spec = request.spec
        self._ordered("ensure", spec.volume_id, spec.generation)
        known = self.specs.get(spec.volume_id)
        if known is not None and known.generation > spec.generation:
            raise Stale("the generation is stale")
        self.specs[spec.volume_id] = spec
        if spec.volume_id not in self.volumes:
            self.volumes[spec.volume_id] = volumes.VolumeObservation(
                volume_id=spec.volume_id, state=volumes.VOLUME_STATE_CREATING
            )
        if not self.slow:
            self.finish(spec.volume_id)
        await self._answer()
        return sc.EnsureVolumeResponse(observation=self.volumes[spec.volume_id])

    async def DeleteVolume(self, request: sc.DeleteVolumeRequest) -> sc.DeleteVolumeResponse:
        self._ordered("delete", request.volume_id, 0)
        found = self.volumes.get(request.volume_id)
        if found is None:
            return sc.DeleteVolumeResponse(gone=True)
        if found.HasField("grant"):
            raise WrongState("a grant stands")
        if self.slow:
            self.says(request.volume_id, state=volumes.VOLUME_STATE_DELETING)
            return sc.DeleteVolumeResponse(gone=False)
        self.gone(request.volume_id)
        await self._answer()
        return sc.DeleteVolumeResponse(gone=True)

    async def GrantExport(self, request: sc.GrantExportRequest) -> sc.GrantExportResponse:
        self._ordered("grant", request.volume_id, request.grant.generation)
        found = self.volumes.get(request.volume_id)
        if found is None:
            raise NotFound("no such volume")
        if request.grant.generation <= self.revoked.get(request.volume_id, 0):
            raise Stale("it was revoked")
        if found.HasField("grant") and found.grant.generation != request.grant.generation:
            raise WrongState("another grant stands")
        self.says(request.volume_id, grant=request.grant)
        await self._answer()
        return sc.GrantExportResponse()

    async def RevokeExport(self, request: sc.RevokeExportRequest) -> sc.RevokeExportResponse:
        self._ordered("revoke", request.volume_id, request.generation)
        self.revoked[request.volume_id] = max(request.generation, self.revoked.get(request.volume_id, 0))
        found = self.volumes.get(request.volume_id)
        if found is not None and found.HasField("grant") and found.grant.generation <= request.generation:
            changed = volumes.VolumeObservation()
            changed.CopyFrom(found)
            changed.ClearField("grant")
            self._tell(changed)
        await self._answer()
        return sc.RevokeExportResponse()

    async def WatchStorage(self, _: object) -> AsyncIterator[sc.WatchStorageResponse]:
        queue: asyncio.Queue[sc.WatchStorageResponse] = asyncio.Queue()
        self._streams.append(queue)
        yield sc.WatchStorageResponse(capacity=self.capacity)
        for observation in list(self.volumes.values()):
            yield sc.WatchStorageResponse(volume=observation)
        for snapshot in list(self.snapshots.values()):
            yield sc.WatchStorageResponse(snapshot=snapshot)
        for export in list(self.exports.values()):
            yield sc.WatchStorageResponse(export=export)
        yield sc.WatchStorageResponse(snapshot_complete=True)
        while not self.away:
            yield await queue.get()

    def finish(self, volume_id: str) -> None:
        """It is there as its spec says."""
        spec = self.specs[volume_id]
        self.says(
            volume_id,
            state=volumes.VOLUME_STATE_AVAILABLE,
            generation=spec.generation,
            size_bytes=spec.size_bytes,
        )

    def fails(self, volume_id: str, code: str, message: str) -> None:
        self.says(volume_id, state=volumes.VOLUME_STATE_FAILED, reason_code=code, message=message)

    def gone(self, volume_id: str) -> None:
        self.volumes.pop(volume_id)
        self.specs.pop(volume_id, None)
        self._put(volumes.VolumeObservation(volume_id=volume_id, state=volumes.VOLUME_STATE_GONE))

    def says(self, volume_id: str, **more: object) -> None:
        changed = volumes.VolumeObservation(volume_id=volume_id)
        if volume_id in self.volumes:
            changed.CopyFrom(self.volumes[volume_id])
        changed.MergeFrom(volumes.VolumeObservation(**more))  # type: ignore[arg-type]
        self._tell(changed)

    def names(self, volume_id: str) -> list[str]:
        """The orders of one volume, in turn."""
        return [name for name, its_id, _ in self.orders if its_id == volume_id]

    def _ordered(self, name: str, volume_id: str, generation: int) -> None:
        self.orders.append((name, volume_id, generation))
        if name in self.refuse:
            raise self.refuse[name]

    async def _answer(self) -> None:
        if len(self.orders) == self.silent_at:
            await asyncio.Event().wait()

    def _tell(self, observation: volumes.VolumeObservation) -> None:
        self.volumes[observation.volume_id] = observation
        self._put(observation)

    def _put(self, observation: volumes.VolumeObservation) -> None:
        self.send(sc.WatchStorageResponse(volume=observation))

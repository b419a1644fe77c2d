"""The gRPC handlers of the storage controller. Only in a term of its own does it answer."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from typing import Any, Final

from common import metrics
from common.errors import Denied, NotFound, Unavailable
from common.etcd.client import Etcd
from common.etcd.election import Leadership
from common.rpc.context import current_peer, remaining_s
from mallee.sc.v1 import service_pb2 as sc
from mallee.sc.v1.service_pb2_grpc import StorageControllerServiceServicer
from mallee.sc.v1.volume_pb2 import Export, TlsEndpoint, VolumeState
from services.sc.drivers.base import ExportPlace
from services.sc.exports import PATIENCE_S
from services.sc.term import Parts, Term, leading
from services.sc.volume import State

# Of a redeeming node's deadline, to make the export in.
_KEPT_BACK_S: Final = 1.0

Context = Any


class StorageController(StorageControllerServiceServicer):
    """`lead` is its part in the election; outside of it every call answers Unavailable.

    `host_id`: of this machine; empty: every client is to come over TLS.
    """

    def __init__(self, zone: str, member_id: str, *, host_id: str) -> None:
        self.zone = zone
        self._member_id = member_id
        self._host_id = host_id
        self._term: Term | None = None
        self._count()

    async def lead(self, leadership: Leadership, etcd: Etcd, parts: Parts) -> None:
        """Serves until the term is lost."""
        async with leading(etcd, parts, zone=self.zone, leadership=leadership) as term:
            self._term = term
            try:
                await leadership.lost.wait()
            finally:
                self._term = None

    @property
    def leads(self) -> bool:
        return self._term is not None

    async def stop(self) -> None:
        """Ends the watches, so that the server can drain."""
        if self._term is not None:
            self._term.end()

    async def EnsureVolume(self, request: sc.EnsureVolumeRequest, context: Context) -> sc.EnsureVolumeResponse:
        term = self._leader()
        await term.orders.ensure(request.spec)
        record = term.store.volumes.get(request.spec.volume_id)
        if record is None:
            raise NotFound(f"{request.spec.volume_id} is gone", code="InvalidVolume.NotFound")
        return sc.EnsureVolumeResponse(observation=term.volumes.observation(record))

    async def DeleteVolume(self, request: sc.DeleteVolumeRequest, context: Context) -> sc.DeleteVolumeResponse:
        return sc.DeleteVolumeResponse(gone=await self._leader().orders.delete(request.volume_id))

    async def GrantExport(self, request: sc.GrantExportRequest, context: Context) -> sc.GrantExportResponse:
        await self._leader().exports.grant(request.volume_id, request.grant)
        return sc.GrantExportResponse()

    async def RevokeExport(self, request: sc.RevokeExportRequest, context: Context) -> sc.RevokeExportResponse:
        await self._leader().exports.revoke(request.volume_id, request.generation)
        return sc.RevokeExportResponse()

    async def RedeemExport(self, request: sc.RedeemExportRequest, context: Context) -> sc.RedeemExportResponse:
        peer = current_peer()
        if peer is None:
            raise Denied("an export is for nodes, which show a certificate")
        left_s = remaining_s()
        place = await self._leader().exports.redeem(
            request.volume_id,
            request.generation,
            node=peer.member_id,
            local=bool(self._host_id) and request.host_id == self._host_id,
            patience_s=PATIENCE_S if left_s is None else max(0.0, min(PATIENCE_S, left_s - _KEPT_BACK_S)),
        )
        return sc.RedeemExportResponse(export=self._export(place))

    async def CreateSnapshots(self, request: sc.CreateSnapshotsRequest, context: Context) -> sc.CreateSnapshotsResponse:
        return sc.CreateSnapshotsResponse(observations=await self._leader().snapshots.create(request.specs))

    async def SettleSnapshot(self, request: sc.SettleSnapshotRequest, context: Context) -> sc.SettleSnapshotResponse:
        await self._leader().snapshots.settle(request.snapshot_id)
        return sc.SettleSnapshotResponse()

    async def DeleteSnapshot(self, request: sc.DeleteSnapshotRequest, context: Context) -> sc.DeleteSnapshotResponse:
        return sc.DeleteSnapshotResponse(gone=await self._leader().snapshots.delete(request.snapshot_id))

    async def ImportSnapshot(self, request: sc.ImportSnapshotRequest, context: Context) -> sc.ImportSnapshotResponse:
        await self._leader().snapshots.import_snapshot(request.spec)
        return sc.ImportSnapshotResponse()

    async def ExportSnapshot(self, request: sc.ExportSnapshotRequest, context: Context) -> sc.ExportSnapshotResponse:
        await self._leader().tasks.begin(request.spec)
        return sc.ExportSnapshotResponse()

    async def CancelExport(self, request: sc.CancelExportRequest, context: Context) -> sc.CancelExportResponse:
        await self._leader().tasks.cancel(request.task_id)
        return sc.CancelExportResponse()

    async def WatchStorage(
        self, request: sc.WatchStorageRequest, context: Context
    ) -> AsyncIterator[sc.WatchStorageResponse]:
        async for response in self._leader().feed.watch():
            yield response

    async def DescribeStorage(self, request: sc.DescribeStorageRequest, context: Context) -> sc.DescribeStorageResponse:
        term = self._leader()
        volumes, snapshots = term.store.volumes.all(), term.store.snapshots.all()
        return sc.DescribeStorageResponse(
            capacity=term.capacity.describe(),
            volumes=[term.volumes.observation(volumes[key]) for key in sorted(volumes)],
            snapshots=[term.snapshots.observation(snapshots[key]) for key in sorted(snapshots)],
        )

    def _leader(self) -> Term:
        if self._term is None:
            raise Unavailable(f"this storage controller does not lead {self.zone} now")
        return self._term

    def _export(self, place: ExportPlace) -> Export:
        if place.socket is not None:
            return Export(unix_socket=str(place.socket), name=place.name, size_bytes=place.size_bytes)
        endpoint = TlsEndpoint(address=place.address, port=place.port, server_name=self._member_id)
        return Export(tls=endpoint, name=place.name, size_bytes=place.size_bytes)

    def _count(self) -> None:
        """Gauges; a standby owns nothing and shows zeros."""

        def show(name: str, help_: str, read: Any) -> None:
            metrics.gauge(name, help_, read=lambda: float(read(self._term)) if self._term else 0.0)

        show("mallee_sc_leads", "1 on the leader of the zone", lambda _: 1)
        show("mallee_sc_total_bytes", "What volumes may take on this host", lambda t: t.capacity.total_bytes)
        show("mallee_sc_used_bytes", "What volumes take on this host", lambda t: t.engine.used_bytes)
        show("mallee_sc_promised_bytes", "Sizes of all volumes together", lambda t: t.capacity.promised_bytes)
        # What the process that reads snapshots for them has before it: it has no metrics of its own.
        show(
            "mallee_sc_missing_bytes",
            "What volumes have yet to read of the snapshots they are made of",
            lambda t: sum(seen.missing_bytes for seen in t.engine.seen.values()),
        )
        volumes = metrics.gauge("mallee_sc_volumes", "Volumes by state", ("state",))

        def count(state: State) -> float:
            records = self._term.store.volumes.all().values() if self._term else ()
            return float(sum(record.state == state.value for record in records))

        for state in State:
            name = VolumeState.Name(state.value).removeprefix("VOLUME_STATE_").lower()
            volumes.labels(name).set_function(functools.partial(count, state))

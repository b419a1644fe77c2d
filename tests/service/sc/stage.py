"""What the tests of the storage controller play on: a zone with the fake driver, and a Walrus that is a dictionary."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from common.background import Background
from common.blocks import BLOCK_BYTES
from common.errors import NotFound, Unavailable
from common.etcd.client import Etcd
from common.etcd.election import Election, Leadership
from common.etcd.sync import connected
from common.etcd.types import Txn, TxnResult
from common.ids import AccountId, SnapshotId, VolumeId
from common.pki import Identity
from common.rpc.channel import cloud_errors, connect
from common.rpc.server import RpcServer
from mallee.sc.v1 import record_pb2, snapshot_pb2, volume_pb2
from mallee.sc.v1 import service_pb2 as sc
from mallee.sc.v1.service_pb2_grpc import (
    StorageControllerServiceStub,
    add_StorageControllerServiceServicer_to_server,
)
from services.sc.clients import BaseMissing, Progress, Upload, Uploaded, Uploader
from services.sc.drivers.base import Extent, NbdSource, VolumeDriver
from services.sc.drivers.fake import FakeVolumes, Faults
from services.sc.import_image import Imports
from services.sc.service import StorageController
from services.sc.snapshots import FULL_PATIENCE_S
from services.sc.term import Parts
from tests.eventually import eventually

if TYPE_CHECKING:
    from mallee.sc.v1.service_pb2_grpc import StorageControllerServiceAsyncStub

ZONE = "us-east-1a"
ACCOUNT = "123456789012"
MIB = 1 << 20
CREATING, AVAILABLE, FAILED, GONE = (
    volume_pb2.VOLUME_STATE_CREATING,
    volume_pb2.VOLUME_STATE_AVAILABLE,
    volume_pb2.VOLUME_STATE_FAILED,
    volume_pb2.VOLUME_STATE_GONE,
)
COMPLETED = snapshot_pb2.SNAPSHOT_STATE_COMPLETED


def volume_id(number: int) -> VolumeId:
    return VolumeId(f"vol-{number:017x}")


def snapshot_id(number: int) -> SnapshotId:
    return SnapshotId(f"snap-{number:017x}")


def spec(
    number: int, *, generation: int = 1, size_bytes: int = 4 * MIB, snapshot: str = "", iops: int = 0
) -> volume_pb2.VolumeSpec:
    return volume_pb2.VolumeSpec(
        volume_id=volume_id(number),
        account_id=ACCOUNT,
        generation=generation,
        size_bytes=size_bytes,
        snapshot_id=snapshot,
        limits=volume_pb2.VolumeLimits(iops=iops),
    )


class Steps:
    """Counts what a controller does to the world: before and after each, one step. At the chosen one it stops dead."""

    def __init__(self, stop_at: int) -> None:
        self.count = 0
        self.last = ""
        self.dead = asyncio.Event()
        self._stop_at = stop_at

    async def step(self, name: str) -> None:
        if not self.dead.is_set():
            self.count += 1
            self.last = name
        if self.count == self._stop_at:
            self.dead.set()
            await asyncio.get_running_loop().create_future()

    def spare(self) -> None:
        """It does not stop any more."""
        self._stop_at = 0

    def around(self, inner: object) -> object:
        return _Stepped(inner, self)


class _Stepped:
    """Of a driver or an uploader: what changes something."""

    def __init__(self, inner: object, steps: Steps) -> None:
        self._inner, self._steps = inner, steps

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in ("create", "resize", "limit", "remove", "export", "unexport", "freeze", "release", "upload"):
            return found

        async def stepped(*args: Any, **kwargs: Any) -> Any:
            await self._steps.step(f"before {name}")
            answer = await found(*args, **kwargs)
            await self._steps.step(f"after {name}")
            return answer

        return stepped


class _SteppedEtcd(Etcd):
    def __init__(self, address: str, steps: Steps) -> None:
        super().__init__([address], None)
        self._steps = steps

    async def txn(self, txn: Txn) -> TxnResult:
        counts = any(b"/mallee/sc/" in compare.key for compare in txn.request.compare)
        if counts:
            await self._steps.step("before a write")
        result = await super().txn(txn)
        if counts:
            await self._steps.step("after a write")
        return result


class Blocks:
    """Walrus, as far as snapshots go: blocks of whole snapshots by index. Uploader and Sources."""

    def __init__(self) -> None:
        self.snapshots: dict[str, dict[int, bytes]] = {}
        self.bases: dict[str, str | None] = {}
        self.sent: dict[str, int] = {}
        self.forgotten: list[str] = []
        self.served: set[SnapshotId] = set()
        self.serves = 0
        # Where those are that are really served.
        self.places: dict[str, NbdSource] = {}
        # Uploads wait here.
        self.gate = asyncio.Event()
        self.gate.set()
        self.uploading: set[str] = set()
        self.error: Exception | None = None
        # Uploads that came to nothing.
        self.refused = 0

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def destroy(self) -> None: ...

    async def upload(self, upload: Upload, tell: Callable[[Progress], None]) -> Uploaded:
        self.uploading.add(upload.snapshot_id)
        try:
            await self.gate.wait()
            if self.error is not None:
                self.refused += 1
                raise self.error
            return await self._upload(upload, tell)
        finally:
            self.uploading.discard(upload.snapshot_id)

    async def _upload(self, upload: Upload, tell: Callable[[Progress], None]) -> Uploaded:
        if upload.base is not None and upload.base not in self.snapshots:
            raise BaseMissing("the base is gone")
        blocks = dict(self.snapshots[upload.base]) if upload.base else {}
        sent = 0
        extents = await upload.content.changed()
        for extent in extents:
            for start in range(extent.start, extent.start + extent.length, BLOCK_BYTES):
                length = min(BLOCK_BYTES, upload.content.size_bytes - start)
                content = await upload.content.read(Extent(start=start, length=length))
                blocks[start // BLOCK_BYTES] = content
                sent += length
                tell(Progress(looked_at_bytes=sent, to_look_at_bytes=sum(e.length for e in extents), sent_bytes=sent))
        self.snapshots[upload.snapshot_id] = {k: v for k, v in blocks.items() if v.strip(b"\0")}
        self.bases[upload.snapshot_id], self.sent[upload.snapshot_id] = upload.base, sent
        progress = Progress(looked_at_bytes=sent, to_look_at_bytes=sent, sent_bytes=sent)
        return Uploaded(progress=progress, full_bytes=sum(map(len, self.snapshots[upload.snapshot_id].values())))

    async def forget(self, snapshot_id: SnapshotId) -> None:
        self.forgotten.append(snapshot_id)
        self.snapshots.pop(snapshot_id, None)

    async def serve(self, snapshot_id: SnapshotId) -> NbdSource:
        if snapshot_id not in self.snapshots:
            raise NotFound(f"Walrus has no {snapshot_id}", code="InvalidSnapshot.NotFound")
        self.served.add(snapshot_id)
        self.serves += 1
        nowhere = NbdSource(socket=Path("/nowhere"), name=snapshot_id, size_bytes=0)
        return self.places.get(snapshot_id, nowhere)

    async def stop(self, snapshot_id: SnapshotId, *, unless: Callable[[], bool]) -> None:
        self.served -= frozenset() if unless() else {snapshot_id}

    async def serving(self) -> frozenset[SnapshotId]:
        return frozenset(self.served)

    async def fetch(self, source: NbdSource, into: Path) -> None:
        """What the fake driver reads a source with."""
        with into.open("r+b") as file:
            for index, content in self.snapshots[source.name].items():
                file.seek(index * BLOCK_BYTES)
                file.write(content)


class Objects:
    """Buckets, as files."""

    def __init__(self) -> None:
        self.objects: dict[bytes, bytes] = {}
        self.fetches = 0

    async def fetch(
        self, account_id: AccountId, bucket: str, key: bytes, into: Path, tell: Callable[[int, int], None]
    ) -> None:
        self.fetches += 1
        if key not in self.objects:
            raise NotFound("The specified key does not exist.", code="NoSuchKey")
        tell(0, len(self.objects[key]))
        await asyncio.to_thread(into.write_bytes, self.objects[key])

    async def store(
        self, account_id: AccountId, bucket: str, key: bytes, source: Path, tell: Callable[[int, int], None]
    ) -> None:
        self.objects[key] = await asyncio.to_thread(source.read_bytes)


class Zone:
    """One storage controller, and the CLC's and two nodes' view of it."""

    def __init__(self, stage: Stage, steps: Steps | None = None) -> None:
        self._steps = steps
        self.volumes: dict[str, volume_pb2.VolumeObservation] = {}
        self.snapshots: dict[str, snapshot_pb2.SnapshotObservation] = {}
        self.tasks: dict[str, snapshot_pb2.ExportObservation] = {}
        self.gone: list[str] = []
        self.capacity = sc.StorageCapacity()
        self.controller = StorageController(ZONE, "sc-1", host_id="here")
        self.driver = FakeVolumes(stage.folder / "engine", fetch=stage.blocks.fetch, faults=stage.faults)
        self._stage = stage
        self._stack = AsyncExitStack()
        self.clc: StorageControllerServiceAsyncStub
        self.nodes: dict[str, StorageControllerServiceAsyncStub] = {}

    async def start(self) -> None:
        """Started, elected and watched."""
        stage = self._stage
        steps = self._steps
        etcd = Etcd([stage.etcd_address], None) if steps is None else _SteppedEtcd(stage.etcd_address, steps)
        await self._stack.enter_async_context(etcd)
        parts = Parts(
            driver=self.driver if steps is None else cast(VolumeDriver, steps.around(self.driver)),
            uploader=stage.blocks if steps is None else cast(Uploader, steps.around(stage.blocks)),
            sources=stage.blocks,
            objects=stage.objects,
            import_image=Imports(stage.objects, stage.blocks, reserve_bytes=stage.reserve_bytes).run,
            work=stage.folder / "work",
            overcommit=1.0,
            reserve_bytes=stage.reserve_bytes,
            clock=lambda: stage.now,
            full_patience_s=stage.full_patience_s,
        )
        server = RpcServer(stage.identities["sc-1"])
        server.add(add_StorageControllerServiceServicer_to_server, self.controller)
        await server.start()
        self._stack.push_async_callback(server.stop, 0.0)
        for member in ("clc-1", "nc-1", "nc-2"):
            channel = connect(f"127.0.0.1:{server.ports[0]}", stage.identities[member], "sc-1")
            self._stack.push_async_callback(channel.close)
            self.nodes[member] = StorageControllerServiceStub(channel)
        self.clc = self.nodes["clc-1"]

        async def lead(leadership: Leadership) -> None:
            await self.controller.lead(leadership, etcd, parts)

        tasks = await self._stack.enter_async_context(Background())
        tasks.start(Election(etcd, f"sc/{ZONE}", "sc-1", ttl_s=3).run(lead))
        await eventually(lambda: self.controller.leads)
        tasks.start(self._watch())

    async def stop(self) -> None:
        """As a kill would: nothing is said to anybody."""
        await self._stack.aclose()

    async def _watch(self) -> None:
        with contextlib.suppress(Unavailable), cloud_errors():
            async for response in self.clc.WatchStorage(sc.WatchStorageRequest()):
                match response.WhichOneof("event"):
                    case "volume" if response.volume.state == GONE:
                        self.volumes.pop(response.volume.volume_id, None)
                        self.gone.append(response.volume.volume_id)
                    case "volume":
                        self.volumes[response.volume.volume_id] = response.volume
                    case "snapshot" if response.snapshot.state == snapshot_pb2.SNAPSHOT_STATE_GONE:
                        self.snapshots.pop(response.snapshot.snapshot_id, None)
                        self.gone.append(response.snapshot.snapshot_id)
                    case "snapshot":
                        self.snapshots[response.snapshot.snapshot_id] = response.snapshot
                    case "export" if response.export.state == snapshot_pb2.SNAPSHOT_STATE_GONE:
                        self.gone.append(response.export.task_id)
                    case "export":
                        self.tasks[response.export.task_id] = response.export
                    case "capacity":
                        self.capacity = response.capacity

    def state(self, number: int) -> int:
        observation = self.volumes.get(volume_id(number))
        return observation.state if observation else 0

    def snapshot_state(self, number: int) -> int:
        observation = self.snapshots.get(snapshot_id(number))
        return observation.state if observation else 0

    async def ensure(self, volume: volume_pb2.VolumeSpec) -> volume_pb2.VolumeObservation:
        return (await self.clc.EnsureVolume(sc.EnsureVolumeRequest(spec=volume))).observation

    async def make(self, *numbers: int, size_bytes: int = 4 * MIB) -> None:
        """Available when it returns."""
        for number in numbers:
            await self.ensure(spec(number, size_bytes=size_bytes))
        await eventually(lambda: all(self.state(number) == AVAILABLE for number in numbers))

    async def delete(self, number: int) -> None:
        """Gone when it returns."""
        await self.clc.DeleteVolume(sc.DeleteVolumeRequest(volume_id=volume_id(number)))
        await eventually(lambda: volume_id(number) in self.gone)

    async def grant(self, number: int, generation: int, node: str = "nc-1") -> None:
        grant = volume_pb2.Grant(generation=generation, node=node, instance_id="i-00000000000000001")
        await self.clc.GrantExport(sc.GrantExportRequest(volume_id=volume_id(number), grant=grant))

    async def revoke(self, number: int, generation: int) -> None:
        await self.clc.RevokeExport(sc.RevokeExportRequest(volume_id=volume_id(number), generation=generation))

    async def redeem(
        self, number: int, generation: int, node: str = "nc-1", *, host_id: str = "here", timeout: float = 10.0
    ) -> volume_pb2.Export:
        request = sc.RedeemExportRequest(volume_id=volume_id(number), generation=generation, host_id=host_id)
        return (await self.nodes[node].RedeemExport(request, timeout=timeout)).export

    async def snapshot(self, **volumes: int) -> None:
        """`s7=1`: snapshot 7 of volume 1. All at one point in time."""
        specs = [
            snapshot_pb2.SnapshotSpec(
                snapshot_id=snapshot_id(int(name[1:])), account_id=ACCOUNT, volume_id=volume_id(number)
            )
            for name, number in volumes.items()
        ]
        await self.clc.CreateSnapshots(sc.CreateSnapshotsRequest(specs=specs))


class Stage:
    def __init__(
        self, stack: AsyncExitStack, *, etcd_address: str, identities: Mapping[str, Identity], folder: Path
    ) -> None:
        self.etcd_address = etcd_address
        self.identities = identities
        self.folder = folder
        self.blocks = Blocks()
        self.objects = Objects()
        self.faults = Faults()
        # Of the disk, for imports and exports.
        self.reserve_bytes = 0
        self.now = 0.0
        # Of controllers that start from now on.
        self.full_patience_s = FULL_PATIENCE_S
        self._stack = stack

    async def zone(self, steps: Steps | None = None) -> Zone:
        zone = Zone(self, steps)
        self._stack.push_async_callback(zone.stop)
        await zone.start()
        return zone

    def volume_records(self) -> dict[str, record_pb2.VolumeRecord]:
        """As the independent witness reads them."""
        with connected(self.etcd_address) as witness:
            found = [
                record_pb2.VolumeRecord.FromString(value)
                for value, _ in witness.get_prefix(f"/mallee/sc/{ZONE}/volume/")
            ]
        return {record.spec.volume_id: record for record in found}

    def snapshot_records(self) -> list[str]:
        """Ids."""
        with connected(self.etcd_address) as witness:
            prefix = f"/mallee/sc/{ZONE}/snapshot/"
            return [item.key.decode().removeprefix(prefix) for _, item in witness.get_prefix(prefix)]

    def engine_files(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "engine" / "volumes").iterdir())

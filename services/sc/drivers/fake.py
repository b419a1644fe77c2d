"""Volumes without storage daemons: the real driver's promises in a folder, without root. Shipped, with fault knobs.

Its state is files, one folder for each volume, so that a restarted storage controller finds its predecessor's; a FIFO
named `control` is its back door for tests and demonstrations, one command per line:

    die VOLUME              its storage daemon dies, and comes back when `revive_s` have passed
    lose-points             every point in time is lost, as when the host reboots
    lose VOLUME             its data is lost
    faults JSON             sets the fields of Faults
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.back_door import BackDoor
from common.blocks import BLOCK_BYTES
from common.errors import CloudError, NoCapacity, NotFound, Unavailable, WrongState
from common.ids import SnapshotId, VolumeId
from services.sc.drivers import sparse
from services.sc.drivers.base import (
    ExportGrant,
    ExportPlace,
    Extent,
    Frozen,
    Limits,
    NbdSource,
    ObservedVolume,
    Volume,
)
from services.sc.drivers.extents import whole_blocks
from services.sc.drivers.feed import Feed

# As large as a test of a tool may wish.
_PRETENDED_BYTES: Final = 1 << 48

# Writes all of a source into a file of its size.
Fetch = Callable[[NbdSource, Path], Awaitable[None]]


@dataclass(slots=True, kw_only=True)
class Faults:
    """What goes wrong. All off by default."""

    create_delay_s: float = 0.0
    freeze_delay_s: float = 0.0
    unexport_delay_s: float = 0.0
    read_delay_s: float = 0.0
    # So many of the next creations fail.
    failing_creates: int = 0
    # So many of the next freezes cannot be done.
    failing_freezes: int = 0
    # It cannot be told whether a client is cut off.
    stuck_clients: bool = False
    # Every call answers Unavailable.
    silent: bool = False
    # Nothing more fits.
    full: bool = False
    # How long a storage daemon that died stays away.
    revive_s: float = 0.0
    total_bytes: int = _PRETENDED_BYTES


class FakeVolumes:
    def __init__(self, folder: Path, *, fetch: Fetch | None = None, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self._folder = folder
        self._volumes = folder / "volumes"
        self._fetch = fetch
        self._control = BackDoor(folder / "control", self._command)
        self._feed = Feed()

    async def open(self) -> None:
        self._volumes.mkdir(parents=True, exist_ok=True)
        for left_over in self._volumes.glob("*.new"):
            shutil.rmtree(left_over)
        self._control.open()
        for volume_id in self._ids():
            self._change(volume_id, dead=False)

    async def close(self) -> None:
        self._control.close()

    async def create(self, volume: Volume) -> None:
        self._reach()
        await asyncio.sleep(self.faults.create_delay_s)
        if self._path(volume.volume_id).exists():
            return
        if self.faults.failing_creates > 0:
            self.faults.failing_creates -= 1
            raise CloudError("the fake storage was told to fail")
        self._check_room(volume.size_bytes)
        new = self._path(volume.volume_id).with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        (new / "points").mkdir(parents=True)
        await asyncio.to_thread(sparse.make, new / "data", volume.size_bytes)
        if volume.source is not None:
            if self._fetch is None:
                raise Unavailable("the fake storage was given nothing to read snapshots with")
            await self._fetch(volume.source, new / "data")
            os.truncate(new / "data", volume.size_bytes)
        meta = {"limits": dataclasses.asdict(volume.limits), "exported": None, "dead": False}
        (new / "meta.json").write_text(json.dumps(meta))
        new.rename(self._path(volume.volume_id))
        self._feed.publish(volume.volume_id)

    async def resize(self, volume_id: VolumeId, size_bytes: int) -> None:
        self._reach()
        data = self._get(volume_id) / "data"
        grows_by = size_bytes - data.stat().st_size
        if grows_by > 0:
            self._check_room(grows_by)
            os.truncate(data, size_bytes)

    async def limit(self, volume_id: VolumeId, limits: Limits) -> None:
        self._reach()
        self._get(volume_id)
        self._change(volume_id, limits=dataclasses.asdict(limits))

    async def remove(self, volume_id: VolumeId) -> None:
        self._reach()
        path = self._path(volume_id)
        if not path.exists():
            shutil.rmtree(path.with_suffix(".new"), ignore_errors=True)
            return
        if self._meta(volume_id)["exported"]:
            raise WrongState(f"{volume_id} is exported", code="VolumeInUse")
        gone = path.with_suffix(".new")
        path.rename(gone)
        await asyncio.to_thread(shutil.rmtree, gone)

    async def export(self, volume_id: VolumeId, grant: ExportGrant) -> ExportPlace:
        self._reach()
        data = self._get(volume_id) / "data"
        wanted, there = dataclasses.asdict(grant), self._meta(volume_id)["exported"]
        if there and there["generation"] != grant.generation:
            raise WrongState(f"{volume_id} is exported to {there['node']}", code="VolumeInUse")
        if not there:
            self._change(volume_id, exported=wanted)
        size_bytes = data.stat().st_size
        if grant.local:
            return ExportPlace(name=volume_id, size_bytes=size_bytes, socket=self._folder / f"{volume_id}.sock")
        # RFC 863's: nobody answers there, as there is nobody.
        return ExportPlace(name=volume_id, size_bytes=size_bytes, address="127.0.0.1", port=9)

    async def unexport(self, volume_id: VolumeId) -> None:
        self._reach()
        await asyncio.sleep(self.faults.unexport_delay_s)
        if self.faults.stuck_clients:
            raise Unavailable("the fake storage was told not to know")
        if self._path(volume_id).exists():
            self._change(volume_id, exported=None)

    async def freeze(self, points: Mapping[SnapshotId, VolumeId]) -> None:
        self._reach()
        await asyncio.sleep(self.faults.freeze_delay_s)
        for volume_id in points.values():
            self._get(volume_id)
        if self.faults.failing_freezes > 0:
            self.faults.failing_freezes -= 1
            raise WrongState("the fake storage was told not to freeze")
        # Nobody writes meanwhile: clients of the fake are in this process, and this does not give way.
        files = {self._path(volume_id) / "points" / snapshot_id: volume_id for snapshot_id, volume_id in points.items()}
        if all(file.exists() for file in files):
            return
        for file, volume_id in files.items():
            sparse.copy(self._path(volume_id) / "data", file.with_suffix(".new"))
        for file in files:
            file.with_suffix(".new").rename(file)

    @contextlib.asynccontextmanager
    async def frozen(self, snapshot_id: SnapshotId, *, base: SnapshotId | None) -> AsyncIterator[Frozen]:
        self._reach()
        path = self._point(snapshot_id)
        if path is None:
            raise NotFound(f"the point {snapshot_id} does not stand")
        older = path.parent.parent / f"base-{base}"
        yield _FrozenFile(path, older if base and older.exists() else None, whole=base is not None, faults=self.faults)

    async def release(self, snapshot_id: SnapshotId, *, keep_as_base: bool) -> None:
        self._reach()
        path = self._point(snapshot_id)
        if path is None:
            return
        if keep_as_base:
            for older in path.parent.parent.glob("base-*"):
                older.unlink()
            path.rename(path.parent.parent / f"base-{snapshot_id}")
        else:
            path.unlink()

    async def observe(self) -> Mapping[VolumeId, ObservedVolume]:
        self._reach()
        return {volume_id: self._observed(volume_id) for volume_id in self._ids()}

    def changes(self) -> AsyncIterator[VolumeId]:
        return self._feed.subscribe()

    async def capacity(self) -> tuple[int, int]:
        self._reach()
        used = sum(sparse.used_bytes(self._path(volume_id) / "data") for volume_id in self._ids())
        return used if self.faults.full else self.faults.total_bytes, used

    async def destroy(self) -> None:
        await self.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # The client's and the host's side: what the back door and tests do.

    def client_writes(self, volume_id: VolumeId, node: str, offset: int, content: bytes) -> None:
        """Raises ConnectionError if this node cannot reach it."""
        with self._reached(volume_id, node).open("r+b") as file:
            os.pwrite(file.fileno(), content, offset)

    def client_reads(self, volume_id: VolumeId, node: str, offset: int, length: int) -> bytes:
        """Raises ConnectionError if this node cannot reach it."""
        with self._reached(volume_id, node).open("rb") as file:
            return os.pread(file.fileno(), length, offset)

    def daemon_dies(self, volume_id: VolumeId) -> None:
        self._change(volume_id, dead=True)
        self._feed.publish(volume_id)
        asyncio.get_running_loop().call_later(self.faults.revive_s, self._revive, volume_id)

    def points_are_lost(self) -> None:
        for volume_id in self._ids():
            for point in (self._path(volume_id) / "points").iterdir():
                point.unlink()
            self._feed.publish(volume_id)

    def data_is_lost(self, volume_id: VolumeId) -> None:
        shutil.rmtree(self._path(volume_id))
        self._feed.publish(volume_id)

    def limits_of(self, volume_id: VolumeId) -> Limits:
        return Limits(**self._meta(volume_id)["limits"])

    def _revive(self, volume_id: VolumeId) -> None:
        if self._path(volume_id).exists():
            self._change(volume_id, dead=False)
            self._feed.publish(volume_id)

    def _reached(self, volume_id: VolumeId, node: str) -> Path:
        meta = self._meta(volume_id) if self._path(volume_id).exists() else {"exported": None}
        if not meta["exported"] or meta["exported"]["node"] != node or meta["dead"]:
            raise ConnectionError(f"{volume_id} cannot be reached by {node}")
        return self._path(volume_id) / "data"

    def _command(self, verb: str, argument: str = "") -> None:
        match verb:
            case "die":
                self.daemon_dies(VolumeId(argument))
            case "lose":
                self.data_is_lost(VolumeId(argument))
            case "lose-points":
                self.points_are_lost()
            case "faults":
                self.faults = dataclasses.replace(self.faults, **json.loads(argument))

    def _reach(self) -> None:
        if self.faults.silent:
            raise Unavailable("the fake storage was told not to answer")

    def _check_room(self, size_bytes: int) -> None:
        taken = sum((self._path(volume_id) / "data").stat().st_size for volume_id in self._ids())
        if self.faults.full or taken + size_bytes > self.faults.total_bytes:
            raise NoCapacity("the fake storage is full", code="InsufficientVolumeCapacity")

    def _ids(self) -> Sequence[VolumeId]:
        return [VolumeId(path.name) for path in sorted(self._volumes.iterdir()) if VolumeId.matches(path.name)]

    def _path(self, volume_id: VolumeId) -> Path:
        return self._volumes / volume_id

    def _get(self, volume_id: VolumeId) -> Path:
        path = self._path(volume_id)
        if not path.exists():
            raise NotFound(f"{volume_id} is not here", code="InvalidVolume.NotFound")
        return path

    def _point(self, snapshot_id: SnapshotId) -> Path | None:
        return next(self._volumes.glob(f"*/points/{snapshot_id}"), None)

    def _meta(self, volume_id: VolumeId) -> dict[str, Any]:
        meta: dict[str, Any] = json.loads((self._path(volume_id) / "meta.json").read_text())
        return meta

    def _change(self, volume_id: VolumeId, **changes: Any) -> None:
        path = self._path(volume_id) / "meta.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps(self._meta(volume_id) | changes))
        new.replace(path)

    def _observed(self, volume_id: VolumeId) -> ObservedVolume:
        path, meta = self._path(volume_id), self._meta(volume_id)
        return ObservedVolume(
            size_bytes=(path / "data").stat().st_size,
            used_bytes=sparse.used_bytes(path / "data"),
            missing_bytes=0,
            exported=ExportGrant(**meta["exported"]) if meta["exported"] else None,
            frozen=frozenset(
                SnapshotId(point.name) for point in (path / "points").iterdir() if SnapshotId.matches(point.name)
            ),
            trouble="its storage daemon is away" if meta["dead"] else "",
        )


class _FrozenFile:
    """`base` None with `whole`: it is not known any more what has changed."""

    def __init__(self, path: Path, base: Path | None, *, whole: bool, faults: Faults) -> None:
        self.size_bytes = path.stat().st_size
        self._path = path
        self._base = base
        self._whole = whole
        self._faults = faults

    async def changed(self) -> Sequence[Extent]:
        if self._base is not None:
            return await asyncio.to_thread(self._different, self._base)
        if self._whole:
            return [Extent(start=0, length=self.size_bytes)]
        return await asyncio.to_thread(self._written)

    async def read(self, extent: Extent) -> bytes:
        await asyncio.sleep(self._faults.read_delay_s)
        return await asyncio.to_thread(self._read, extent)

    def _read(self, extent: Extent) -> bytes:
        try:
            with self._path.open("rb") as file:
                return os.pread(file.fileno(), extent.length, extent.start)
        except FileNotFoundError:
            raise NotFound("the point is lost") from None

    def _written(self) -> list[Extent]:
        with self._path.open("rb") as file:
            return whole_blocks(sparse.data_of(file.fileno()), self.size_bytes)

    def _different(self, base: Path) -> list[Extent]:
        with self._path.open("rb") as new, base.open("rb") as old:
            touched = {
                number
                for file in (new, old)
                for start, length in sparse.data_of(file.fileno())
                for number in range(start // BLOCK_BYTES, -(-(start + length) // BLOCK_BYTES))
            }
            return [
                self._block(number)
                for number in sorted(touched)
                if os.pread(new.fileno(), BLOCK_BYTES, number * BLOCK_BYTES)
                != os.pread(old.fileno(), BLOCK_BYTES, number * BLOCK_BYTES).ljust(self._block(number).length, b"\0")
            ]

    def _block(self, number: int) -> Extent:
        start = number * BLOCK_BYTES
        return Extent(start=start, length=min(BLOCK_BYTES, self.size_bytes - start))

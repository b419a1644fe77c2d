"""What a storage controller needs of an engine that keeps volumes: a Protocol with promises.

Every method is idempotent and safe to cancel and call again. `observe` asks the engine, never a memory of our own, so a
restarted controller finds its predecessor's volumes, exports and frozen points. Data paths outlive the controller:
closing the driver, or killing its process, cuts no client off. Implementations pass tests/contract/test_volumes.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.ids import SnapshotId, VolumeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of all clients together; 0: none. One operation is at most 256 KiB, a larger one counts as several."""

    iops: int = 0
    throughput_bytes_per_s: int = 0
    burst_iops: int = 0
    burst_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NbdSource:
    """A read-only NBD export on a unix socket of this host that a new volume starts with. It may go away and come back:
    reads wait for it."""

    socket: Path
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    volume_id: VolumeId
    size_bytes: int
    limits: Limits
    # None: it starts as zeros. A smaller source is followed by zeros.
    source: NbdSource | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportGrant:
    """The one client that may use a volume."""

    generation: int
    # Name in the client's certificate.
    node: str
    # The client runs on this host: it gets a unix socket.
    local: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlace:
    """NBD. Either `socket`, or address and port with TLS."""

    name: str
    size_bytes: int
    socket: Path | None = None
    address: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedVolume:
    """As the engine has it."""

    size_bytes: int
    used_bytes: int
    # Of its source: not fetched yet.
    missing_bytes: int
    # The grant whose client can reach it now. None: nobody can.
    exported: ExportGrant | None
    # Points in time that still stand.
    frozen: frozenset[SnapshotId]
    # Empty: it works. Else why it cannot be used, for a person; the engine goes on trying to bring it back.
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Bytes of a volume, both in whole blocks (common/blocks.py) but at the volume's end."""

    start: int
    length: int


class Frozen(Protocol):
    """A volume as it was at one point in time, read while its client writes on."""

    size_bytes: int

    async def changed(self) -> Sequence[Extent]:
        """What may differ from the base that it was opened with; without one, whatever was ever written."""

    async def read(self, extent: Extent) -> bytes:
        """Raises Unavailable if the engine does not answer, NotFound if the point is lost."""


class VolumeDriver(Protocol):
    async def open(self) -> None:
        """Adopts what stands, brings back what should be there and died."""

    async def close(self) -> None:
        """Lets go of everything; clients go on."""

    async def create(self, volume: Volume) -> None:
        """Usable when it returns. What its source has comes on first read and in the background, and from then on it
        does not need it. One that is there is left alone.

        Raises NoCapacity before anything is written.
        """

    async def resize(self, volume_id: VolumeId, size_bytes: int) -> None:
        """Grows it, while it is used. A client sees the new size when it connects again; nothing is cut.

        Raises NotFound, NoCapacity, WrongState while a point of it stands that keeps it from growing.
        """

    async def limit(self, volume_id: VolumeId, limits: Limits) -> None:
        """In force for the next operation. Raises NotFound."""

    async def remove(self, volume_id: VolumeId) -> None:
        """Nothing of it is left, frozen points included; what it held is never read again by anybody. Unknown: nothing.

        Raises WrongState while it is exported.
        """

    async def export(self, volume_id: VolumeId, grant: ExportGrant) -> ExportPlace:
        """To this client alone. Repeating it answers the same place, which stays through the engine's own restarts.

        Raises NotFound, WrongState while the export of another generation stands.
        """

    async def unexport(self, volume_id: VolumeId) -> None:
        """When it returns no client can read or write, and the place of the last export leads nowhere.

        Unknown: nothing. Raises Unavailable if it cannot be told whether the client is cut off.
        """

    async def freeze(self, points: Mapping[SnapshotId, VolumeId]) -> None:
        """Fixes one point in time of all these volumes, all or none: a write that a client began after another was
        acknowledged to it is in no point that lacks the other. Clients wait for milliseconds. Points that all stand are
        left alone. One of each volume at a time. From a point on, what its volume changes is known (`frozen`).

        Raises NotFound, WrongState if one cannot be frozen now; then none is.
        """

    def frozen(self, snapshot_id: SnapshotId, *, base: SnapshotId | None) -> AbstractAsyncContextManager[Frozen]:
        """Opens a point for reading. `base`: an earlier point of the same volume; if it is not known any more what has
        changed since, everything counts as changed. Raises NotFound if the point does not stand."""

    async def release(self, snapshot_id: SnapshotId, *, keep_as_base: bool) -> None:
        """The point is not read any more. `keep_as_base`: what changes from it on is still told to a later one; older
        bases of the volume are forgotten. Unknown: nothing."""

    async def observe(self) -> Mapping[VolumeId, ObservedVolume]:
        """Every volume of this controller that the engine has."""

    def changes(self) -> AsyncIterator[VolumeId]:
        """Volumes to look at again, from this call on: one whose engine died or came back, that a source was fetched
        for, that filled up."""

    async def capacity(self) -> tuple[int, int]:
        """Bytes that volumes may take here in all, what they take now included; and what they take now."""

    async def destroy(self) -> None:
        """Removes everything this controller made: volumes, daemons, sockets."""

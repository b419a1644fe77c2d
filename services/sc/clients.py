"""What a storage controller needs of others: Walrus, by way of the pieces that speak to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.errors import CloudError
from common.ids import AccountId, SnapshotId
from services.sc.drivers.base import Frozen, NbdSource


class BaseMissing(CloudError):
    """The snapshot that a new one builds on is not in Walrus any more: upload it without a base."""

    default_code = "InvalidSnapshot.NotFound"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    snapshot_id: SnapshotId
    account_id: AccountId
    # `content.changed()` is told against it. None: blocks outside of what changed are zero.
    base: SnapshotId | None
    content: Frozen
    # A folder of this upload's own, where it may note what it has done so far. It goes when the snapshot has ended.
    notes: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Bytes of the volume but for `sent_bytes`, which are compressed."""

    looked_at_bytes: int = 0
    to_look_at_bytes: int = 0
    sent_bytes: int = 0
    # Unchanged, zero, or in Walrus before.
    saved_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    progress: Progress
    # Nominal bytes of all blocks that are not zero, the base's included.
    full_bytes: int


class Uploader(Protocol):
    async def upload(self, upload: Upload, tell: Callable[[Progress], None]) -> Uploaded:
        """Returns when the snapshot is sealed: whole, durable, independent of its base.

        Safe to cancel and to call again, also by another process: what is in Walrus does not travel again, and one that
        is sealed already returns at once. `tell` is cheap and called often. Raises Unavailable (call again later),
        BaseMissing, NotFound if the point is lost, NoCapacity if Walrus is full.
        """

    async def forget(self, snapshot_id: SnapshotId) -> None:
        """Walrus has nothing of it any more, sealed or not. Unknown: nothing. Raises Unavailable."""


class Sources(Protocol):
    """Snapshots in Walrus, readable as NBD exports on sockets of this host. What serves them outlives this process."""

    async def open(self) -> None:
        """Adopts what stands, starts again what should and died."""

    async def close(self) -> None:
        """Lets go of it; readers go on."""

    async def serve(self, snapshot_id: SnapshotId) -> NbdSource:
        """Repeating it answers the same place. Started again when it dies, until `stop`.

        Raises NotFound if Walrus has no such snapshot, Unavailable.
        """

    async def stop(self, snapshot_id: SnapshotId, *, unless: Callable[[], bool]) -> None:
        """Nothing of it is left on this host. Unknown: nothing. `unless`: asked when no `serve` of it is under way and
        none can begin; somebody needs it again, and it is left alone."""

    async def serving(self) -> frozenset[SnapshotId]:
        """Those that `serve` was called for and `stop` was not, by earlier processes too."""

    async def destroy(self) -> None:
        """Ends all of it."""


class Objects(Protocol):
    """Objects of users' buckets. Errors are as S3 would answer that account."""

    async def fetch(
        self, account_id: AccountId, bucket: str, key: bytes, into: Path, tell: Callable[[int, int], None]
    ) -> None:
        """Goes on where an earlier try stopped, if the object is still the same. `tell`: bytes here, bytes in all."""

    async def store(
        self, account_id: AccountId, bucket: str, key: bytes, source: Path, tell: Callable[[int, int], None]
    ) -> None:
        """The whole file as one object, or nothing."""

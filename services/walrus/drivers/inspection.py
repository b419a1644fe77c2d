"""What Walrus needs of its index to look at all of it: for the scrub, for backups, and for what outlives a restart.

Part of drivers/base.py Index. Implementations pass tests/contract/test_walrus_inspection.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.walrus.drivers.base import BlobId, Pin


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    blob: BlobId
    # It has at least so many bytes.
    size: int
    # Of blocks of snapshots.
    pack: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Bodies:
    """Some of the bytes that stand in the index itself."""

    # Where to go on; None: these were the last.
    next: int | None
    count: int
    size: int
    damaged: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Some of what the index says: of objects, buckets, uploads and all else that is not their bytes."""

    # Where to go on; empty: these were the last.
    next: str
    count: int
    # Whose are damaged.
    damaged: Sequence[str]


# What is kept of an encryption, made anew; None: it cannot be. It is called within the step that keeps it.
Seal = Callable[[bytes], bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resealed:
    # Where to go on; empty: these were the last.
    next: str
    changed: int
    # Whose could not be made anew, in words.
    unopened: Sequence[str]


class Inspection(Protocol):
    async def needed(self, *, after: str, limit: int) -> list[Needed]:
        """Blobs that must be there, in the order of their ids from the first that is greater on. Garbage is none."""

    async def owners(self, blob: BlobId) -> list[str]:
        """Whose it is, in words: as StoreFinding of mallee.walrus.v1 has them. May be slow."""

    async def rows(self, *, start: str, limit: int) -> Rows:
        """From the beginning where `start` is empty."""

    async def reseal(self, seal: Seal, *, start: str, limit: int) -> Resealed:
        """What some versions of objects and some open uploads say of their encryption, if they are encrypted, is
        replaced by what `seal` makes of it: in one step. From the beginning where `start` is empty."""

    async def bodies(self, *, start: int, limit: int) -> Bodies: ...

    async def owners_of_body(self, body: int) -> list[str]: ...

    async def owners_of_blocks(self, digests: Sequence[bytes]) -> list[str]:
        """The snapshots that have one of them. May be slow."""

    async def pins(self) -> list[Pin]: ...

    async def unsound(self) -> list[str]:
        """What the engine's own check says of itself. May be slow."""

    async def garbage_count(self) -> int:
        """Blobs that were let go and are not deleted yet."""

    async def copy_to(self, path: Path) -> Inspection:
        """All of the index as it stands at some moment within the call, in one new file, durable but for its name,
        while clients write. What comes back reads the copy."""

    async def note(self, name: str) -> str:
        """What was noted under that name; empty: nothing was."""

    async def put_note(self, name: str, text: str) -> None: ...

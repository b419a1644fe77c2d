"""What Walrus needs of its index for snapshots: blocks, who needs them, and manifests. Part of drivers/base.py Index.

A snapshot's manifest is pages of 256 block digests; snapshots that are alike share pages. Who needs a block is counted:
each place in a page, and each open upload that found or stored it. A block that nobody needs goes in the step that
takes the last need away, and a pack (a blob of many blocks) that has none left is noted as garbage in that step.
Implementations pass tests/contract/test_walrus_blocks.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.walrus.drivers.base import BlobId


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlock:
    digest: bytes
    # Where its bytes lie.
    pack: BlobId
    start: int
    length: int
    # Of the content, unpacked.
    size: int
    compressed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    snapshot_id: str
    account_id: str
    # Of the volume.
    size: int
    # Of all blocks that are not zero, unpacked.
    full_bytes: int


# Page number -> place in the page -> digest; an empty one: the block is zero.
Changes = Mapping[int, Mapping[int, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockUsage:
    snapshots: int
    uploads: int
    # What blocks take, and what the packs that hold them take.
    block_bytes: int
    pack_bytes: int


class BlockIndex(Protocol):
    """The promises of Index hold. An upload begins with the first step that names its snapshot."""

    async def claim(self, snapshot_id: str, digests: Sequence[bytes], *, now_ms: int) -> set[bytes]:
        """Those that are not here. The others stay as long as the upload does.

        Raises WrongState if the snapshot is sealed.
        """

    async def add(self, snapshot_id: str, blocks: Sequence[StoredBlock], *, now_ms: int) -> bool:
        """Blocks of one pack, each of another content, that stay as long as the upload does. One that is here already
        stays where it is. False: all were, and the pack has no name. Raises WrongState if the snapshot is sealed."""

    async def find(self, digests: Sequence[bytes]) -> list[StoredBlock]:
        """Those that are here."""

    async def doubt(self, digest: bytes) -> None:
        """What is stored is not what its name says: `claim` does not find it any more, and `add` puts it right for all
        that need it. Unknown: nothing."""

    async def undraft(self, snapshot_id: str, *, now_ms: int) -> None:
        """Forgets pages of an earlier try to seal it. Raises WrongState if it is sealed."""

    async def draft(self, snapshot_id: str, base_id: str, changes: Changes, *, now_ms: int) -> None:
        """Makes pages of those drafted before, or the base's, or of zeros (base empty), and these changes.

        It is one step: a few pages at a time.

        Raises WrongState if a block is missing (BlockMissing) or the snapshot is sealed, NotFound without the base.
        """

    async def seal(self, manifest: Sealed, base_id: str, *, now_ms: int) -> Sealed:
        """All drafted pages, and the base's for the rest, are the snapshot from now on; its upload has ended.

        `full_bytes` is found out. Raises NotFound without the base.
        """

    async def sealed(self, snapshot_id: str) -> Sealed | None: ...

    async def pages(self, snapshot_id: str, *, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Of a sealed one, those with a greater number in order: the digests one after the other, 32 zero bytes where a
        block is zero. Pages that are all zero are left out."""

    async def copy(self, source_id: str, new: Sealed, *, now_ms: int) -> Sealed:
        """Size and full bytes are the source's. One that is there is left alone. Raises NotFound without the source."""

    async def forget(self, snapshot_id: str) -> None:
        """It cannot be read any more; what only it needed goes with `drain`. Unknown: nothing."""

    async def forget_idle(self, before_ms: int) -> int:
        """Gives up uploads that were not touched since; how many."""

    async def drain(self, limit: int) -> bool:
        """Takes away at most about so many needs of what was forgotten or has ended. False: there were none."""

    async def sparse(self, limit: int) -> list[BlobId]:
        """Packs of which a quarter or more is not needed any more."""

    async def blocks_of(self, pack: BlobId) -> list[StoredBlock]: ...

    async def move(self, blocks: Sequence[StoredBlock], old: BlobId) -> bool:
        """They lie in another pack now, if they are still needed and lay in the old one. The old one is garbage then.

        False: none did, and the new pack has no name.
        """

    async def block_usage(self) -> BlockUsage: ...

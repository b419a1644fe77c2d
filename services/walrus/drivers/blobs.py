"""What Walrus needs of its place for blobs: a Protocol with promises.

Implementations pass tests/contract/test_walrus_blobs.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.walrus.drivers.base import BlobId


class Staged(Protocol):
    """A blob in the making. Not for concurrent use."""

    blob: BlobId

    async def write(self, chunk: bytes) -> None: ...

    async def share(self, blob: BlobId) -> bool:
        """Instead of writing: the bytes of that blob, without copying them. False: it cannot, and nothing was done."""

    async def lend(self) -> int | None:
        """The descriptor of a file that another process writes the bytes into, from the first on; it belongs to this
        value, and nothing is written to that any more. None: this engine has no such file.
        """

    async def written(self, length: int, use: Callable[[bytes], None]) -> None:
        """So many more bytes stand in the lent file. `use` is given them as they are read there, in a thread."""

    async def seal(self) -> None:
        """The bytes, and the name they are found by, are on disk when it returns."""

    def keep(self) -> None:
        """The index names it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    # Bytes that were written: none for a link.
    size: int
    # It was not there yet.
    new: bool


class OpenBlob(Protocol):
    @property
    def descriptor(self) -> int:
        """Of a file that begins with the blob's bytes; it belongs to this value."""

    @property
    def size(self) -> int:
        """Of the blob, in bytes."""

    async def verify(self, start: int, end: int, *, fresh: bool = False) -> None:
        """That these bytes are what was written: to be asked before any of them is handed on.

        `fresh`: what the disk holds now, whatever is in memory.

        Raises BlobDamaged, BlobMissing if it is shorter than that.
        """


class Blobs(Protocol):
    """Every stored byte has a checksum, and none leaves before it was compared."""

    async def open(self) -> None:
        """Throws away what was being staged when the last process ended."""

    async def close(self) -> None: ...

    def stage(self) -> AbstractAsyncContextManager[Staged]:
        """On leaving the context a blob that was not kept is deleted, whatever happened."""

    def read(self, blob: BlobId, *, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes [start, end) in chunks of at most 1 MiB. A deleted blob that is open already is read to its end.

        Raises BlobMissing if it is not there or shorter than that, BlobDamaged.
        """

    def opened(self, blob: BlobId) -> AbstractAsyncContextManager[OpenBlob]:
        """To hand its descriptor on, which goes with the context. Raises BlobMissing, BlobDamaged."""

    async def export(self, blobs: Sequence[BlobId], path: Path, *, exact: bool = False) -> int:
        """One new file that begins with all of them in this order, durable; how many bytes they are.

        If it is one blob and the engine can, nothing is copied, and the engine's own bytes may stand behind; not if it
        is to be `exact`. Raises BlobMissing, BlobDamaged.
        """

    async def copy_to(self, blob: BlobId, folder: Path) -> Copied:
        """Into a backup's folder of blobs, durable when its folders are synced; linked where it can be, else compared
        on the way. One that is there stays. Raises BlobMissing, BlobDamaged."""

    async def delete(self, blobs: Sequence[BlobId]) -> int:
        """Frees that many bytes, what the engine adds to them included. One that is not there is no error."""

    def scan(self) -> AsyncIterator[list[BlobId]]:
        """Every sealed blob, in batches, except those whose staging context is still open."""

    async def free_bytes(self) -> int:
        """What may still be written."""


class BlobMissing(Exception):
    """The index names a blob that is not there: it was replaced and reclaimed just now, or the store is damaged."""


class BlobDamaged(Exception):
    """A blob is not what was written: a bit flipped, its end is gone, or the disk does not give it back."""

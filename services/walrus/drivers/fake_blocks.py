"""The fake index's part for snapshots: plain sets, and needs counted anew by looking at all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from common.blocks import BLOCK_BYTES
from common.errors import NotFound, WrongState
from services.walrus.drivers.base import BlobId
from services.walrus.drivers.blocks import BlockUsage, Changes, Sealed, StoredBlock

_PAGE_BLOCKS: Final = 256
_ZERO: Final = bytes(32)

# Page number -> place -> digest, zero blocks left out.
Pages = dict[int, dict[int, bytes]]


@dataclass(kw_only=True)
class OpenUpload:
    touched_ms: int
    claims: set[bytes] = field(default_factory=set)
    drafts: Pages = field(default_factory=dict)


@dataclass(kw_only=True)
class BlockStorage:
    sealed: dict[str, tuple[Sealed, Pages]] = field(default_factory=dict)
    uploads: dict[str, OpenUpload] = field(default_factory=dict)
    blocks: dict[bytes, StoredBlock] = field(default_factory=dict)
    packs: dict[BlobId, int] = field(default_factory=dict)
    damaged: set[bytes] = field(default_factory=set)


class Stores(Protocol):
    blocks: BlockStorage
    garbage: list[BlobId]


class FakeBlockIndex:
    """`step` gives a draft of the storage that stands when the step succeeds; `now` the storage."""

    def __init__(self, step: Callable[[], AbstractContextManager[Stores]], now: Callable[[], Stores]) -> None:
        self._step = step
        self._now = now

    async def claim(self, snapshot_id: str, digests: Sequence[bytes], *, now_ms: int) -> set[bytes]:
        with self._step() as s:
            here = {digest for digest in digests if digest in s.blocks.blocks} - s.blocks.damaged
            _begun(s, snapshot_id, now_ms).claims |= here
            return set(digests) - here

    async def add(self, snapshot_id: str, blocks: Sequence[StoredBlock], *, now_ms: int) -> bool:
        with self._step() as s:
            here = s.blocks.blocks.keys() - s.blocks.damaged
            new = {block.digest: block for block in blocks if block.digest not in here}
            _begun(s, snapshot_id, now_ms).claims |= {block.digest for block in blocks}
            s.blocks.blocks |= new
            if new:
                s.blocks.packs[blocks[0].pack] = max(block.start + block.length for block in blocks)
            s.blocks.damaged -= new.keys()
            _discard_empty(s)
            return bool(new)

    async def find(self, digests: Sequence[bytes]) -> list[StoredBlock]:
        known = self._now().blocks.blocks
        return [known[digest] for digest in digests if digest in known]

    async def doubt(self, digest: bytes) -> None:
        with self._step() as s:
            s.blocks.damaged |= {digest} & s.blocks.blocks.keys()

    async def undraft(self, snapshot_id: str, *, now_ms: int) -> None:
        with self._step() as s:
            _begun(s, snapshot_id, now_ms).drafts.clear()

    async def draft(self, snapshot_id: str, base_id: str, changes: Changes, *, now_ms: int) -> None:
        with self._step() as s:
            upload = _begun(s, snapshot_id, now_ms)
            base = _sealed(s, base_id)[1] if base_id else {}
            for number, changed in changes.items():
                merged = upload.drafts.get(number, base.get(number, {})) | dict(changed)
                page = {place: digest for place, digest in merged.items() if digest}
                for digest in page.values():
                    if digest not in s.blocks.blocks:
                        raise WrongState(f"Block {digest.hex()} is not here.", code="BlockMissing")
                upload.drafts[number] = page

    async def seal(self, manifest: Sealed, base_id: str, *, now_ms: int) -> Sealed:
        with self._step() as s:
            upload = _begun(s, manifest.snapshot_id, now_ms)
            pages = (_sealed(s, base_id)[1] if base_id else {}) | upload.drafts
            ends = [
                min(manifest.size, (number * _PAGE_BLOCKS + place + 1) * BLOCK_BYTES)
                - (number * _PAGE_BLOCKS + place) * BLOCK_BYTES
                for number, page in pages.items()
                for place in page
            ]
            made = replace(manifest, full_bytes=sum(ends))
            s.blocks.sealed[manifest.snapshot_id] = made, pages
            del s.blocks.uploads[manifest.snapshot_id]
            return made

    async def sealed(self, snapshot_id: str) -> Sealed | None:
        found = self._now().blocks.sealed.get(snapshot_id)
        return found[0] if found else None

    async def pages(self, snapshot_id: str, *, after: int, limit: int) -> list[tuple[int, bytes]]:
        found = self._now().blocks.sealed.get(snapshot_id)
        whole = [
            (number, b"".join(page.get(place, _ZERO) for place in range(_PAGE_BLOCKS)))
            for number, page in sorted(found[1].items() if found else ())
            if page and number > after
        ]
        return whole[:limit]

    async def copy(self, source_id: str, new: Sealed, *, now_ms: int) -> Sealed:
        with self._step() as s:
            if new.snapshot_id not in s.blocks.sealed:
                source, pages = _sealed(s, source_id)
                made = replace(new, size=source.size, full_bytes=source.full_bytes)
                s.blocks.sealed[new.snapshot_id] = made, pages
            return s.blocks.sealed[new.snapshot_id][0]

    async def forget(self, snapshot_id: str) -> None:
        with self._step() as s:
            s.blocks.sealed.pop(snapshot_id, None)
            s.blocks.uploads.pop(snapshot_id, None)

    async def forget_idle(self, before_ms: int) -> int:
        with self._step() as s:
            idle = [name for name, upload in s.blocks.uploads.items() if upload.touched_ms < before_ms]
            for name in idle:
                del s.blocks.uploads[name]
            return len(idle)

    async def drain(self, limit: int) -> bool:
        with self._step() as s:
            needed = {digest for upload in s.blocks.uploads.values() for digest in upload.claims}
            every = [pages for _, pages in s.blocks.sealed.values()]
            every += [upload.drafts for upload in s.blocks.uploads.values()]
            needed |= {digest for pages in every for page in pages.values() for digest in page.values()}
            gone = set(s.blocks.blocks) - needed
            for digest in gone:
                del s.blocks.blocks[digest]
            s.blocks.damaged -= gone
            _discard_empty(s)
            return bool(gone)

    async def sparse(self, limit: int) -> list[BlobId]:
        live = _live(self._now())
        packs = self._now().blocks.packs
        return [pack for pack, length in packs.items() if live[pack] * 4 <= length * 3][:limit]

    async def blocks_of(self, pack: BlobId) -> list[StoredBlock]:
        found = [block for block in self._now().blocks.blocks.values() if block.pack == pack]
        return sorted(found, key=lambda block: block.start)

    async def move(self, blocks: Sequence[StoredBlock], old: BlobId) -> bool:
        with self._step() as s:
            now = s.blocks.blocks
            moved = [block for block in blocks if block.digest in now and now[block.digest].pack == old]
            now |= {block.digest: block for block in moved}
            if moved:
                s.blocks.packs[moved[0].pack] = max(block.start + block.length for block in blocks)
            _discard_empty(s)
            return bool(moved)

    async def block_usage(self) -> BlockUsage:
        b = self._now().blocks
        return BlockUsage(
            snapshots=len(b.sealed),
            uploads=len(b.uploads),
            block_bytes=sum(block.length for block in b.blocks.values()),
            pack_bytes=sum(b.packs.values()),
        )


def _begun(s: Stores, snapshot_id: str, now_ms: int) -> OpenUpload:
    if snapshot_id in s.blocks.sealed:
        raise WrongState(f"{snapshot_id} is sealed.")
    upload = s.blocks.uploads.setdefault(snapshot_id, OpenUpload(touched_ms=now_ms))
    upload.touched_ms = now_ms
    return upload


def _sealed(s: Stores, snapshot_id: str) -> tuple[Sealed, Pages]:
    if snapshot_id not in s.blocks.sealed:
        raise NotFound(f"The snapshot '{snapshot_id}' does not exist.", code="InvalidSnapshot.NotFound")
    return s.blocks.sealed[snapshot_id]


def _live(s: Stores) -> dict[BlobId, int]:
    live = dict.fromkeys(s.blocks.packs, 0)
    for block in s.blocks.blocks.values():
        live[block.pack] += block.length
    return live


def _discard_empty(s: Stores) -> None:
    for pack, length in _live(s).items():
        if not length:
            del s.blocks.packs[pack]
            s.garbage.append(pack)

"""The fake index's part that looks at all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from services.walrus.drivers.base import Assembled, BlobId, Object, Pin, Single
from services.walrus.drivers.inspection import Bodies, Needed, Resealed, Rows, Seal

if TYPE_CHECKING:
    from services.walrus.drivers.fake import Storage


class FakeInspection:
    def __init__(self, step: Callable[[], AbstractContextManager[Storage]], storage: Callable[[], Storage]) -> None:
        self._step = step
        self._storage = storage

    async def needed(self, *, after: str, limit: int) -> list[Needed]:
        s = self._storage()
        objects = [one for stack in s.versions.values() for one in stack if isinstance(one, Object)]
        found = {one.content.blob: (one.size, False) for one in objects if isinstance(one.content, Single)}
        found |= {part.blob: (part.size, False) for parts in s.parts.values() for part in parts.values()}
        found |= {blob: (length, True) for blob, length in s.blocks.packs.items()}
        return [
            Needed(blob=blob, size=size, pack=pack) for blob, (size, pack) in sorted(found.items()) if blob > after
        ][:limit]

    async def owners(self, blob: BlobId) -> list[str]:
        s = self._storage()
        names = {bucket.id: name for name, bucket in s.buckets.items()}
        found = []
        for (bucket, key), stack in s.versions.items():
            for one in stack:
                if not isinstance(one, Object):
                    continue
                shown = f"{names[bucket]}/{key.decode('utf-8', 'replace')}"
                shown += f" version {one.version_id}" if one.version_id else ""
                if isinstance(one.content, Single) and one.content.blob == blob:
                    found.append(shown)
                if isinstance(one.content, Assembled):
                    parts = s.parts.get(one.content.upload_id, {})
                    found += [f"{shown} part {number}" for number, part in parts.items() if part.blob == blob]
        for (bucket, key, upload), _ in s.uploads.items():
            shown = f"upload {upload} of {names[bucket]}/{key.decode('utf-8', 'replace')}"
            parts = s.parts.get(upload, {})
            found += [f"{shown} part {number}" for number, part in parts.items() if part.blob == blob]
        digests = [digest for digest, block in s.blocks.blocks.items() if block.pack == blob]
        return found + await self.owners_of_blocks(digests)

    async def rows(self, *, start: str, limit: int) -> Rows:
        return Rows(next="", count=0, damaged=())

    async def reseal(self, seal: Seal, *, start: str, limit: int) -> Resealed:
        """All of them at once."""
        changed = 0
        unopened = []
        with self._step() as s:
            names = {bucket.id: name for name, bucket in s.buckets.items()}
            for (bucket, key), stack in s.versions.items():
                for place, one in enumerate(stack):
                    if not isinstance(one, Object) or not one.encryption:
                        continue
                    new = seal(one.encryption)
                    if new is None:
                        version = f" version {one.version_id}" if one.version_id else ""
                        unopened.append(f"{names[bucket]}/{key.decode('utf-8', 'replace')}{version}")
                    elif new != one.encryption:
                        stack[place] = replace(one, encryption=new)
                        changed += 1
            for which, upload in s.uploads.items():
                new = seal(upload.encryption) if upload.encryption else b""
                if new is None:
                    unopened.append(f"upload {upload.id} of {names[which[0]]}/{which[1].decode('utf-8', 'replace')}")
                elif new != upload.encryption:
                    s.uploads[which] = replace(upload, encryption=new)
                    changed += 1
        return Resealed(next="", changed=changed, unopened=unopened)

    async def bodies(self, *, start: int, limit: int) -> Bodies:
        """They stand in the objects themselves, in memory."""
        return Bodies(next=None, count=0, size=0, damaged=())

    async def owners_of_body(self, body: int) -> list[str]:
        return []

    async def owners_of_blocks(self, digests: Sequence[bytes]) -> list[str]:
        wanted = set(digests)
        snapshots = self._storage().blocks.sealed
        return [
            f"snapshot {name}"
            for name, (_, pages) in sorted(snapshots.items())
            if any(not wanted.isdisjoint(page.values()) for page in pages.values())
        ]

    async def pins(self) -> list[Pin]:
        return list(self._storage().pins.values())

    async def unsound(self) -> list[str]:
        return []

    async def garbage_count(self) -> int:
        return len(self._storage().garbage)

    async def copy_to(self, path: Path) -> FakeInspection:
        now = deepcopy(self._storage())
        await asyncio.to_thread(path.write_text, repr(now))
        return FakeInspection(self._step, lambda: now)

    async def note(self, name: str) -> str:
        return self._storage().notes.get(name, "")

    async def put_note(self, name: str, text: str) -> None:
        with self._step() as s:
            s.notes[name] = text

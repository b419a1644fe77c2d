"""A consistent copy of the whole store while clients write: the index of one moment, and the blobs that it needs.

`<folder>/<member>/` is laid out as the store is, with manifest.json written last: it names the index. So a backup that
did not come to its end leaves the one before as it was, and the next one copies only what is not there yet.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from common import shard_file
from common.errors import CloudError, InvalidArgument, NoCapacity, Unavailable, WrongState
from common.log import get_logger
from common.metrics import gauge
from common.threads import to_the_end
from services.walrus.drivers.base import Pin
from services.walrus.drivers.blobs import BlobDamaged, BlobMissing
from services.walrus.drivers.embedded import copies
from services.walrus.drivers.embedded.blobs import fsync_folder
from services.walrus.drivers.inspection import Inspection
from services.walrus.images import Images
from services.walrus.scrub import Finding, Kind
from services.walrus.store import Store

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
_AT_ONCE: Final = 64

_log = get_logger(__name__)
_LAST = gauge("mallee_walrus_last_backup_timestamp_seconds", "When the store was last copied as a whole")
Result = TypeVar("Result")


@dataclass(kw_only=True)
class Progress:
    blobs: int = 0
    # Those that were not there yet, and what of them was copied and not linked.
    new_blobs: int = 0
    copied_bytes: int = 0
    findings: tuple[Finding, ...] = ()
    complete: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Backups:
    store: Store
    images: Images
    # On the file system of pinned images, swept at start.
    staging: Path
    member: str
    # Of the buckets, as shard_file.py has it.
    part: str = shard_file.WHOLE
    # Folders that one is being made in: who ends takes away what others brought.
    _busy: set[Path] = field(default_factory=set)

    async def make(self, folder: Path) -> AsyncGenerator[Progress, None]:
        """Raises InvalidArgument for a folder that Walrus cannot write to, WrongState while another one is made in it,
        NoCapacity, Unavailable.
        """
        if not folder.is_absolute():
            raise InvalidArgument(f"{folder} is no absolute path.")
        target = await _on_disk(folder.resolve) / self.member
        if target in self._busy:
            raise WrongState(f"A backup is being made in {folder} already.", code="IncorrectState")
        async with AsyncExitStack() as stack:
            self._busy.add(target)
            stack.callback(self._busy.discard, target)
            # Nothing that the copied index needs is deleted meanwhile.
            stack.enter_context(self.store.keeping_garbage())
            await _on_disk(lambda: _prepare(target))
            drafts = self.staging / f"backup-{secrets.token_hex(8)}"
            stack.callback(shutil.rmtree, drafts, ignore_errors=True)
            index = target / f"index-{self.store.now_ms()}.sqlite"
            async with self.images.still():
                copy = await self.store.index.inspection.copy_to(index)
                pins = await self.store.index.inspection.pins()
                lost = await _on_disk(lambda: self.images.link_all(pins, drafts))
            findings = [_lost(pin) for pin in lost]
            progress = Progress(findings=tuple(findings))
            yield progress
            async for progress in self._blobs(copy, target):
                findings += progress.findings
                yield progress
            await _on_disk(lambda: _keep_pins(drafts, target / "pins"))
            await _on_disk(lambda: _commit(target, index, self.part, progress, findings))
            await _prune(copy, target, index, {pin.sha256 for pin in pins})
        _LAST.set(self.store.now_ms() / 1000)
        _log.info("made a backup", folder=str(target), blobs=progress.blobs, new=progress.new_blobs)
        yield replace(progress, findings=(), complete=True)

    async def _blobs(self, copy: Inspection, target: Path) -> AsyncGenerator[Progress, None]:
        progress, after = Progress(), ""
        while page := await copy.needed(after=after, limit=_AT_ONCE):
            progress.findings = ()
            for one in page:
                progress.blobs += 1
                try:
                    copied = await self.store.blobs.copy_to(one.blob, target / "blobs")
                except (BlobMissing, BlobDamaged) as error:
                    kind = Kind.MISSING if isinstance(error, BlobMissing) else Kind.DAMAGED
                    owners = await copy.owners(one.blob)
                    finding = Finding(kind=kind, what=f"blob {one.blob}", owners=owners, why=str(error))
                    progress.findings += (finding,)
                    continue
                progress.new_blobs += copied.new
                progress.copied_bytes += copied.size
            after = page[-1].blob
            yield progress


async def _on_disk(function: Callable[[], Result]) -> Result:
    try:
        return await to_the_end(function)
    except OSError as error:
        raise _refusal(error) from error


def _refusal(error: OSError) -> CloudError:
    if isinstance(error, PermissionError | NotADirectoryError | IsADirectoryError):
        return InvalidArgument(f"Walrus cannot write to {error.filename}: {error.strerror}.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoCapacity(f"There is no room for the backup: {error.strerror}.")
    return Unavailable(f"The backup could not be written: {error}.")


def _prepare(target: Path) -> None:
    for folder in (target, target / "blobs", target / "pins"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _lost(pin: Pin) -> Finding:
    what, owners = f"pin {pin.sha256}", [f"image {pin.image_id}"]
    return Finding(kind=Kind.MISSING, what=what, owners=owners, why="it is not there")


def _keep_pins(drafts: Path, target: Path) -> None:
    for path in drafts.iterdir() if drafts.exists() else ():
        copies.copy_file(path, target / path.name)


def _commit(target: Path, index: Path, part: str, progress: Progress, findings: list[Finding]) -> None:
    """From here on the folder is this backup."""
    for folder in (*(target / "blobs").iterdir(), target / "blobs", target / "pins", target):
        fsync_folder(folder)
    with index.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    said: dict[str, Any] = {
        "format": FORMAT,
        "part": part,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "index": index.name,
        "index_sha256": digest,
        "blobs": progress.blobs,
        "missing": [{"what": one.what, "owners": list(one.owners), "why": one.why} for one in findings],
    }
    draft = target / f"{MANIFEST}.part"
    draft.write_text(json.dumps(said, indent=2) + "\n")
    copies.fsync_file(draft)
    os.rename(draft, target / MANIFEST)
    fsync_folder(target)


async def _prune(copy: Inspection, target: Path, index: Path, pins: set[str]) -> None:
    """What only earlier backups needed, or ones that did not come to their end."""
    folders = await asyncio.to_thread(lambda: sorted((target / "blobs").iterdir()))
    for folder in folders:
        # As a beginning it comes before all ids that begin with it.
        needed, after = set(), folder.name
        while page := await copy.needed(after=after, limit=1000):
            needed |= {one.blob for one in page}
            after = page[-1].blob
            if not after.startswith(folder.name):
                break
        await _on_disk(lambda f=folder, n=needed: _keep_only(f, lambda name: name.partition(".")[0] in n))  # type: ignore[misc]
    await _on_disk(lambda: _keep_only(target / "pins", lambda name: name in pins))
    await _on_disk(lambda: _keep_only(target, lambda name: name in (index.name, MANIFEST, "blobs", "pins")))


def _keep_only(folder: Path, wanted: Callable[[str], bool]) -> None:
    for path in folder.iterdir():
        if not wanted(path.name):
            path.unlink()

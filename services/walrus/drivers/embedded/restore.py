"""A backup made the store again: copied, compared with its checksums, and put in place in one step. It blocks."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

from common import shard_file
from services.walrus.drivers.base import BlobId
from services.walrus.drivers.blobs import BlobDamaged, BlobMissing
from services.walrus.drivers.embedded import copies, inspect, pieces
from services.walrus.drivers.embedded.blobs import INDEX, fsync_folder, lock
from services.walrus.drivers.embedded.sealed import SealedFile

_AT_ONCE: Final = 1000

# Kind, what, owners, why: as scrub.py has them.
Tell = Callable[[str, str, list[str], str], None]


class Refused(Exception):
    """Nothing was restored; the message says why."""


def restore(
    source: Path, manifest: dict[str, Any], root: Path, *, part: str = shard_file.WHOLE, replace: bool, tell: Tell
) -> int:
    """How many blobs there are now. What is missing or damaged is told, and left out. `part`: see shard_file.py."""
    index = source / manifest["index"]
    with index.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != manifest["index_sha256"]:
            raise Refused(f"{index} is not what the manifest says: it is damaged")
    with claimed(root), ExitStack() as stack:
        if not replace and _holds_something(root):
            raise Refused(f"{root} is not empty: with --replace it is moved aside")
        draft, ready = (root.with_name(f"{root.name}.{state}") for state in ("restoring", "restored"))
        shutil.rmtree(draft, ignore_errors=True)
        if ready.exists():
            # Of a restore that crashed: from the swap on it is what stood here before.
            os.rename(ready, _aside(root))
        stack.callback(shutil.rmtree, draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        shutil.copyfile(index, draft / INDEX)
        copies.fsync_file(draft / INDEX)
        with closing(sqlite3.connect(f"file:{draft / INDEX}?immutable=1", uri=True)) as db:
            for line in inspect.unsound(db):
                tell("index", "index", [], line)
            count = _restore_blobs(db, source, draft, tell)
            _restore_pins(db, source, draft, tell)
        shard_file.write(draft, part)
        fsync_folder(draft)
        os.rename(draft, ready)
        stack.pop_all()
        copies.swap(ready, root)
        aside = _aside(root)
        os.rename(ready, aside)
        fsync_folder(root.parent)
        if not _holds_something(aside):
            shutil.rmtree(aside)
    return count


def _aside(root: Path) -> Path:
    """A name that is free, for what stood here before."""
    name = f"{root.name}.before-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    names = (f"{name}-{number}" if number else name for number in itertools.count())
    return next(path for path in map(root.with_name, names) if not path.exists())


@contextmanager
def claimed(root: Path) -> Iterator[None]:
    """Raises Refused while a Walrus runs on it."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        held = lock(root)
    except BlockingIOError as error:
        raise Refused(f"Walrus runs on {root}: 'mallee down' stops it") from error
    try:
        yield
    finally:
        fcntl.flock(held, fcntl.LOCK_UN)
        os.close(held)


def _holds_something(root: Path) -> bool:
    if not (root / INDEX).exists():
        return False
    with closing(sqlite3.connect(root / INDEX)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        wanted = tables & {"buckets", "snapshots", "pins"}
        return any(db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in wanted)


def _restore_blobs(db: sqlite3.Connection, source: Path, draft: Path, tell: Tell) -> int:
    surplus = {path.name for path in (source / "blobs").glob("*/*")}
    count, after = 0, ""
    while page := inspect.needed(db, after, _AT_ONCE):
        for one in page:
            target = draft / "blobs" / one.blob[:2]
            surplus.discard(f"{one.blob}{pieces.SUFFIX}")
            try:
                copies.copy_blob(source / "blobs" / one.blob[:2], one.blob, target)
                _verify(target, one.blob, one.size)
                count += 1
            except (BlobMissing, BlobDamaged) as error:
                kind = "missing" if isinstance(error, BlobMissing) else "damaged"
                tell(kind, f"blob {one.blob}", inspect.owners(db, one.blob), str(error))
        after = page[-1].blob
    for name in sorted(surplus):
        tell("surplus", f"blob {name.partition('.')[0]}", [], "no index names it; it was not restored")
    for folder in (draft / "blobs").iterdir() if count else ():
        fsync_folder(folder)
    return count


def _verify(folder: Path, blob: BlobId, size: int) -> None:
    with closing(SealedFile(folder, blob)) as file:
        file.open()
        file.verify(0, file.size)
        if file.size < size:
            raise BlobDamaged(f"blob {blob} is {file.size} bytes long where {size} were written")


def _restore_pins(db: sqlite3.Connection, source: Path, draft: Path, tell: Tell) -> None:
    (draft / "pins").mkdir(mode=0o700)
    for image_id, sha256, size in db.execute("SELECT image_id, sha256, size FROM pins").fetchall():
        try:
            copies.copy_file(source / "pins" / sha256, draft / "pins" / sha256)
        except FileNotFoundError:
            tell("missing", f"pin {sha256}", [f"image {image_id}"], "it is not there")
            continue
        if _sha256(draft / "pins" / sha256, size) != sha256:
            tell("damaged", f"pin {sha256}", [f"image {image_id}"], "it is not what its name says")
    fsync_folder(draft / "pins")


def _sha256(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size and (chunk := file.read(min(1 << 20, size))):
            digest.update(chunk)
            size -= len(chunk)
    return digest.hexdigest()

"""One file of the image cache: how it comes to be, and how it is known to be what it was.

A marker beside the file tells how it looked when its whole content was last verified. Every write changes one of these,
so a look is enough each time the file is used; what a disk loses silently is found by hashing it again now and then.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from common.errors import NoCapacity
from common.log import get_logger

_log = get_logger(__name__)

# SHA-256 takes about half a second per GB, which a launch has to wait for.
HASHED_EVERY_S: Final = 7 * 86400.0
_BLOCK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class _Look:
    size: int
    mtime_ns: int
    # No program can set this one.
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> _Look:
        seen = path.stat()
        return cls(seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino)


def marker_of(path: Path) -> Path:
    """Its own time is that of the file's last use."""
    return path.with_suffix(".ok")


def last_use_s(path: Path) -> float:
    """0: never."""
    try:
        return marker_of(path).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def verify(path: Path, *, now_s: float) -> bool:
    """Whether the content is what the file is named after, as it is used now. One that is not is taken away.

    Guests that have it open keep what they have. Blocks.
    """
    marker = marker_of(path)
    try:
        look = _Look.of(path)
    except FileNotFoundError:
        marker.unlink(missing_ok=True)
        return False
    known, hashed_s = _read(marker)
    if known != look or not 0 <= now_s - hashed_s < HASHED_EVERY_S:
        if digest_of(path).hexdigest() != path.name:
            _log.error("a cached image has changed and is fetched again", sha256=path.name)
            path.unlink()
            marker.unlink(missing_ok=True)
            return False
        mark(path, now_s=now_s)
    os.utime(marker, (now_s, now_s))
    return True


def digest_of(path: Path) -> hashlib._Hash:
    """SHA-256. Blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest


def append(descriptor: int, digest: hashlib._Hash, chunk: bytes) -> None:
    """Raises NoCapacity if the disk is full. Blocks."""
    digest.update(chunk)
    view = memoryview(chunk)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoCapacity("the node's disk is full") from error
        raise


def publish(part: Path, path: Path, *, group_id: int | None, now_s: float) -> None:
    """A part that is whole and verified becomes the file. Blocks."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    if group_id is not None:
        os.chown(part, -1, group_id)
    part.chmod(0o440)
    part.replace(path)
    mark(path, now_s=now_s)


def mark(path: Path, *, now_s: float) -> None:
    """Its content has been verified just now."""
    marker = marker_of(path)
    new = marker.with_suffix(".new")
    new.write_text(json.dumps(asdict(_Look.of(path)) | {"hashed_s": now_s}))
    os.utime(new, (now_s, now_s))
    new.replace(marker)


def _read(marker: Path) -> tuple[_Look | None, float]:
    try:
        kept = json.loads(marker.read_text())
        return _Look(**{name: kept[name] for name in _Look.__slots__}), float(kept["hashed_s"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None, 0.0

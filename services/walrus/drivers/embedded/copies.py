"""Copies of the index and of blob files, for backups and what is restored from them. All of it blocks.

A backup is laid out as the store itself is. Blob files never change, so one that is there is whole: it got its name
last.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from services.walrus.drivers.base import BlobId
from services.walrus.drivers.blobs import BlobMissing, Copied
from services.walrus.drivers.embedded import pieces
from services.walrus.drivers.embedded.sealed import SealedFile

# Of another file system, of one without links, of a file with too many, of one that is another user's.
_UNLINKABLE: Final = (errno.EXDEV, errno.EOPNOTSUPP, errno.EMLINK, errno.EPERM)
_CHUNK_BYTES: Final = 1 << 20
# AT_FDCWD and RENAME_EXCHANGE of linux/fcntl.h and linux/fs.h.
_HERE, _EXCHANGE = -100, 2


def copy_index(source: Path, target: Path) -> None:
    """As it stands at one moment, while others write. The copy is one plain file."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target, isolation_level=None)) as new:
        # All pages in one step: it reads one snapshot, and does not begin anew when somebody writes.
        old.backup(new, pages=-1)
        new.execute("PRAGMA journal_mode = DELETE")
    fsync_file(target)


def copy_blob(source: Path, blob: BlobId, target: Path) -> Copied:
    """Between folders that hold the files themselves. What is copied is compared with its checksums on the way.

    Raises BlobMissing, BlobDamaged. The names are on disk when the folder was synced.
    """
    name = f"{blob}{pieces.SUFFIX}"
    if (target / name).exists():
        return Copied(size=0, new=False)
    target.mkdir(parents=True, exist_ok=True)
    try:
        return _link_or_copy(source, blob, name, target)
    except FileNotFoundError as error:
        raise BlobMissing(f"blob {blob} is not there") from error


def _link_or_copy(source: Path, blob: BlobId, name: str, target: Path) -> Copied:
    try:
        os.link(source / name, target / name)
        return Copied(size=0, new=True)
    except OSError as error:
        if error.errno not in _UNLINKABLE:
            raise
    draft = target / f"{name}.part"
    with closing(SealedFile(source, blob)) as file, draft.open("wb") as copy:
        file.open()
        position = 0
        while position < file.size:
            position += copy.write(file.read(position, file.size))
        copy.write(file.footer())
        copy.flush()
        os.fchmod(copy.fileno(), 0o644)
        os.fsync(copy.fileno())
        size = copy.tell()
    os.rename(draft, target / name)
    return Copied(size=size, new=True)


def copy_file(source: Path, target: Path) -> None:
    """A link if it can be one; durable but for its name. One that is there stays."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _UNLINKABLE:
            raise
        draft = target.with_name(f"{target.name}.part")
        with source.open("rb") as file, draft.open("wb") as copy:
            shutil.copyfileobj(file, copy, _CHUNK_BYTES)
            copy.flush()
            os.fsync(copy.fileno())
        os.rename(draft, target)


def swap(one: Path, other: Path) -> None:
    """Each has the other's name afterwards, in one step: there is never none of a name (renameat2, Linux 3.15)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(one))


def fsync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

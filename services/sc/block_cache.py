"""Blocks of snapshots on this host's disk: bounded, shared by all volumes, and never believed without looking.

`<folder>/<two hex digits>/<digest>` holds a block as it came from Walrus behind one byte that says whether it is
compressed. Nothing is made durable: what a crash tore is not what its name says, and is fetched again.
"""

from __future__ import annotations

import os
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Final

from common.blocks import decoded
from common.errors import DataLoss
from common.log import get_logger

_COMPRESSED: Final = b"z"
_PLAIN: Final = b"-"

_log = get_logger(__name__)


class BlockCache:
    """Blocks its caller; used by one thread at a time. `reserve_bytes` of the file system are left to others."""

    def __init__(self, folder: Path, *, most_bytes: int, reserve_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._reserve_bytes = reserve_bytes
        # Digest -> bytes that it takes; the least recently used first.
        self._sizes: OrderedDict[bytes, int] = OrderedDict()
        self._bytes = 0

    def open(self) -> None:
        found = []
        for path in self._folder.glob("??/*"):
            status = path.stat()
            if path.suffix:
                path.unlink()
            else:
                found.append((status.st_mtime_ns, bytes.fromhex(path.name), status.st_size))
        for _, digest, size in sorted(found):
            self._note(digest, size)
        self._shrink(0)

    def read(self, digest: bytes) -> bytes | None:
        if digest not in self._sizes:
            return None
        try:
            stored = self._path(digest).read_bytes()
            content = decoded(digest, stored[1:], compressed=stored[:1] == _COMPRESSED)
        except (OSError, DataLoss) as error:
            _log.warning("a block of the cache is not used", digest=digest.hex(), why=str(error))
            self._drop(digest)
            return None
        self._sizes.move_to_end(digest)
        return content

    def write(self, digest: bytes, stored: bytes, *, compressed: bool) -> None:
        """It is a cache: where there is no room nothing is kept."""
        if digest in self._sizes:
            return
        self._shrink(len(stored) + 1)
        path = self._path(digest)
        draft = path.with_suffix(".new")
        try:
            status = os.statvfs(self._folder)
            if status.f_bavail * status.f_frsize - len(stored) < self._reserve_bytes:
                # Volumes come first.
                self._shrink(self._most_bytes - self._bytes + len(stored))
                return
            path.parent.mkdir(exist_ok=True)
            with draft.open("wb") as file:
                file.write(_COMPRESSED if compressed else _PLAIN)
                file.write(stored)
            draft.rename(path)
        except OSError as error:
            _log.warning("a block is not kept", why=str(error))
            draft.unlink(missing_ok=True)
            return
        self._note(digest, len(stored) + 1)

    def clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._sizes.clear()
        self._bytes = 0

    def _note(self, digest: bytes, size: int) -> None:
        self._sizes[digest] = size
        self._bytes += size

    def _shrink(self, room: int) -> None:
        while self._sizes and self._bytes + room > self._most_bytes:
            self._drop(next(iter(self._sizes)))

    def _drop(self, digest: bytes) -> None:
        self._bytes -= self._sizes.pop(digest)
        self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self._folder / name[:2] / name

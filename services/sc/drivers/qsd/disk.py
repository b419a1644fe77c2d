"""The file system that volumes are on: what it takes, and what is taken of it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def free_bytes(folder: Path) -> int:
    """For who is not root."""
    told = os.statvfs(folder)
    return told.f_bavail * told.f_frsize


def takes_direct(folder: Path) -> bool:
    """Whether files of this file system can be used past the page cache."""
    path = folder / ".direct"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600))
        return True
    except OSError:
        return False
    finally:
        path.unlink(missing_ok=True)


def used_bytes(folder: Path) -> int:
    total = 0
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat().st_blocks * 512
    return total

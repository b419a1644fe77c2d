"""A folder as a cpio archive in the "newc" format, which the kernel unpacks as its initial root file system.

Format: https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
The same tree gives the same bytes: entries are sorted, owned by root and without times.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path


def pack(folder: Path) -> bytes:
    """Folders, plain files and symbolic links."""
    out = bytearray()
    for number, path in enumerate(_walk(folder), start=1):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path).encode()
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        else:
            content = b""
        _append(out, path.relative_to(folder).as_posix(), content, number=number, mode=status.st_mode)
    _append(out, "TRAILER!!!", b"", number=0, mode=0)
    return bytes(out)


def _walk(folder: Path) -> Iterator[Path]:
    """A folder before what is in it."""
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _append(out: bytearray, name: str, content: bytes, *, number: int, mode: int) -> None:
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # inode, mode, uid, gid, links, time, size, device (two), device of a node (two), length of the name, checksum
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    out += b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    out += bytes(-len(out) % 4)
    out += content
    out += bytes(-len(out) % 4)

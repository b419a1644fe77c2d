"""A Debian archive of given packages alone, for debootstrap to install from without asking anyone.

Its form: https://wiki.debian.org/DebianRepository/Format
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from images.packages import run


def make_mirror(packages: Sequence[Path], folder: Path, *, suite: str) -> list[str]:
    """The names of the packages, which must lie on the folder's file system."""
    index = folder / f"dists/{suite}/main/binary-amd64/Packages"
    index.parent.mkdir(parents=True)
    (folder / "pool").mkdir()
    names, entries = [], []
    for package in packages:
        control = run(["dpkg-deb", "--field", str(package)])
        name = re.findall(r"^Package: (\S+)$", control, re.MULTILINE)[0]
        os.link(package, folder / f"pool/{name}.deb")
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        size = package.stat().st_size
        names.append(name)
        entries.append(f"{control}Filename: pool/{name}.deb\nSize: {size}\nSHA256: {digest}\n\n")
    index.write_text("".join(entries))
    digest = hashlib.sha256(index.read_bytes()).hexdigest()
    (folder / f"dists/{suite}/Release").write_text(
        f"Suite: {suite}\nCodename: {suite}\nComponents: main\nArchitectures: amd64\n"
        f"SHA256:\n {digest} {index.stat().st_size} main/binary-amd64/Packages\n"
    )
    return names

"""Which kernel modules the guest needs and the order in which they load, read from the modules themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from images.packages import ImageBuildError

# The machine as a hypervisor here shows it: PCI, disk, network, random numbers; the power button and its events.
WANTED: Final = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "button", "evdev")

# In a module's .modinfo section: depends=a,b,c and a zero byte.
_DEPENDS: Final = re.compile(rb"\0depends=([^\0]*)\0")


def load_order(wanted: Iterable[str], depends: Mapping[str, Iterable[str]]) -> list[str]:
    """Each module once, after all that it depends on."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name not in order:
            for other in depends[name]:
                visit(other)
            order.append(name)

    for name in wanted:
        visit(name)
    return order


def needed_modules(tree: Path) -> list[Path]:
    """The files of the wanted modules under lib/modules of an unpacked kernel package, in load order."""
    files = {file.stem.replace("-", "_"): file for file in tree.glob("lib/modules/*/kernel/**/*.ko")}
    if missing := [name for name in WANTED if name not in files]:
        raise ImageBuildError(f"the kernel package has no module {missing[0]}")
    depends = _Dependencies(files)
    return [files[name] for name in load_order(WANTED, depends)]


class _Dependencies(dict[str, list[str]]):
    """Read when first asked for: the package holds a thousand modules."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        super().__init__()
        self._files = files

    def __missing__(self, name: str) -> list[str]:
        found = _DEPENDS.search(self._files[name].read_bytes())
        names = found[1].decode().split(",") if found and found[1] else []
        # What is not a file is built into the kernel.
        self[name] = [other for other in (one.replace("-", "_") for one in names) if other in self._files]
        return self[name]

"""Which share of the buckets a store holds: `<store>/shard` says `2 of 3`, written when the store is made.

A store without it is older than it, and holds all of them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from common.config import ConfigError

_NAME: Final = "shard"
_INDEX: Final = "index.sqlite"


def text_of(shard: int, count: int) -> str:
    return f"{shard + 1} of {count}"


# Of the one process that has all buckets.
WHOLE: Final = text_of(0, 1)


def check(root: Path, shard: int, count: int) -> None:
    """Raises ConfigError for a store that holds another share. One that is not there yet holds none."""
    held = _read(root)
    if held is not None and held != text_of(shard, count):
        made_for = held.rpartition(" ")[2]
        raise ConfigError(
            f"{root} holds part {held} of the buckets, and [walrus] processes = {count} asks for part "
            f"{text_of(shard, count)}: their number is chosen when a cloud is made; set it to {made_for} again"
        )


def claim(root: Path, shard: int, count: int) -> None:
    """As `check`, and a new store is this share from now on, durably. For who has locked it."""
    check(root, shard, count)
    if not (root / _NAME).exists():
        write(root, text_of(shard, count))


def write(root: Path, text: str) -> None:
    part = root / f".{_NAME}.part"
    with part.open("w") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, root / _NAME)
    folder = os.open(root, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(root: Path) -> str | None:
    try:
        text = (root / _NAME).read_text().strip()
    except FileNotFoundError:
        return WHOLE if (root / _INDEX).exists() else None
    if not re.fullmatch(r"[0-9]+ of [0-9]+", text):
        raise ConfigError(f"{root / _NAME} says {text!r}: expected the like of '{WHOLE}'")
    return text

"""The places that a guest has for disks, and the letters that name each: a to z, and aa to dx.

(EC2 User Guide, "Device names for volumes on Amazon EC2 instances": what an HVM guest may have.)
"""

from __future__ import annotations

import re
from string import ascii_lowercase
from typing import Final

_LETTERS: Final = re.compile(r"[a-z]|[a-d][a-x]")
_SINGLE: Final = len(ascii_lowercase)
# Of the names of two letters: how many begin alike, and how many there are.
ROW: Final = 24
SLOTS: Final = _SINGLE + 4 * ROW


def slot_of_letters(letters: str) -> int | None:
    """0 for the letter a. None: no disk has such a name."""
    if _LETTERS.fullmatch(letters) is None:
        return None
    last = ascii_lowercase.index(letters[-1])
    return last if len(letters) == 1 else _SINGLE + ascii_lowercase.index(letters[0]) * ROW + last


def letters_of(slot: int) -> str:
    row, place = row_of(slot)
    return ascii_lowercase[place] if row is None else ascii_lowercase[row] + ascii_lowercase[place]


def row_of(slot: int) -> tuple[int | None, int]:
    """Which row of names of two letters, and the place in it; no row: of one letter."""
    return (None, slot) if slot < _SINGLE else divmod(slot - _SINGLE, ROW)

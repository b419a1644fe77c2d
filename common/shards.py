"""What is shared out among several processes of one role by name: which process has a name, by a rule that only the
name and the number of processes decide.

The rule is Lamping and Veach's jump consistent hash (https://arxiv.org/abs/1406.2294) of the name's SHA-256: with one
process more, only what moves to the new one moves. It must never change: data lies where it says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

MOST: Final = 16
_REMEMBERED: Final = 4096
_NAME_CHARACTERS: Final = 256
_MULTIPLIER: Final = 2862933555777941757
_MASK: Final = (1 << 64) - 1


def shard_of(name: str, count: int) -> int:
    """From 0 to `count` - 1."""
    # What is longer is no name of anything, and anybody may ask for it.
    return _shard_again(name, count) if len(name) <= _NAME_CHARACTERS else _shard(name, count)


def _shard(name: str, count: int) -> int:
    if count == 1:
        return 0
    key = int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8], "big")
    shard, following = 0, 0
    while following < count:
        shard = following
        key = (key * _MULTIPLIER + 1) & _MASK
        following = (shard + 1) * (1 << 31) // ((key >> 33) + 1)
    return shard


_shard_again = lru_cache(_REMEMBERED)(_shard)


@dataclass(frozen=True, slots=True)
class Shards:
    """The members of a role that share its data: <role>-1, <role>-2 …"""

    role: str
    count: int = 1

    def __iter__(self) -> Iterator[str]:
        return (self.member(shard) for shard in range(self.count))

    def member(self, shard: int) -> str:
        return f"{self.role}-{shard + 1}"

    def of(self, name: str) -> str:
        """The member that has what is of this name; what has none is the first one's."""
        return self.member(self.shard_of(name))

    def shard_of(self, name: str) -> int:
        """From 0 on."""
        return shard_of(name, self.count) if name and self.count > 1 else 0

    @property
    def first(self) -> str:
        """The member that has what is not shared out."""
        return self.member(0)

    def number(self, member: str) -> int:
        """Its shard, from 0 on. Raises ValueError for none of them."""
        role, _, number = member.rpartition("-")
        if role != self.role or not number.isdecimal() or not 1 <= int(number) <= self.count:
            raise ValueError(f"{member} is none of {', '.join(self)}")
        return int(number) - 1

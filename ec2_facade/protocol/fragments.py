"""Rendered text of large structures, kept by a digest of the bytes that it was rendered from.

The same bytes give the same text, so nothing kept is ever out of date, and a record that changes simply has another
digest. A page of instances that are known costs a hash and a look-up each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

from google.protobuf.message import Message

# 25,000 instances take about 110 MB.
MOST_BYTES = 160 << 20


class Fragments:
    """Of one structure. Bounded; the least recently used go first."""

    def __init__(self, render: Callable[[Message], str], *, most_bytes: int = MOST_BYTES) -> None:
        self._render = render
        self._most_bytes = most_bytes
        self._kept: OrderedDict[bytes, str] = OrderedDict()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __call__(self, message: Message) -> str:
        digest = blake2b(message.SerializeToString(), digest_size=16).digest()
        if (text := self._kept.get(digest)) is not None:
            self._kept.move_to_end(digest)
            return text
        text = self._render(message)
        self._kept[digest] = text
        self.held_bytes += len(text)
        while self.held_bytes > self._most_bytes:
            self.held_bytes -= len(self._kept.popitem(last=False)[1])
        return text

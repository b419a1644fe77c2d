"""Derived signing keys, asked of the CLC and kept while a stream from the same CLC tells what changed.

Without that stream nothing is kept: a key that was deleted must not open anything a moment longer than the CLC knows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from ec2_facade.auth.claim import Scope
from mallee.common.v1 import caller_pb2

MOST_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class SigningKey:
    key: bytes
    caller: caller_pb2.Caller

    def __repr__(self) -> str:
        return f"SigningKey({self.caller.access_key_id})"


class Identities(Protocol):
    """The CLC, as far as authentication needs it."""

    async def signing_key(self, scope: Scope) -> SigningKey:
        """Raises NotFound for a key that does not exist, Unavailable if the CLC does not answer."""


class KeyCache:
    """Bounded, least recently used goes first. Closed (`live` False) until the stream of changes stands."""

    def __init__(self, *, most_keys: int = MOST_KEYS) -> None:
        self._keys: OrderedDict[Scope, SigningKey] = OrderedDict()
        self._most_keys = most_keys
        self._epoch = 0
        self.live = False

    def __len__(self) -> int:
        return len(self._keys)

    async def get(self, scope: Scope, identities: Identities) -> SigningKey:
        """Raises what `identities` raises; refusals are not kept."""
        if found := self._keys.get(scope):
            self._keys.move_to_end(scope)
            return found
        epoch = self._epoch
        fetched = await identities.signing_key(scope)
        # A change that arrived while we asked may be newer than the answer.
        if self.live and epoch == self._epoch:
            self._keys[scope] = fetched
            if len(self._keys) > self._most_keys:
                self._keys.popitem(last=False)
        return fetched

    def open(self) -> None:
        self._epoch += 1
        self.live = True

    def drop(self, access_key_ids: Iterable[str]) -> None:
        gone = set(access_key_ids)
        self._epoch += 1
        for scope in [scope for scope in self._keys if scope.access_key_id in gone]:
            del self._keys[scope]

    def close(self) -> None:
        self._epoch += 1
        self.live = False
        self._keys.clear()

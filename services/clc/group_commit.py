"""Commits that wait at the same time become one transaction, so that many callers cost etcd little more than one.

What stands alone commits at once. What comes while transactions are under way is gathered, as far as each would have
come out the same before or after the others; when a comparison of one of them fails, each is tried by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from common.errors import Stale
from common.etcd.types import Txn

# Transactions under way at a time.
_AT_ONCE: Final = 2
# Operations and bytes of one; etcd takes 4096 and 1.5 MiB.
_MOST_OPERATIONS: Final = 1000
_MOST_BYTES: Final = 512 << 10


@dataclass(slots=True)
class _Waiting:
    txn: Txn
    done: asyncio.Future[int]
    compared: frozenset[bytes] = field(init=False)
    written: dict[bytes, bytes | None] = field(init=False)

    def __post_init__(self) -> None:
        self.compared = frozenset(compare.key for compare in self.txn.request.compare)
        self.written = {}
        for operation in self.txn.request.success:
            if operation.HasField("request_put"):
                self.written[operation.request_put.key] = operation.request_put.value
            else:
                self.written[operation.request_delete_range.key] = None

    def is_apart_from(self, other: _Waiting) -> bool:
        """Neither reads or writes what the other writes, unless both write the same."""
        both = self.written.keys() & other.written.keys()
        return (
            self.compared.isdisjoint(other.written)
            and other.compared.isdisjoint(self.written)
            and all(self.written[key] is not None and self.written[key] == other.written[key] for key in both)
        )


class GroupCommit:
    """`commit` is how one transaction is done: it returns a revision, or raises Stale when a comparison failed."""

    def __init__(self, commit: Callable[[Txn], Awaitable[int]]) -> None:
        self._commit = commit
        self._waiting: list[_Waiting] = []
        # Kept for as long as they are under way, as the loop itself does not.
        self._workers: set[asyncio.Task[None]] = set()
        self._working = 0

    async def do(self, txn: Txn) -> int:
        """The revision at which it happened. Raises what `commit` raises."""
        waiting = _Waiting(txn, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._working < _AT_ONCE:
            self._working += 1
            worker = asyncio.ensure_future(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return await waiting.done

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._do_all(self._take())
        finally:
            # In the same breath as nothing waits any more: who comes next must not count on this one.
            self._working -= 1

    def _take(self) -> list[_Waiting]:
        """The first that waits, and those that go with it."""
        group: list[_Waiting] = []
        left: list[_Waiting] = []
        operations = size = 0
        for waiting in self._waiting:
            if waiting.done.done():
                continue  # Whoever asked for it has gone.
            operations, size = operations + len(waiting.txn), size + waiting.txn.size_bytes
            fits = operations <= _MOST_OPERATIONS and size <= _MOST_BYTES
            if not group or (not left and fits and all(waiting.is_apart_from(other) for other in group)):
                group.append(waiting)
            else:
                left.append(waiting)
        self._waiting = left
        return group

    async def _do_all(self, group: list[_Waiting]) -> None:
        if not group:
            return
        txn = group[0].txn if len(group) == 1 else _merged(group)
        (outcome,) = await asyncio.gather(self._commit(txn), return_exceptions=True)
        if isinstance(outcome, Stale) and len(group) > 1:
            await asyncio.gather(*(self._do_all([waiting]) for waiting in group))
            return
        for waiting in group:
            if waiting.done.done():
                continue
            if isinstance(outcome, BaseException):
                waiting.done.set_exception(outcome)
            else:
                waiting.done.set_result(outcome)


def _merged(group: list[_Waiting]) -> Txn:
    merged, written = Txn(), set[bytes]()
    for waiting in group:
        request = waiting.txn.request
        merged.request.compare.extend(request.compare)
        for operation in request.success:
            key = operation.request_put.key or operation.request_delete_range.key
            if key not in written:
                merged.request.success.append(operation)
                written.add(key)
    return merged

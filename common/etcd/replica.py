"""A copy in memory of everything under one prefix, fed by one watch."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from common.background import Background
from common.errors import Unavailable
from common.etcd.client import Etcd
from common.etcd.types import Compacted, KeyValue, Listing, WatchBatch

_RETRY_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Change:
    """`old` None: created. `new` None: deleted."""

    key: str
    old: KeyValue | None
    new: KeyValue | None


Subscriber = Callable[[Sequence[Change]], None]


class Replica:
    """Use as an async context: entered, it holds everything; it follows until it is left.

    Reads never wait and never leave the process. Changes are applied a whole revision at a time, and subscribers are
    called right then, so that an index of decoded records is never behind the replica.
    """

    def __init__(self, etcd: Etcd, prefix: str) -> None:
        self.prefix = prefix
        self._etcd = etcd
        # By folder (up to and with the last slash), so that one kind is listed without looking at others.
        self._folders: dict[str, dict[str, KeyValue]] = {}
        self._revision = 0
        self._subscribers: list[Subscriber] = []
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._ticket = itertools.count()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Waits for etcd as long as it takes."""
        async with AsyncExitStack() as stack:
            self._relist(await self._list())
            tasks = await stack.enter_async_context(Background())
            tasks.start(self._follow(), name=f"replica {self.prefix}")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    @property
    def revision(self) -> int:
        """It holds at least every change up to here."""
        return self._revision

    def get(self, key: str) -> KeyValue | None:
        folder = self._folders.get(_folder(key))
        return folder.get(key) if folder else None

    def iterate(self, prefix: str = "") -> Iterator[KeyValue]:
        """All under the prefix, unordered; cheap when it ends with a slash. Do not await while iterating."""
        for folder, items in self._folders.items():
            if folder.startswith(prefix):
                yield from items.values()
            elif prefix.startswith(folder):
                yield from (item for key, item in items.items() if key.startswith(prefix))

    def __len__(self) -> int:
        return sum(map(len, self._folders.values()))

    def subscribe(self, subscriber: Subscriber) -> None:
        """Called now with all that is there, then with each batch of changes. It must neither block nor raise."""
        self._subscribers.append(subscriber)
        if present := [Change(item.key, None, item) for item in self.iterate()]:
            subscriber(present)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.remove(subscriber)

    async def wait_for(self, revision: int, *, timeout_s: float = 10.0) -> None:
        """Until the change of that revision, which must be one to a key under the prefix, is seen here.

        Raises Unavailable after `timeout_s`: the watch is cut off.
        """
        if self._revision >= revision:
            return
        seen: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (revision, next(self._ticket), seen))
        try:
            async with asyncio.timeout(timeout_s):
                await seen
        except TimeoutError:
            raise Unavailable(f"the copy of {self.prefix} is behind revision {revision}") from None

    async def _list(self) -> Listing:
        while True:
            try:
                return await self._etcd.range(self.prefix)
            except Unavailable:
                await asyncio.sleep(_RETRY_S)

    async def _follow(self) -> None:
        while True:
            try:
                async for batch in self._etcd.watch(self.prefix, self._revision + 1):
                    self._apply(batch)
            except Compacted:
                self._relist(await self._list())

    def _apply(self, batch: WatchBatch) -> None:
        if not batch.events:
            return
        self._publish(((event.key, event.current) for event in batch.events), batch.revision)

    def _relist(self, listing: Listing) -> None:
        """Tells the subscribers the difference: what vanished while nobody watched is deleted here as well."""
        present = {item.key for item in listing.items}
        vanished = [item.key for item in self.iterate() if item.key not in present]
        news = ((item.key, item) for item in listing.items if self.get(item.key) != item)
        self._publish(itertools.chain(((key, None) for key in vanished), news), listing.revision)

    def _publish(self, news: Iterable[tuple[str, KeyValue | None]], revision: int) -> None:
        changes = [Change(key, self._set(key, new), new) for key, new in news]
        self._revision = max(self._revision, revision)
        for subscriber in self._subscribers if changes else ():
            subscriber(changes)
        while self._waiting and self._waiting[0][0] <= self._revision:
            *_, seen = heapq.heappop(self._waiting)
            if not seen.done():
                seen.set_result(None)

    def _set(self, key: str, new: KeyValue | None) -> KeyValue | None:
        name = _folder(key)
        if new is None:
            folder = self._folders.get(name, {})
            old = folder.pop(key, None)
            if not folder:
                self._folders.pop(name, None)
            return old
        folder = self._folders.setdefault(name, {})
        old = folder.get(key)
        folder[key] = new
        return old


def _folder(key: str) -> str:
    return key[: key.rfind("/") + 1]

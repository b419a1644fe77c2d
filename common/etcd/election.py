"""Leader election, the usual etcd way: of the keys under /mallee/election/<name>/ the oldest leads.

Its create revision is the leader's epoch: it grows with every new leader, so what an old one still sends is refused.
What a leader writes to etcd compares its key (`Leadership.guard`), so that after it was deposed nothing is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from common.background import Background
from common.errors import Stale, Unavailable
from common.etcd.client import Etcd
from common.etcd.lease import Lease
from common.etcd.replica import Replica
from common.etcd.types import Compacted, EtcdError, KeyValue, Listing, Txn
from common.log import get_logger

PREFIX: Final = "/mallee/election/"
TTL_S: Final = 10
_RETRY_S: Final = 0.5

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Leadership:
    """One term. `lost` is set, by the local clock, before another can lead."""

    key: str
    epoch: int
    lost: asyncio.Event

    def guard(self, txn: Txn) -> Txn:
        """The transaction happens only in this term."""
        return txn.if_create_revision(self.key, self.epoch)

    def check(self) -> None:
        """Raises Stale when the term is over."""
        if self.lost.is_set():
            raise Stale(f"leadership of epoch {self.epoch} was lost")


class Election:
    """One member's part in the election `name` (a role, or role/zone)."""

    def __init__(self, etcd: Etcd, name: str, member_id: str, *, ttl_s: int = TTL_S) -> None:
        self._etcd = etcd
        self._name = name
        self._prefix = f"{PREFIX}{name}/"
        self._member_id = member_id
        self._ttl_s = ttl_s

    async def run(self, lead: Callable[[Leadership], Awaitable[None]]) -> None:
        """Without end: waits to be elected, runs `lead` until the term is lost (then it is cancelled), and again.

        Unavailable ends the term, which is then tried for again; another error of `lead` flies out. When it returns by
        itself, the term is given back.
        """
        while True:
            try:
                async with self.leadership() as leadership:
                    await _until_lost(lead(leadership), leadership.lost)
            except Unavailable as error:
                _log.warning("no part in the election", election=self._name, error=error.message)
                await asyncio.sleep(_RETRY_S)

    @contextlib.asynccontextmanager
    async def leadership(self) -> AsyncIterator[Leadership]:
        """Waits until this member is elected; leaving the body resigns. The body watches `lost`."""
        async with Background() as tasks:
            while True:
                lease = await self._grant()
                try:
                    tasks.start(lease.keep(), name=f"election {self._name}")
                    epoch = await self._campaign(lease)
                    if epoch is not None:
                        _log.info("elected", election=self._name, epoch=epoch)
                        yield Leadership(self._key(lease), epoch, lease.lapsed)
                        return
                finally:
                    await asyncio.shield(lease.revoke())

    async def _grant(self) -> Lease:
        while True:
            try:
                return await Lease.grant(self._etcd, self._ttl_s)
            except Unavailable:
                await asyncio.sleep(_RETRY_S)

    def _key(self, lease: Lease) -> str:
        return f"{self._prefix}{lease.id:016x}"

    async def _campaign(self, lease: Lease) -> int | None:
        """The epoch once elected; None when the lease was lost on the way."""
        # Told from a candidacy of our predecessor, and from one of our own whose answer was lost.
        key, value = self._key(lease), f"{self._member_id} {secrets.token_hex(8)}".encode()
        while lease.held:
            try:
                await self._etcd.txn(Txn().if_absent(key).put(key, value, lease=lease.id))
                await self._remove_predecessors(key)
                return await self._wait_for_turn(key, lease)
            except (Unavailable, Compacted):
                await asyncio.sleep(_RETRY_S)
            except EtcdError as error:
                if error.status != "NOT_FOUND":
                    raise
                return None
        return None

    async def _remove_predecessors(self, own: str) -> None:
        """A member is one process: the candidacy of an earlier one with our name is a dead man's.

        Were it alive all the same, its guarded writes fail from here on, and its orders carry the older epoch.
        """
        for item in (await self._etcd.range(self._prefix)).items:
            if item.key != own and _member_of(item) == self._member_id:
                await self._etcd.txn(Txn().if_create_revision(item.key, item.create_revision).delete(item.key))

    async def _wait_for_turn(self, key: str, lease: Lease) -> int | None:
        listing = await self._etcd.range(self._prefix)
        candidates = {item.key: item.create_revision for item in listing.items}
        if key not in candidates:
            return None
        lapsed = asyncio.ensure_future(lease.lapsed.wait())
        turn = asyncio.ensure_future(self._first_of(key, candidates, listing))
        try:
            await asyncio.wait({lapsed, turn}, return_when=asyncio.FIRST_COMPLETED)
            return turn.result() if turn.done() and lease.held else None
        finally:
            lapsed.cancel()
            turn.cancel()
            await asyncio.gather(lapsed, turn, return_exceptions=True)

    async def _first_of(self, key: str, candidates: dict[str, int], listing: Listing) -> int | None:
        """The create revision of `key` once no candidate is older; None when the key vanished."""
        if min(candidates.values()) == candidates[key]:
            return candidates[key]
        async with contextlib.aclosing(self._etcd.watch(self._prefix, listing.revision + 1)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.current is None:
                        candidates.pop(event.key, None)
                    else:
                        candidates[event.key] = event.current.create_revision
                if key not in candidates:
                    return None
                if min(candidates.values()) == candidates[key]:
                    return candidates[key]
        return None


class Leaders:
    """Who leads what, followed in memory. Use as an async context."""

    def __init__(self, etcd: Etcd) -> None:
        self._replica = Replica(etcd, PREFIX)

    async def __aenter__(self) -> Self:
        await self._replica.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._replica.__aexit__(kind, error, trace)

    def leader(self, name: str) -> str | None:
        """Member id of who leads the election `name` now."""
        first = leader_among(self._replica.iterate(f"{PREFIX}{name}/"))
        return None if first is None else first[0]

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Called after each change in any election. It must neither block nor raise."""
        self._replica.subscribe(lambda _: changed())


def leader_among(candidates: Iterable[KeyValue]) -> tuple[str, int] | None:
    """(member id, epoch) of who leads; None: nobody."""
    first = min(candidates, key=lambda item: item.create_revision, default=None)
    return None if first is None else (_member_of(first), first.create_revision)


def _member_of(candidate: KeyValue) -> str:
    return candidate.value.decode().partition(" ")[0]


async def _until_lost(work: Awaitable[None], lost: asyncio.Event) -> None:
    task, loss = asyncio.ensure_future(work), asyncio.ensure_future(lost.wait())
    try:
        await asyncio.wait({task, loss}, return_when=asyncio.FIRST_COMPLETED)
        if task.cancelled():
            raise Unavailable("what the leader waited for was given up")
        if task.done():
            task.result()
    finally:
        loss.cancel()
        task.cancel()
        await asyncio.gather(task, loss, return_exceptions=True)

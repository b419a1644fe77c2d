"""An account's quota where several processes of Walrus share its buckets: each has an allowance, and all of them
together are never more than the quota.

The account's own process, which a hash of its id says, has the quota. The others may hold what it granted them, and ask
it for more when a step would pass that; it counts as used what it granted. When nothing is left it calls back what they
do not use, so that only what would pass the quota is refused. Who asked takes no answer from before it was called back.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict

from common.errors import Unavailable
from services.walrus.drivers.quotas import ALL, NOTHING, UNLIMITED, Elsewhere, Quota
from services.walrus.store import Store


class Allowances:
    """What is granted is in memory: who begins anew may hold nothing more, and knows of nobody what he may."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._quotas = store.index.quotas
        self._siblings = store.siblings
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        # Account -> what this process may hold; of accounts that are another's.
        self._mine: dict[str, Elsewhere] = {}
        # Account -> member -> what that one may hold; of accounts that are this one's.
        self._granted: defaultdict[str, dict[str, Elsewhere]] = defaultdict(dict)
        # How often this one was called back.
        self._recalls: Counter[str] = Counter()

    async def begin(self) -> None:
        """Before anything is served."""
        if self._siblings.others:
            await self._quotas.put_elsewhere(dict.fromkeys(await self._quotas.limited(), ALL))
            self._quotas.more = self.more

    async def put_quota(self, account_id: str, quota: Quota) -> None:
        async with self._locks[account_id]:
            self._recalls[account_id] += 1
            self._mine.pop(account_id, None)
            self._granted.pop(account_id, None)
            limited = quota != UNLIMITED and bool(self._siblings.others)
            await self._quotas.put_account(account_id, quota, ALL if limited else NOTHING)

    async def more(self, account_id: str, need: Elsewhere) -> bool:
        """Whether a step that needs so much may fit now. Raises Unavailable."""
        async with self._locks[account_id]:
            if self._siblings.has(account_id):
                return await self._ask(account_id, need)
            return await self._fits(account_id, need) or await self._collect(account_id)

    async def grant(
        self, account_id: str, member: str, need: Elsewhere, standing: Elsewhere | None
    ) -> Elsewhere | None:
        """None: nothing is left. Raises Unavailable.

        `standing`: what the member may hold, as it knew when it asked, without what it took no answer of. If it was
        called back since, it may hold less, and will take no answer to this either.
        """
        async with self._locks[account_id]:
            if account_id not in await self._quotas.limited():
                # It is not said here yet, or not any more: it is said again before it counts.
                return ALL
            granted = self._granted[account_id]
            if standing is None:
                granted.pop(member, None)
            elif granted.get(member, standing) != standing:
                granted[member] = standing
                await self._quotas.put_elsewhere({account_id: sum(granted.values(), NOTHING)})
            if any(other not in granted for other in self._siblings.others):
                await self._collect(account_id)
            more = await self._quotas.grant(account_id, need)
            if more is None and await self._collect(account_id, but=member):
                more = await self._quotas.grant(account_id, need)
            if more is not None:
                granted[member] += more
            return more

    async def recall(self, account_id: str, quota: Quota) -> Elsewhere:
        """What is held here, and no more may be from now on."""
        self._recalls[account_id] += 1
        held = await self._quotas.give_back(account_id, quota)
        self._mine[account_id] = held
        return held

    async def _ask(self, account_id: str, need: Elsewhere) -> bool:
        recalls, mine = self._recalls[account_id], self._mine.get(account_id)
        if mine is not None:
            held = sum((one.total for one in await self._quotas.buckets(account_id)), NOTHING)
            wanted = held + need - mine
            need = Elsewhere(objects=max(wanted.objects, 0), size=max(wanted.size, 0))
            if need == NOTHING:
                return True
        more = await self._siblings.allowance(account_id, need, mine)
        if more is None:
            return False
        if self._recalls[account_id] == recalls:
            self._mine[account_id] = (mine or NOTHING) + more
            await self._quotas.allow(account_id, self._mine[account_id])
        return True

    async def _collect(self, account_id: str, *, but: str = "") -> bool:
        """Calls back what the others do not use. Whether there is more of it now.

        Raises Unavailable if one does not answer and nobody knows what it may hold.
        """
        granted = self._granted[account_id]
        before = sum(granted.values(), NOTHING) if len(granted) == len(self._siblings.others) else ALL
        quota = (await self._quotas.counted(account_id)).quota
        for member in self._siblings.others:
            if member == but:
                continue
            try:
                granted[member] = await self._siblings.recall(member, account_id, quota)
            except Unavailable:
                if member not in granted:
                    raise
        now = sum(granted.values(), NOTHING)
        await self._quotas.put_elsewhere({account_id: now})
        return now.objects < before.objects or now.size < before.size

    async def _fits(self, account_id: str, need: Elsewhere) -> bool:
        """Others may have asked meanwhile."""
        held = await self._quotas.counted(account_id)
        return not held.quota.exceeded(held, size=need.size, objects=need.objects)

"""What accounts that have a quota hold in the stores of other processes: their quota counts it with what is here.

It is as old as a period at most: clients that write to buckets of several processes at once may pass the quota by what
those take in that time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from common.errors import Unavailable
from services.walrus.drivers.quotas import Elsewhere
from services.walrus.store import Store

_PERIOD_S: Final = 1.0


async def follow(store: Store) -> None:
    """Without end."""
    while True:
        # Of who has said nothing yet, what it said to this process's predecessor counts on.
        with suppress(Unavailable):
            await refresh(store)
        await asyncio.sleep(_PERIOD_S)


async def refresh(store: Store, accounts: Iterable[str] = ()) -> None:
    """`accounts`: also of these. A process that does not answer takes nothing meanwhile: what it said last holds.

    Raises Unavailable if one has said nothing yet.
    """
    quotas, siblings = store.index.quotas, store.siblings
    limited = sorted({*await quotas.limited(), *accounts})
    if not limited or not siblings.others:
        return
    for member in siblings.others:
        try:
            siblings.told[member] = await siblings.holdings(member, limited)
        except Unavailable:
            if not siblings.told.get(member, {}).keys() >= set(limited):
                raise
    nothing = Elsewhere()
    sums = {}
    for account_id in limited:
        each = [told.get(account_id, nothing) for told in siblings.told.values()]
        sums[account_id] = Elsewhere(objects=sum(one.objects for one in each), size=sum(one.size for one in each))
    if sums != await quotas.elsewhere():
        await quotas.put_elsewhere(sums)

"""Every client reads every acknowledged write, whichever CLC answers.

With one CLC its memory is the latest there is. With several, a request first learns etcd's revision (one linearizable
read that all requests waiting at that moment share) and waits until this replica has it.
"""

from __future__ import annotations

import asyncio

from common.etcd.client import Etcd
from common.etcd.membership import Membership
from common.etcd.replica import Replica
from services.clc.store import HEAD


class ReadBarrier:
    def __init__(self, etcd: Etcd, replica: Replica, membership: Membership) -> None:
        self._etcd = etcd
        self._replica = replica
        self._membership = membership
        self._next: asyncio.Task[None] | None = None

    async def wait(self) -> None:
        if len(self._membership.members("clc")) > 1:
            # One that has already been sent may have read too early for us: join the next.
            if self._next is None:
                self._next = asyncio.ensure_future(self._read())
            await asyncio.shield(self._next)

    async def _read(self) -> None:
        # Whoever asks until the request leaves this process shares it.
        await asyncio.sleep(0)
        self._next = None
        latest = await self._etcd.get(HEAD)
        if latest is not None:
            await self._replica.wait_for(latest.mod_revision)

"""A lease kept alive: who holds it knows by the local clock until when etcd is sure to hold it too."""

from __future__ import annotations

import asyncio
import time
from typing import Final, Self

from common.errors import Unavailable
from common.etcd.client import Etcd

# Of the time to live: the holder stops this much before etcd could let it lapse, for clock drift and a busy machine.
MARGIN: Final = 0.2


class Lease:
    """Granted by `grant`; `keep` must run as long as it is wanted.

    `gone` is set when etcd said so; `lapsed` by the local clock as well, before etcd would give the key to another.
    """

    def __init__(self, etcd: Etcd, lease: int, ttl_s: int, asked_at: float) -> None:
        self._etcd = etcd
        self.id = lease
        self.ttl_s = ttl_s
        self.gone = asyncio.Event()
        self.lapsed = asyncio.Event()
        # etcd counts from when it answers; we count from when we asked.
        self._held_until = asked_at + ttl_s * (1 - MARGIN)

    @classmethod
    async def grant(cls, etcd: Etcd, ttl_s: int) -> Self:
        asked_at = time.monotonic()
        return cls(etcd, await etcd.lease_grant(ttl_s), ttl_s, asked_at)

    @property
    def held(self) -> bool:
        return not self.lapsed.is_set() and time.monotonic() < self._held_until

    async def keep(self) -> None:
        """Returns when the lease is gone. Through an outage of etcd it keeps asking, for etcd may hold it still."""
        async with asyncio.TaskGroup() as tasks:
            clock = tasks.create_task(self._watch_clock())
            while await self._refresh():  # noqa: ASYNC110
                await asyncio.sleep(self.ttl_s / 4)
            self.gone.set()
            self.lapsed.set()
            clock.cancel()

    async def revoke(self) -> None:
        """At once: its keys vanish. When etcd does not answer, the lease ends by itself."""
        self.gone.set()
        self.lapsed.set()
        try:
            async with asyncio.timeout(1.0):
                await self._etcd.lease_revoke(self.id)
        except (TimeoutError, Unavailable):
            return

    async def _refresh(self) -> bool:
        asked_at = time.monotonic()
        try:
            left_s = await self._etcd.lease_keepalive(self.id)
        except Unavailable:
            return True
        if left_s > 0:
            self._held_until = asked_at + left_s * (1 - MARGIN)
        return left_s > 0

    async def _watch_clock(self) -> None:
        """Sets `lapsed` for good: who stopped working on a lease takes a new one."""
        while (left_s := self._held_until - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left_s)
        self.lapsed.set()

"""What the driver has, as it was last asked, and one order for each volume at a time."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

from common.ids import VolumeId
from common.reconcile import Reconciler
from services.sc.drivers.base import ObservedVolume, VolumeDriver

# How old what is told of bytes may be.
LOOK_EVERY_S: Final = 20.0


class Engine:
    """`looked` is called with the volumes that differ from what was seen before, after each look."""

    def __init__(self, driver: VolumeDriver) -> None:
        self.driver = driver
        self.seen: dict[VolumeId, ObservedVolume] = {}
        self.total_bytes = 0
        self.used_bytes = 0
        self.looked: Callable[[Sequence[VolumeId]], None] = _nothing
        self._locks: defaultdict[VolumeId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._looker = Reconciler("sc-look", self._look)

    async def open(self) -> None:
        await self.driver.open()
        await self._look("")

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._looker.run())
            self._looker.nudge()

    @asynccontextmanager
    async def alone(self, *volume_ids: VolumeId) -> AsyncIterator[None]:
        """Nobody else gives orders about these volumes meanwhile."""
        async with AsyncExitStack() as stack:
            for volume_id in sorted(set(volume_ids)):
                await stack.enter_async_context(self._locks[volume_id])
            yield

    def look_again(self) -> None:
        """Soon: an order may have changed something."""
        self._looker.nudge()

    def made(self, volume_id: VolumeId, size_bytes: int, *, missing_bytes: int) -> None:
        """Known before the next look."""
        self.seen.setdefault(
            volume_id,
            ObservedVolume(
                size_bytes=size_bytes,
                used_bytes=0,
                missing_bytes=missing_bytes,
                exported=None,
                frozen=frozenset(),
            ),
        )

    def resized(self, volume_id: VolumeId, size_bytes: int) -> None:
        """Known before the next look."""
        if seen := self.seen.get(volume_id):
            self.seen[volume_id] = replace(seen, size_bytes=size_bytes)

    def forget(self, volume_id: VolumeId) -> None:
        """Nothing of it is left."""
        self.seen.pop(volume_id, None)
        if volume_id in self._locks and not self._locks[volume_id].locked():
            del self._locks[volume_id]
        self.look_again()

    async def ask(self, volume_id: VolumeId) -> ObservedVolume | None:
        """Now."""
        return (await self.driver.observe()).get(volume_id)

    async def _follow(self) -> None:
        async for _ in self.driver.changes():
            self._looker.nudge()

    async def _look(self, key: str) -> float:
        now: Mapping[VolumeId, ObservedVolume] = await self.driver.observe()
        self.total_bytes, self.used_bytes = await self.driver.capacity()
        different = [one for one in {*now, *self.seen} if now.get(one) != self.seen.get(one)]
        self.seen = dict(now)
        self.looked(different)
        return LOOK_EVERY_S


def _nothing(volume_ids: Sequence[VolumeId]) -> None:
    return None

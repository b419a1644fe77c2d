"""Power changes on their way from an engine to whoever listens: the last word per instance, so it stays bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from common.ids import InstanceId
from services.nc.drivers.base import Power, PowerChange


class PowerFeed:
    """Used from the event loop's thread alone."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()

    def publish(self, change: PowerChange) -> None:
        for listener in self._listeners:
            listener.tell(change)

    def subscribe(self) -> AsyncIterator[PowerChange]:
        """Changes from this call on, until the iterator is closed or dropped."""
        listener = _Listener()
        self._listeners.add(listener)
        return self._drain(listener)

    async def wait_for(self, instance_id: InstanceId, *powers: Power | None, timeout_s: float) -> bool:
        """True when one of `powers` was told after this call, False when the time is over."""
        listener = _Listener()
        self._listeners.add(listener)
        try:
            async with asyncio.timeout(timeout_s):
                while (await listener.take(instance_id)) not in powers:
                    pass
                return True
        except TimeoutError:
            return False
        finally:
            self._listeners.discard(listener)

    async def _drain(self, listener: _Listener) -> AsyncIterator[PowerChange]:
        try:
            while True:
                yield await listener.next()
        finally:
            self._listeners.discard(listener)


async def instances_of(changes: AsyncIterator[PowerChange]) -> AsyncIterator[InstanceId]:
    async for change in changes:
        yield change.instance_id


class _Listener:
    def __init__(self) -> None:
        self._pending: dict[InstanceId, Power | None] = {}
        self._told = asyncio.Event()

    def tell(self, change: PowerChange) -> None:
        # Re-inserted, so that an instance that changes all the time does not stand before the others.
        self._pending.pop(change.instance_id, None)
        self._pending[change.instance_id] = change.power
        self._told.set()

    async def next(self) -> PowerChange:
        while not self._pending:
            self._told.clear()
            await self._told.wait()
        instance_id = next(iter(self._pending))
        return PowerChange(instance_id=instance_id, power=self._pending.pop(instance_id))

    async def take(self, instance_id: InstanceId) -> Power | None:
        while instance_id not in self._pending:
            self._pending.clear()
            self._told.clear()
            await self._told.wait()
        return self._pending.pop(instance_id)

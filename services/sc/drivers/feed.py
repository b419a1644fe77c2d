"""Volumes to look at again, on their way to whoever listens: each once, however often it was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from common.ids import VolumeId


class Feed:
    """Used from the event loop's thread alone."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()

    def publish(self, volume_id: VolumeId) -> None:
        for listener in self._listeners:
            listener.tell(volume_id)

    def subscribe(self) -> AsyncIterator[VolumeId]:
        """From this call on, until the iterator is closed or dropped."""
        listener = _Listener()
        self._listeners.add(listener)
        return self._drain(listener)

    async def _drain(self, listener: _Listener) -> AsyncIterator[VolumeId]:
        try:
            while True:
                yield await listener.next()
        finally:
            self._listeners.discard(listener)


class _Listener:
    def __init__(self) -> None:
        self._waiting: dict[VolumeId, None] = {}
        self._told = asyncio.Event()

    def tell(self, volume_id: VolumeId) -> None:
        self._waiting[volume_id] = None
        self._told.set()

    async def next(self) -> VolumeId:
        while not self._waiting:
            self._told.clear()
            await self._told.wait()
        volume_id = next(iter(self._waiting))
        del self._waiting[volume_id]
        return volume_id

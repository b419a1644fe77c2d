"""What followers of changing things are told: the newest of each thing, never a backlog."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from common.errors import Unavailable

Value = TypeVar("Value")


class Listener(Generic[Value]):
    """One follower. By key, so that it holds no more than there are things to tell about."""

    def __init__(self, *, closed: bool, last_words: str) -> None:
        self._news: dict[str, Value] = {}
        self._wake = asyncio.Event()
        self._closed = closed
        self._last_words = last_words

    def tell(self, key: str, value: Value) -> None:
        self._news[key] = value
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    async def next(self) -> dict[str, Value]:
        """Waits until there is something. Raises Unavailable once it is closed and all has been told."""
        while not self._news:
            if self._closed:
                raise Unavailable(self._last_words)
            self._wake.clear()
            await self._wake.wait()
        news, self._news = self._news, {}
        return news

"""Long work that its reconciler's step waits for and that can be given up from outside, by key."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


class Jobs:
    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._given_up: set[str] = set()

    async def run(self, key: str, work: Coroutine[object, object, None]) -> None:
        """Until it is done or was given up. What it raises flies out, that what it waited for was cancelled as well."""
        task = self._tasks[key] = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task})
            if key not in self._given_up:
                task.result()
        finally:
            # Cancelled from outside: the work ends with its step.
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            del self._tasks[key]
            self._given_up.discard(key)

    def give_up(self, key: str) -> None:
        if key in self._tasks:
            self._given_up.add(key)
            self._tasks[key].cancel()

"""Long work that its reconciler's step waits for and that can be given up from outside, by key."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


class Jobs:
    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self, key: str, work: Coroutine[object, object, None]) -> None:
        """Until it is done or was given up. What it raises flies out."""
        task = self._tasks[key] = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()
        finally:
            # Cancelled from outside: the work ends with its step.
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            del self._tasks[key]

    def give_up(self, key: str) -> None:
        if key in self._tasks:
            self._tasks[key].cancel()

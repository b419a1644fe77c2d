"""Tasks that live as long as the object that needs them: an async context whose end cancels them.

Also work side by side that is no one thing, and how a task tells that it is cancelled from that what it waited for was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from types import TracebackType
from typing import Any, Self


def is_cancelled() -> bool:
    """Whether this task is to end. If not, a CancelledError is the word of what it waited for, which somebody gave up:
    let through it would end the task in silence, as TaskGroups take it for an orderly end."""
    here = asyncio.current_task()
    return here is None or here.cancelling() > 0


async def all_of(*acts: Awaitable[Any]) -> list[Any]:
    """Their results, side by side. If one fails the others are still waited for, rather than cut short: none goes on
    behind the back of what follows, and none is held up by another that fails each time. The first error flies out."""
    results = await asyncio.gather(*acts, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


class Background:
    """`async with Background() as tasks: tasks.start(work())`.

    A task that fails cancels the body and its error flies out, grouped, as with asyncio.TaskGroup. Unlike there,
    leaving the body cancels what still runs, and the body's own error keeps its type.
    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    def start(self, work: Coroutine[Any, Any, None], *, name: str | None = None) -> asyncio.Task[None]:
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if isinstance(error, asyncio.CancelledError):
            await self._group.__aexit__(kind, error, trace)
            return
        await self._group.__aexit__(None, None, None)

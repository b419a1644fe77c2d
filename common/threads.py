"""Blocking work in threads that nobody walks away from.

A thread cannot be cancelled: a caller that goes before it has ended would remove, close or give to somebody else what
it still works on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

Result = TypeVar("Result")


async def to_the_end(function: Callable[[], Result], *, executor: Executor | None = None) -> Result:
    """As loop.run_in_executor, and a caller that is cancelled still waits for the thread's end."""
    return await ended(asyncio.get_running_loop().run_in_executor(executor, function))


async def ended(running: asyncio.Future[Result]) -> Result:
    """Its result. A caller that is cancelled, however often, leaves only when it is done."""
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            # A second cancellation changes nothing: the first one is already on its way up.
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError:
                continue
        raise

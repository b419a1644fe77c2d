"""Waiting in tests: for a condition, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def eventually(condition: Callable[[], object], *, within_s: float = 15.0, every_s: float = 0.01) -> None:
    """Returns once the condition holds. Raises AssertionError when it does not in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not condition():
        if loop.time() > deadline:
            raise AssertionError(f"did not come true within {within_s} s")
        await asyncio.sleep(every_s)

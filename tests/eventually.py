"""Waiting in tests: for a condition, with a deadline. Raises AssertionError when it does not come true in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(condition: Callable[[], object], *, within_s: float = 15.0, every_s: float = 0.01) -> None:
    """Returns once the condition holds."""

    async def holds() -> object:
        return condition()

    await becomes(holds, within_s=within_s, every_s=every_s)


async def becomes(condition: Callable[[], Awaitable[object]], *, within_s: float = 30.0, every_s: float = 0.02) -> None:
    """Returns once a condition holds that is itself asked for."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not await condition():
        if loop.time() > deadline:
            raise AssertionError(f"did not come true within {within_s} s")
        await asyncio.sleep(every_s)


def until(look: Callable[[], T], *, within_s: float = 60.0, every_s: float = 0.1, what: str = "it") -> T:
    """For tests without a loop: the first truthy answer of `look`."""
    deadline = time.monotonic() + within_s
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {within_s} s")
        time.sleep(every_s)
    return found

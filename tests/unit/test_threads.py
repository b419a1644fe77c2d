"""Threads that are waited for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from common.threads import to_the_end


async def test_a_caller_that_is_cancelled_again_and_again_leaves_only_when_the_thread_has_ended() -> None:
    began, may_end, ended = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(began.set)
        may_end.wait()
        ended.set()

    caller = asyncio.ensure_future(to_the_end(work))
    await began.wait()
    for _ in range(3):
        caller.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not caller.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()


async def test_what_the_thread_answers_and_raises_is_its_callers() -> None:
    assert await to_the_end(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await to_the_end(lambda: 1 // 0)

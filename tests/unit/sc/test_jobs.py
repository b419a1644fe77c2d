"""Long work of a step: given up from outside in silence, never by what it waits for."""

from __future__ import annotations

import asyncio

import pytest

from services.sc.jobs import Jobs


async def test_work_that_is_given_up_ends_in_silence() -> None:
    jobs, begun = Jobs(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    running = asyncio.ensure_future(jobs.run("a", work()))
    await begun.wait()
    jobs.give_up("a")
    await running


async def test_work_that_waits_for_what_is_cancelled_has_failed() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await Jobs().run("a", work())

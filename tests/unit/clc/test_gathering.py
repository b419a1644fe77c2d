"""Questions that come close together go out as one; one that takes long holds up no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from common.errors import Unavailable
from services.clc.instance.gathering import Gathering
from tests.eventually import eventually

REST_S = 0.05


class Asked:
    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.gates: dict[str, asyncio.Event] = {}

    async def call(self, questions: Sequence[str]) -> list[str]:
        self.calls.append(list(questions))
        for question in questions:
            if question in self.gates:
                await self.gates[question].wait()
            if question == "bad":
                raise Unavailable("nobody there")
        return [question.upper() for question in questions]


@asynccontextmanager
async def gathering(asked: Asked, *, most: int = 10) -> AsyncIterator[Gathering[str, str]]:
    gathering = Gathering(asked.call, rest_s=REST_S, long_rest_s=2 * REST_S, most=most)
    running = asyncio.create_task(gathering.run())
    try:
        yield gathering
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_what_comes_while_it_rests_is_one_call() -> None:
    asked = Asked()
    async with gathering(asked, most=2) as together:
        assert await together.ask("a") == "A"
        assert await asyncio.gather(*map(together.ask, "bcd")) == ["B", "C", "D"]
    assert asked.calls == [["a"], ["b", "c"], ["d"]]


async def test_a_call_that_hangs_holds_up_no_other() -> None:
    asked = Asked()
    asked.gates["slow"] = asyncio.Event()
    async with gathering(asked) as together:
        slow = asyncio.create_task(together.ask("slow"))
        await eventually(lambda: asked.calls)
        assert await together.ask("quick") == "QUICK"
        assert not slow.done()
        asked.gates["slow"].set()
        assert await slow == "SLOW"


async def test_an_error_is_told_to_each_and_ends_nothing() -> None:
    asked = Asked()
    async with gathering(asked) as together:
        outcomes = await asyncio.gather(together.ask("bad"), together.ask("good"), return_exceptions=True)
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        with pytest.raises(Unavailable):
            await together.ask("bad")
        assert await together.ask("good") == "GOOD"

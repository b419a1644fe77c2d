"""Questions to one zone that come close together are asked as one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Gathering(Generic[Q, A]):
    """`run` works, without end.

    The first question goes out at once; those that come within `rest_s` of it are the next call, of `most` at most.
    If they are several, there are likely more to come: then the rest is `long_rest_s`. Calls overlap: one that takes
    long holds up no other. `call` gives as many answers as it was given questions, in their order; what it raises is
    raised to each who asked.
    """

    def __init__(
        self,
        call: Callable[[Sequence[Q]], Awaitable[Sequence[A]]],
        *,
        rest_s: float,
        long_rest_s: float,
        most: int,
    ) -> None:
        self._call = call
        self._rest_s = rest_s
        self._long_rest_s = long_rest_s
        self._most = most
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._wake = asyncio.Event()

    async def ask(self, question: Q) -> A:
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        self._wake.set()
        return await answer

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._wake.wait()
                self._wake.clear()
                waiting = [asked for asked in self._waiting if not asked[1].done()]
                self._waiting = []
                for start in range(0, len(waiting), self._most):
                    tasks.create_task(self._ask(waiting[start : start + self._most]))
                await asyncio.sleep(self._long_rest_s if len(waiting) > 1 else self._rest_s)

    async def _ask(self, asked: Sequence[tuple[Q, asyncio.Future[A]]]) -> None:
        (outcome,) = await asyncio.gather(self._call([question for question, _ in asked]), return_exceptions=True)
        for number, (_, answer) in enumerate(asked):
            if answer.done():
                continue
            if isinstance(outcome, BaseException):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome[number])

"""The level-triggered loop: keys are nudged, and one step at a time brings each to where it should be.

A step is given the key alone, never what woke it: it reads the world and does the next thing. One of the two places
that catch every exception: a step that raises is logged, counted and run again, later each time.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from common.background import is_cancelled
from common.errors import CloudError
from common.ids import new_request_id
from common.log import get_logger
from common.metrics import RECONCILE_PASSES, RECONCILE_SECONDS, RECONCILE_WAITING
from common.rpc import context

_log = get_logger(__name__)

FIRST_RETRY_S: Final = 0.1
LAST_RETRY_S: Final = 30.0
_REST: Final = 4

# Returns seconds after which it wants to look again without being nudged; None: never.
Step = Callable[[str], Awaitable[float | None]]


async def give_way(took_s: float) -> None:
    """At the end of a pass over many records: leaves others their turn, by what it took of the event loop itself.

    What nudges its key meanwhile is one pass, so that a change of each of a thousand records costs no thousand passes.
    """
    await asyncio.sleep(_REST * took_s)


async def keep_running(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Without end: work that has none is begun again after whatever it raises, later each time.

    For what a service does besides: that a disk is full, say, is no reason to serve nobody.
    """

    async def step(_: str) -> None:
        await work()

    loop = Reconciler(name, step)
    loop.nudge()
    await loop.run()


class Reconciler:
    """`nudge` as often as you like; `run` works, without end.

    Nudges of a key that waits are one; a key nudged while its step runs is run once more after it. Never two steps of
    one key at a time, and never more than `concurrency` in all.
    """

    def __init__(self, name: str, step: Step, *, concurrency: int = 32, last_retry_s: float = LAST_RETRY_S) -> None:
        self.name = name
        self._step = step
        self._concurrency = concurrency
        self._last_retry_s = last_retry_s
        # Keys that are due, in the order they came.
        self._due: dict[str, None] = {}
        self._running: dict[str, bool] = {}
        # (when, tie-breaker, key); an entry counts only while _alarms says the same.
        self._later: list[tuple[float, int, str]] = []
        self._alarms: dict[str, int] = {}
        self._failures: dict[str, int] = {}
        self._count = itertools.count()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def nudge(self, key: str = "") -> None:
        """Returns at once. May be called before `run`."""
        if key in self._running:
            self._running[key] = True
        else:
            self._due[key] = None
        self._alarms.pop(key, None)
        self._idle.clear()
        self._wake.set()

    def nudge_later(self, key: str, delay_s: float) -> None:
        """Unless it runs earlier."""
        number = next(self._count)
        self._alarms[key] = number
        heapq.heappush(self._later, (time.monotonic() + delay_s, number, key))
        self._wake.set()

    async def idle(self) -> None:
        """Until no key is due or running; those that wait for their time do not count."""
        await self._idle.wait()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._wake.clear()
                next_s = self._ring()
                while self._due and len(self._running) < self._concurrency:
                    key = next(iter(self._due))
                    del self._due[key]
                    self._running[key] = False
                    tasks.create_task(self._pass(key), name=f"{self.name} {key}")
                RECONCILE_WAITING.labels(self.name).set(len(self._due))
                try:
                    async with asyncio.timeout(next_s):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    def _ring(self) -> float | None:
        """Moves what has come due; seconds to the next."""
        while self._later:
            when, number, key = self._later[0]
            if self._alarms.get(key) != number:
                heapq.heappop(self._later)
            elif (left_s := when - time.monotonic()) > 0:
                return left_s
            else:
                heapq.heappop(self._later)
                self.nudge(key)
        return None

    async def _pass(self, key: str) -> None:
        began = time.perf_counter()
        outcome, again_s = "done", None
        try:
            with context.bind(request_id=new_request_id()):
                again_s = await self._guarded(key)
            if again_s is not None:
                outcome = "again" if key not in self._failures else "failed"
        finally:
            nudged = self._running.pop(key)
            if nudged:
                self._due[key] = None
            elif again_s is not None:
                self.nudge_later(key, again_s)
            RECONCILE_PASSES.labels(self.name, outcome).inc()
            RECONCILE_SECONDS.labels(self.name).observe(time.perf_counter() - began)
            if not self._due and not self._running:
                self._idle.set()
            self._wake.set()

    async def _guarded(self, key: str) -> float | None:
        try:
            again_s = await self._step(key)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            delay_s = min(FIRST_RETRY_S * (1 << min(failures - 1, 20)), self._last_retry_s) * random.uniform(0.5, 1.0)
            # A CloudError says it all; anything else is a bug, and its traceback is wanted.
            _log.warning(
                "a pass failed and will be run again",
                reconciler=self.name, key=key, failures=failures, delay_s=round(delay_s, 3), error=_words(error),
                kind=type(error).__name__, exc_info=not _is_expected(error),
            )  # fmt: skip
            return delay_s
        self._failures.pop(key, None)
        return again_s


def _words(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(_words, error.exceptions))
    return str(error)


def _is_expected(error: BaseException) -> bool:
    """A CloudError, or those that steps of a TaskGroup raised together."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_expected, error.exceptions))
    return isinstance(error, CloudError)

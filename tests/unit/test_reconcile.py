"""The reconciler: level-triggered, one pass per key at a time, failures run again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from common.background import Background
from common.errors import Unavailable
from common.reconcile import Reconciler, keep_running
from common.rpc import context
from tests.eventually import eventually


@asynccontextmanager
async def running(reconciler: Reconciler) -> AsyncIterator[None]:
    async with Background() as tasks:
        tasks.start(reconciler.run())
        yield


async def test_nudges_that_wait_are_one_pass() -> None:
    passes: Counter[str] = Counter()

    async def step(key: str) -> None:
        passes[key] += 1

    reconciler = Reconciler("test", step)
    for _ in range(10):
        reconciler.nudge("a")
        reconciler.nudge("b")
    async with running(reconciler):
        await reconciler.idle()
    assert passes == {"a": 1, "b": 1}


async def test_a_nudge_during_a_pass_runs_it_once_more_and_never_beside_it() -> None:
    go = asyncio.Event()
    inside = 0
    passes = 0

    async def step(key: str) -> None:
        nonlocal inside, passes
        inside += 1
        passes += 1
        assert inside == 1
        await go.wait()
        inside -= 1

    reconciler = Reconciler("test", step)
    async with running(reconciler):
        reconciler.nudge("a")
        await eventually(lambda: inside)
        for _ in range(5):
            reconciler.nudge("a")
        go.set()
        await reconciler.idle()
    assert passes == 2


@pytest.mark.parametrize(
    "error", [Unavailable("later"), KeyError("a bug"), asyncio.CancelledError("what it waited for was given up")]
)
async def test_a_failed_pass_is_run_again_later_each_time(error: BaseException) -> None:
    times: list[float] = []

    async def step(key: str) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) < 4:
            raise error

    reconciler = Reconciler("test", step)
    async with running(reconciler):
        reconciler.nudge("a")
        await eventually(lambda: len(times) == 4)
    gaps = [b - a for a, b in pairwise(times)]
    assert gaps[0] >= 0.05
    assert gaps[2] >= 0.2


async def test_a_nudge_does_not_wait_for_the_retry() -> None:
    passes = 0

    async def step(key: str) -> float | None:
        nonlocal passes
        passes += 1
        return 3600

    reconciler = Reconciler("test", step)
    async with running(reconciler):
        reconciler.nudge("a")
        await eventually(lambda: passes == 1)
        reconciler.nudge("a")
        await eventually(lambda: passes == 2)


async def test_a_step_that_asks_for_it_is_run_again() -> None:
    passes = 0

    async def step(key: str) -> float | None:
        nonlocal passes
        passes += 1
        return 0.01 if passes < 3 else None

    reconciler = Reconciler("test", step)
    async with running(reconciler):
        reconciler.nudge("a")
        await eventually(lambda: passes == 3)


async def test_no_more_than_so_many_at_once() -> None:
    inside, most = 0, 0

    async def step(key: str) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1

    reconciler = Reconciler("test", step, concurrency=3)
    async with running(reconciler):
        for n in range(20):
            reconciler.nudge(str(n))
        await reconciler.idle()
    assert most == 3


async def test_a_pass_has_its_own_request_id_and_no_deadline_of_who_nudged() -> None:
    seen: list[tuple[str, float | None]] = []

    async def step(key: str) -> None:
        seen.append((context.current_request_id(), context.remaining_s()))

    reconciler = Reconciler("test", step)
    async with running(reconciler):
        with context.bind(request_id="of the nudge", timeout_s=1.0):
            reconciler.nudge("a")
        await reconciler.idle()
    assert seen[0][0] not in ("", "of the nudge")
    assert seen[0][1] is None


async def test_work_without_end_is_begun_again_after_whatever_it_raises() -> None:
    errors: list[Exception] = [Unavailable("the disk is full"), OSError("full"), KeyError("a bug")]
    works = asyncio.Event()

    async def work() -> None:
        if errors:
            raise errors.pop()
        works.set()
        await asyncio.Event().wait()

    async with Background() as tasks, asyncio.timeout(15):
        tasks.start(keep_running("test", work))
        await works.wait()

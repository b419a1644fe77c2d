"""Commits that wait together become one transaction, as far as that cannot be told from one after the other."""

from __future__ import annotations

import asyncio

import pytest

from common.errors import Stale, Unavailable
from common.etcd.types import Txn
from services.clc.group_commit import GroupCommit
from tests.eventually import eventually


class Played:
    """An etcd that waits for `gate` and refuses transactions that compare one of `taken`."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.taken: set[bytes] = set()
        self.done: list[set[bytes]] = []
        self.tried = 0
        self.silent = False

    async def commit(self, txn: Txn) -> int:
        self.tried += 1
        await self.gate.wait()
        if self.silent:
            raise Unavailable("no answer")
        if any(compare.key in self.taken for compare in txn.request.compare):
            raise Stale("it has changed")
        self.done.append({operation.request_put.key for operation in txn.request.success})
        return len(self.done)


def creation(key: str) -> Txn:
    return Txn().if_absent(key).put(key, b"").put("/use", b"")


async def under_way(etcd: Played, *txns: Txn) -> list[asyncio.Task[int]]:
    """Two that are sent by themselves, and the others, which wait for them."""
    group = GroupCommit(etcd.commit)
    tasks = []
    for key in ("/1", "/2"):
        tasks.append(asyncio.create_task(group.do(creation(key))))
        await eventually(lambda: etcd.tried == len(tasks))
    return tasks + [asyncio.create_task(group.do(txn)) for txn in txns]


async def test_what_waits_together_is_one_transaction() -> None:
    etcd = Played()
    tasks = await under_way(etcd, *(creation(f"/{number}") for number in range(3, 7)))
    etcd.gate.set()
    await asyncio.gather(*tasks)
    assert sorted(map(sorted, etcd.done)) == [[b"/1", b"/use"], [b"/2", b"/use"], [b"/3", b"/4", b"/5", b"/6", b"/use"]]


async def test_one_that_reads_what_another_writes_goes_after_it() -> None:
    etcd = Played()
    reads = Txn().if_mod_revision("/3", 0).put("/5", b"")
    tasks = await under_way(etcd, creation("/3"), reads, creation("/4"))
    etcd.gate.set()
    await asyncio.gather(*tasks)
    assert not any({b"/3", b"/5"} <= done for done in etcd.done)


@pytest.mark.parametrize("other", [Txn().put("/3", b"other"), Txn().delete("/3")])
async def test_two_that_write_one_key_otherwise_are_apart(other: Txn) -> None:
    etcd = Played()
    tasks = await under_way(etcd, Txn().put("/3", b"some"), other)
    etcd.gate.set()
    assert len({*await asyncio.gather(*tasks)} - {1, 2}) == 2


async def test_one_that_is_refused_takes_no_other_along() -> None:
    etcd = Played()
    etcd.taken.add(b"/4")
    tasks = await under_way(etcd, creation("/3"), creation("/4"), creation("/5"))
    etcd.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(outcome, Stale) for outcome in outcomes] == [False, False, False, True, False]
    assert {b"/3", b"/5"} <= set().union(*etcd.done)


async def test_silence_is_told_to_each() -> None:
    etcd = Played()
    tasks = await under_way(etcd, creation("/3"), creation("/4"))
    etcd.silent = True
    etcd.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)


async def test_one_whose_caller_has_gone_is_not_sent() -> None:
    etcd = Played()
    tasks = await under_way(etcd, creation("/3"), creation("/4"))
    tasks[2].cancel()
    etcd.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert b"/3" not in set().union(*etcd.done)
    assert b"/4" in set().union(*etcd.done)


async def test_who_commits_again_at_once_is_never_forgotten() -> None:
    """Answers wake their callers before the workers that brought them have ended."""
    etcd = Played()
    commits = GroupCommit(etcd.commit)

    async def twice() -> None:
        await commits.do(creation("/1"))
        await commits.do(creation("/2"))

    first = asyncio.ensure_future(twice())
    await eventually(lambda: etcd.tried == 1)
    tasks = [first, asyncio.ensure_future(commits.do(creation("/3")))]
    await eventually(lambda: etcd.tried == 2)
    etcd.gate.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks)
    assert {b"/1", b"/2", b"/3"} <= set().union(*etcd.done)

"""Elections: one leader at a time, epochs that grow, and a loser that knows it before another wins."""

from __future__ import annotations

import asyncio
import time

import pytest

from common.background import Background
from common.errors import Stale
from common.etcd.client import Etcd
from common.etcd.election import PREFIX, Election, Leaders, Leadership
from common.etcd.types import Txn
from tests.etcd_fixture import EtcdServer
from tests.eventually import eventually


class Terms:
    """Who led in what epoch, in order; two at once fail."""

    def __init__(self) -> None:
        self.history: list[tuple[str, int]] = []
        self.now: dict[str, Leadership] = {}

    async def lead(self, member: str, leadership: Leadership) -> None:
        assert not self.now
        self.now[member] = leadership
        self.history.append((member, leadership.epoch))
        try:
            await asyncio.Event().wait()
        finally:
            del self.now[member]


async def test_the_oldest_candidate_leads_and_the_next_follows_when_it_resigns(etcd: Etcd) -> None:
    terms = Terms()
    async with Leaders(etcd) as leaders, Background() as tasks:
        first = tasks.start(Election(etcd, "cc/z", "cc-1").run(lambda term: terms.lead("cc-1", term)))
        await eventually(lambda: terms.history)
        tasks.start(Election(etcd, "cc/z", "cc-2").run(lambda term: terms.lead("cc-2", term)))
        await eventually(lambda: leaders.leader("cc/z") == "cc-1")
        assert leaders.leader("cc/other") is None
        first.cancel()
        await eventually(lambda: len(terms.history) == 2, within_s=3)
        assert [member for member, _ in terms.history] == ["cc-1", "cc-2"]
        assert terms.history[0][1] < terms.history[1][1]
        await eventually(lambda: leaders.leader("cc/z") == "cc-2")


async def test_a_dead_leader_is_followed_when_its_lease_ends(etcd: Etcd) -> None:
    lease = await etcd.lease_grant(1)
    await etcd.put(f"{PREFIX}clc/dead", b"clc-1 x", lease=lease)
    async with asyncio.timeout(15), Election(etcd, "clc", "clc-2").leadership() as leadership:
        assert leadership.epoch > 0


async def test_a_restarted_member_does_not_wait_for_its_own_ghost(etcd: Etcd) -> None:
    lease = await etcd.lease_grant(600)
    await etcd.put(f"{PREFIX}clc/ghost", b"clc-1 x", lease=lease)
    async with asyncio.timeout(5), Election(etcd, "clc", "clc-1").leadership():
        assert await etcd.get(f"{PREFIX}clc/ghost") is None


async def test_what_a_deposed_leader_writes_does_not_happen(etcd: Etcd) -> None:
    async with Election(etcd, "clc", "clc-1").leadership() as leadership:
        assert (await etcd.txn(leadership.guard(Txn()).put("/mallee/x/a", b"1"))).succeeded
        await etcd.delete(leadership.key)
        assert not (await etcd.txn(leadership.guard(Txn()).put("/mallee/x/a", b"2"))).succeeded


async def test_a_revoked_lease_ends_the_term_and_a_new_one_begins(etcd: Etcd) -> None:
    terms = Terms()
    async with Background() as tasks:
        tasks.start(Election(etcd, "clc", "clc-1", ttl_s=2).run(lambda term: terms.lead("clc-1", term)))
        await eventually(lambda: terms.history)
        term = terms.now["clc-1"]
        await etcd.lease_revoke(int(term.key.rpartition("/")[2], 16))
        await asyncio.wait_for(term.lost.wait(), 10)
        with pytest.raises(Stale):
            term.check()
        await eventually(lambda: len(terms.history) == 2)
        assert terms.history[0][1] < terms.history[1][1]


async def test_a_leader_that_waits_for_what_is_given_up_leads_again(etcd: Etcd) -> None:
    epochs: list[int] = []

    async def lead(leadership: Leadership) -> None:
        epochs.append(leadership.epoch)
        given_up = asyncio.get_running_loop().create_future()
        if len(epochs) == 1:
            given_up.cancel()
        await given_up

    async with Background() as tasks:
        tasks.start(Election(etcd, "clc", "clc-1").run(lead))
        await eventually(lambda: len(epochs) == 2)


async def test_who_is_cut_off_stops_before_another_could_begin(own_etcd_server: EtcdServer) -> None:
    """etcd is frozen: no lease ends there, and the leader must give up by its own clock within the time to live."""
    async with (
        Etcd([own_etcd_server.address], None, patience_s=0.5) as etcd,
        Election(etcd, "clc", "clc-1", ttl_s=3).leadership() as leadership,
    ):
        own_etcd_server.freeze()
        frozen_at = time.monotonic()
        await asyncio.wait_for(leadership.lost.wait(), 3)
        assert time.monotonic() - frozen_at < 3 * 0.8 + 0.3
        own_etcd_server.thaw()

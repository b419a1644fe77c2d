"""The client against a real etcd, with `etcd3` as an independent witness."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from common.background import Background
from common.etcd.client import Etcd
from common.etcd.sync import connected
from common.etcd.types import Compacted, EtcdError, OutcomeUnknown, Txn, WatchEvent
from tests.etcd_fixture import EtcdServer, compact
from tests.eventually import eventually


async def test_what_is_put_is_what_the_witness_reads(etcd: Etcd, etcd_server: EtcdServer) -> None:
    revision = await etcd.put("/mallee/x/1", b"one")
    with connected(etcd_server.address) as witness:
        value, metadata = witness.get("/mallee/x/1")
        assert (value, metadata.mod_revision) == (b"one", revision)
        witness.put("/mallee/x/2", b"two")
    found = await etcd.get("/mallee/x/2")
    assert found is not None
    assert found.value == b"two"
    assert await etcd.get("/mallee/x/3") is None
    assert await etcd.delete("/mallee/x/1")
    assert not await etcd.delete("/mallee/x/1")


async def test_a_range_is_one_revision_over_many_pages(etcd: Etcd) -> None:
    keys = [f"/mallee/x/{n:03}" for n in range(50)]
    for key in keys:
        await etcd.put(key, b"")
    await etcd.put("/mallee/y", b"")
    listing = await etcd.range("/mallee/x/", page=7)
    assert [item.key for item in listing.items] == keys
    assert listing.revision >= max(item.mod_revision for item in listing.items)


async def test_a_transaction_happens_whole_or_not_at_all(etcd: Etcd) -> None:
    first = await etcd.txn(Txn().if_absent("/mallee/x/a").put("/mallee/x/a", b"1").put("/mallee/x/b", b"1"))
    assert first.succeeded
    second = await etcd.txn(Txn().if_absent("/mallee/x/a").put("/mallee/x/b", b"2").else_get("/mallee/x/a"))
    assert not second.succeeded
    seen = second.found["/mallee/x/a"]
    assert seen is not None
    assert seen.mod_revision == first.revision
    third = await etcd.txn(Txn().if_mod_revision("/mallee/x/a", first.revision).delete("/mallee/x/a"))
    assert third.succeeded
    assert await etcd.get("/mallee/x/a") is None


async def test_a_request_etcd_refuses_is_told_apart_from_silence(etcd: Etcd) -> None:
    with pytest.raises(EtcdError, match="duplicate key"):
        await etcd.txn(Txn().put("/mallee/x/a", b"1").put("/mallee/x/a", b"2"))


async def test_a_lease_takes_its_keys_along(etcd: Etcd) -> None:
    lease = await etcd.lease_grant(30)
    await etcd.put("/mallee/x/leased", b"", lease=lease)
    assert await etcd.lease_keepalive(lease) == 30
    await etcd.lease_revoke(lease)
    await etcd.lease_revoke(lease)
    assert await etcd.get("/mallee/x/leased") is None
    assert await etcd.lease_keepalive(lease) == 0


async def test_a_watch_never_tears_a_transaction(etcd: Etcd) -> None:
    """Large enough that etcd sends it in fragments."""
    revision = await etcd.revision()
    txn = Txn()
    for n in range(12):
        txn.put(f"/mallee/x/{n}", bytes(100_000))
    written = await etcd.txn(txn)
    for n in range(40):
        await etcd.put(f"/mallee/x/{n}", bytes(200_000))
    events: list[WatchEvent] = []
    async with contextlib.aclosing(etcd.watch("/mallee/x/", revision + 1)) as batches:
        async for batch in batches:
            torn = {event.revision for event in events} & {event.revision for event in batch.events}
            assert not torn
            events.extend(batch.events)
            if len(events) == 52:
                break
    assert [event.revision for event in events] == [written.revision] * 12 + sorted(e.revision for e in events[12:])


async def test_a_watch_of_compacted_history_says_so(etcd: Etcd) -> None:
    first = await etcd.put("/mallee/x/a", b"1")
    last = await etcd.put("/mallee/x/a", b"2")
    await compact(etcd, last)
    with pytest.raises(Compacted):
        async for _ in etcd.watch("/mallee/x/", first):
            pass


async def test_a_deletion_at_the_compacted_revision_is_not_lost(etcd: Etcd) -> None:
    """Either it is told, or the watch says that it has to list."""
    await etcd.put("/mallee/x/a", b"1")
    await etcd.delete("/mallee/x/a")
    deleted = await etcd.revision()
    await compact(etcd, deleted)
    await etcd.put("/mallee/x/b", b"2")

    async def follow() -> None:
        async for batch in etcd.watch("/mallee/x/", deleted):
            assert not batch.events

    with pytest.raises(Compacted):
        await follow()


async def test_a_watch_goes_on_where_it_was_after_etcd_was_killed(own_etcd_server: EtcdServer) -> None:
    seen: list[int] = []

    async def follow(etcd: Etcd, start: int) -> None:
        async for batch in etcd.watch("/mallee/x/", start):
            seen.extend(event.revision for event in batch.events)

    async with Etcd([own_etcd_server.address], None) as etcd, Background() as tasks:
        expected = [await etcd.put("/mallee/x/a", b"0")]
        tasks.start(follow(etcd, expected[0]))
        await eventually(lambda: seen == expected)
        own_etcd_server.restart()
        await etcd.revision()  # A write on the broken connection would have an unknown outcome.
        expected += [await etcd.put("/mallee/x/a", str(n).encode()) for n in range(10)]
        await eventually(lambda: seen == expected)


async def test_a_write_to_a_frozen_member_is_sent_once_and_its_outcome_is_unknown(own_etcd_server: EtcdServer) -> None:
    async with Etcd([own_etcd_server.address], None, write_timeout_s=0.5) as etcd:
        await etcd.put("/mallee/x/a", b"1")
        own_etcd_server.freeze()
        with pytest.raises(OutcomeUnknown):
            await etcd.put("/mallee/x/a", b"2")
        own_etcd_server.thaw()
        found = await etcd.get("/mallee/x/a")
        assert found is not None
        assert found.version <= 2


async def test_reads_wait_out_a_frozen_member(own_etcd_server: EtcdServer) -> None:
    async with Etcd([own_etcd_server.address], None, try_timeout_s=0.2) as etcd:
        await etcd.put("/mallee/x/a", b"1")
        own_etcd_server.freeze()
        read = asyncio.ensure_future(etcd.get("/mallee/x/a"))
        done, _ = await asyncio.wait({read}, timeout=0.5)
        assert not done
        own_etcd_server.thaw()
        assert (await read) is not None

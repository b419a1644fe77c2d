"""The replica: the same as etcd, in order, whatever happens to the connection or the history."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from common.errors import Unavailable
from common.etcd.client import Etcd
from common.etcd.replica import Change, Replica
from common.etcd.types import Txn
from tests.etcd_fixture import EtcdServer, compact
from tests.eventually import eventually


class Index:
    """What a user of the replica keeps: here the value by key, and every step must fit the one before."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            assert self.values.get(change.key) == (change.old.value if change.old else None)
            if change.new is None:
                del self.values[change.key]
            else:
                self.values[change.key] = change.new.value


async def test_a_write_is_seen_as_soon_as_its_revision_is(etcd: Etcd) -> None:
    await etcd.put("/mallee/clc/key/1", b"before")
    index = Index()
    async with Replica(etcd, "/mallee/clc/") as replica:
        replica.subscribe(index.apply)
        assert index.values == {"/mallee/clc/key/1": b"before"}
        written = await etcd.txn(Txn().put("/mallee/clc/key/2", b"2").put("/mallee/clc/image/1", b"3"))
        await replica.wait_for(written.revision)
        found = replica.get("/mallee/clc/key/2")
        assert found is not None
        assert found.mod_revision == written.revision
        assert index.values["/mallee/clc/image/1"] == b"3"
        gone = await etcd.txn(Txn().delete("/mallee/clc/key/1"))
        await replica.wait_for(gone.revision)
        assert replica.get("/mallee/clc/key/1") is None


async def test_iterating_a_prefix(etcd: Etcd) -> None:
    for key in ("a/1", "a/2", "a/b/1", "ab/1", "top"):
        await etcd.put(f"/mallee/x/{key}", b"")
    async with Replica(etcd, "/mallee/x/") as replica:

        def under(prefix: str) -> list[str]:
            return sorted(item.key.removeprefix("/mallee/x/") for item in replica.iterate(f"/mallee/x/{prefix}"))

        assert under("a/") == ["a/1", "a/2", "a/b/1"]
        assert under("a") == ["a/1", "a/2", "a/b/1", "ab/1"]
        assert under("a/1") == ["a/1"]
        assert under("") == ["a/1", "a/2", "a/b/1", "ab/1", "top"]
        assert under("none/") == []
        assert len(replica) == 5


async def test_it_equals_etcd_after_crashes_and_compactions(own_etcd_server: EtcdServer) -> None:
    """While it is cut off keys are written and deleted and the history is compacted: it must list and tell it all."""
    dice = random.Random(7)
    index = Index()
    async with (
        Etcd([own_etcd_server.address], None) as watched,
        Etcd([own_etcd_server.address], None) as etcd,
        Replica(watched, "/mallee/x/") as replica,
    ):
        replica.subscribe(index.apply)
        for round_ in range(3):
            last = 0
            for n in range(60):
                key = f"/mallee/x/{dice.randrange(30)}"
                if dice.random() < 0.3:
                    await etcd.delete(key)
                else:
                    last = await etcd.put(key, str(n).encode())
                if n == 30:
                    own_etcd_server.restart()
                    # Not only to compact: a write on the broken connection would have an unknown outcome.
                    revision = await etcd.revision()
                    if round_ == 1:
                        await compact(etcd, revision)
            last = await etcd.put("/mallee/x/last", b"")
            await replica.wait_for(last)
            truth = {item.key: item.value for item in (await etcd.range("/mallee/x/")).items}
            assert index.values == truth
            assert {item.key: item.value for item in replica.iterate()} == truth


async def test_waiting_for_what_never_comes_ends(etcd: Etcd) -> None:
    async with Replica(etcd, "/mallee/x/") as replica:
        with pytest.raises(Unavailable):
            await replica.wait_for(1 << 40, timeout_s=0.05)


async def test_it_starts_before_etcd_does(own_etcd_server: EtcdServer) -> None:
    own_etcd_server.kill()
    async with Etcd([own_etcd_server.address], None, patience_s=0.2) as etcd:
        replica = Replica(etcd, "/mallee/x/")
        own_etcd_server.start()
        async with replica:
            revision = await etcd.put("/mallee/x/a", b"1")
            await replica.wait_for(revision)
            await eventually(lambda: replica.get("/mallee/x/a"))

"""A CLC whose copy of the records is late answers only once it has what the other one has acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from common.etcd.client import Etcd
from common.etcd.membership import Membership
from common.etcd.replica import Replica
from common.etcd.types import WatchBatch
from mallee.clc.v1 import record_pb2
from mallee.common.v1.caller_pb2 import Member
from services.clc.barrier import ReadBarrier
from services.clc.store import PREFIX, Changes, Store
from tests.etcd_fixture import EtcdServer
from tests.eventually import eventually


class LateEtcd(Etcd):
    """Its watches tell nothing before `told` is set."""

    def __init__(self, address: str) -> None:
        super().__init__([address], None)
        self.told = asyncio.Event()

    async def watch(
        self, prefix: str, start_revision: int, *, single_key: bool = False
    ) -> AsyncGenerator[WatchBatch, None]:
        async for batch in super().watch(prefix, start_revision, single_key=single_key):
            await self.told.wait()
            yield batch


@pytest.fixture
async def late(etcd_server: EtcdServer) -> AsyncIterator[LateEtcd]:
    async with LateEtcd(etcd_server.address) as etcd:
        yield etcd


@pytest.mark.parametrize("members", [1, 2])
async def test_of_two_the_late_one_waits_and_one_alone_never_does(
    etcd_server: EtcdServer, late: LateEtcd, members: int
) -> None:
    async with (
        Etcd([etcd_server.address], None) as etcd,
        Replica(etcd, PREFIX) as ahead,
        Replica(late, PREFIX) as behind,
        Membership(etcd) as membership,
    ):
        for number in range(members):
            await membership.register(Member(id=f"clc-{number}", role="clc", address=f"127.0.0.1:{number + 1}"))
        await eventually(lambda: len(membership.members("clc")) == members)
        store, barrier = Store(late, behind), ReadBarrier(late, behind, membership)
        changes = Changes()
        changes.create(record_pb2.KeyPairRecord(key_pair_id="key-1", name="new"))
        await Store(etcd, ahead).commit(changes)
        waiting = asyncio.ensure_future(barrier.wait())
        if members == 1:
            await waiting
            return
        # As long as etcd takes to be asked, and for an answer to come back.
        await late.get("/")
        await late.get("/")
        assert not waiting.done()
        assert store.get(record_pb2.KeyPairRecord, "key-1") is None
        late.told.set()
        await waiting
        assert store.get(record_pb2.KeyPairRecord, "key-1") is not None

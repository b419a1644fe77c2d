"""etcd does a transaction, or does not, and its answer is lost: the CLC acknowledges what happened and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import Enum

import pytest

from common.errors import Unavailable
from common.etcd.client import Etcd
from common.etcd.replica import Replica
from common.etcd.types import OutcomeUnknown, Txn, TxnResult
from mallee.clc.v1 import record_pb2
from services.clc.store import PREFIX, Changes, Store
from tests.etcd_fixture import EtcdServer


class Loses(Enum):
    NOTHING = "nothing"
    REQUEST = "request"
    ANSWER = "answer"


class LossyEtcd(Etcd):
    loses = Loses.NOTHING

    async def txn(self, txn: Txn) -> TxnResult:
        if self.loses is not Loses.REQUEST:
            result = await super().txn(txn)
            if self.loses is Loses.NOTHING:
                return result
        raise OutcomeUnknown("lost")


@pytest.fixture
async def etcd(etcd_server: EtcdServer) -> AsyncIterator[LossyEtcd]:
    async with LossyEtcd([etcd_server.address], None) as client:
        yield client


@pytest.fixture
async def store(etcd: LossyEtcd) -> AsyncIterator[Store]:
    async with Replica(etcd, PREFIX) as replica:
        store = Store(etcd, replica)
        changes = Changes()
        changes.create(record_pb2.VpcRecord(vpc_id="vpc-1"))
        changes.bump("some-use")
        await store.commit(changes)
        yield store


def bump_first() -> Changes:
    changes = Changes()
    changes.bump("some-use")
    changes.create(record_pb2.VpcRecord(vpc_id="vpc-2"))
    return changes


def delete_only(store: Store) -> Changes:
    changes = Changes()
    vpc = store.get(record_pb2.VpcRecord, "vpc-1")
    assert vpc is not None
    changes.delete(vpc)
    return changes


async def test_a_transaction_that_never_arrived_is_not_acknowledged(store: Store, etcd: LossyEtcd) -> None:
    for changes in (bump_first(), delete_only(store)):
        etcd.loses = Loses.REQUEST
        with pytest.raises(Unavailable):
            await store.commit(changes)
    assert store.get(record_pb2.VpcRecord, "vpc-1") is not None
    assert store.get(record_pb2.VpcRecord, "vpc-2") is None


async def test_a_transaction_whose_answer_was_lost_is_acknowledged(store: Store, etcd: LossyEtcd) -> None:
    for changes in (bump_first(), delete_only(store)):
        etcd.loses = Loses.ANSWER
        await store.commit(changes)
    assert store.get(record_pb2.VpcRecord, "vpc-1") is None
    assert store.get(record_pb2.VpcRecord, "vpc-2") is not None


async def test_commits_of_others_do_not_hide_it(store: Store, etcd: LossyEtcd, etcd_server: EtcdServer) -> None:
    async with Etcd([etcd_server.address], None) as other, Replica(other, PREFIX) as replica:
        busy = Store(other, replica)

        class Overtaken(LossyEtcd):
            async def txn(self, txn: Txn) -> TxnResult:
                await super().txn(txn)
                for number in range(3):
                    changes = Changes()
                    changes.bump(f"another-{number}")
                    await busy.commit(changes)
                raise OutcomeUnknown("lost")

        async with Overtaken([etcd_server.address], None) as lossy, Replica(lossy, PREFIX) as seen:
            overtaken = Store(lossy, seen)
            await overtaken.commit(bump_first())
            assert overtaken.get(record_pb2.VpcRecord, "vpc-2") is not None

"""The store's order of an account's records, over any run of creations, updates and deletions."""

from __future__ import annotations

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from common.etcd.client import Etcd
from common.etcd.replica import Change, Replica, Subscriber
from common.etcd.types import KeyValue
from mallee.clc.v1 import record_pb2
from services.clc.store import Store, key_of, place_of

KIND = record_pb2.InstanceRecord


class Told:
    """Stands in for the replica: what it is told is what the watch would bring."""

    def __init__(self) -> None:
        self.revision = 0
        self.made: dict[str, KeyValue] = {}

    def subscribe(self, subscriber: Subscriber) -> None:
        self.tell = subscriber

    def put(self, record: record_pb2.InstanceRecord) -> None:
        self.revision += 1
        key, content = key_of(record), record.SerializeToString()
        old = self.made.get(key)
        created = old.create_revision if old else self.revision
        self.made[key] = KeyValue(key, content, created, self.revision, 1, 0)
        self.tell([Change(key, old, self.made[key])])

    def delete(self, key: str) -> None:
        self.revision += 1
        if (old := self.made.pop(key, None)) is not None:
            self.tell([Change(key, old, None)])


def instance(number: int, state: record_pb2.InstanceState.ValueType) -> record_pb2.InstanceRecord:
    return record_pb2.InstanceRecord(
        instance_id=f"i-{number}",
        account_id=f"{number % 2}",
        reservation_id=f"r-{number % 3}",
        launch_index=number,
        state=state,
    )


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60))
def test_records_stand_by_age_whatever_comes_and_goes(steps: list[tuple[int, bool]]) -> None:
    told = Told()
    store = Store(cast(Etcd, None), cast(Replica, told))
    for number, stays in steps:
        record = instance(number, record_pb2.INSTANCE_STATE_RUNNING)
        if stays:
            told.put(record)
        else:
            told.delete(key_of(record))
    for account in ("0", "1", "2"):
        expected = sorted(store.owned(KIND, account), key=place_of)
        assert list(store.in_order(KIND, account)) == expected
        for at, last in enumerate(expected, start=1):
            assert list(store.in_order(KIND, account, after=place_of(last))) == expected[at:]


def test_an_update_is_seen_where_its_record_stood() -> None:
    told = Told()
    store = Store(cast(Etcd, None), cast(Replica, told))
    for number in (4, 2, 0):
        told.put(instance(number, record_pb2.INSTANCE_STATE_PENDING))
    told.put(instance(2, record_pb2.INSTANCE_STATE_RUNNING))
    shown = [(found.record.instance_id, found.record.state) for found in store.in_order(KIND, "0")]
    pending, running = record_pb2.INSTANCE_STATE_PENDING, record_pb2.INSTANCE_STATE_RUNNING
    assert shown == [("i-4", pending), ("i-2", running), ("i-0", pending)]

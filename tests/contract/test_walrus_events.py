"""What every index engine of Walrus promises of events (services/walrus/drivers/events.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.errors import CloudError
from services.walrus.drivers.base import Bucket, Index
from services.walrus.drivers.events import Event
from services.walrus.drivers.versions import Deletion, Expectation, Removal
from tests.contract.test_walrus_index import CHECKSUM, Engine, an_object, an_upload, bucket, engine, index

__all__ = ["CHECKSUM", "bucket", "engine", "index"]


def told(name: str, target: str = "t") -> tuple[Event]:
    return (Event(target=target, body=name.encode()),)


async def bodies(index: Index, target: str = "t") -> list[str]:
    return [one.event.body.decode() for one in await index.events.next(target, 100)]


async def test_an_event_waits_from_the_step_it_tells_of(index: Index, bucket: Bucket) -> None:
    await index.put_object(bucket, an_object(b"k"), events=told("put"))
    with pytest.raises(CloudError):
        await index.put_object(bucket, an_object(b"k"), Expectation(absent=True), told("refused"))
    await index.change_object(bucket, b"k", None, lambda now: replace(now, tags={"a": "b"}), told("tags"))
    with pytest.raises(CloudError):
        await index.change_object(bucket, b"none", None, lambda now: now, told("refused"))
    upload = an_upload(bucket)
    await index.create_upload(upload)
    await index.complete_upload(bucket, upload, [], an_object(b"k"), Expectation(), told("complete"))
    deletions = [
        Deletion(what=Removal(key=b"k"), events=told("gone")),
        Deletion(what=Removal(key=b"never"), events=told("nothing")),
        Deletion(what=Removal(key=b"none"), expect=Expectation(if_match="x"), events=told("refused")),
    ]
    await index.delete(bucket, deletions, now_ms=1)
    assert await bodies(index) == ["put", "tags", "complete", "gone"]


async def test_each_target_has_a_queue_of_its_own(engine: Engine) -> None:
    async with engine() as index:
        made = await index.create_bucket("b", account_id="1", owner_id="o", created_ms=1)
        for number in range(5):
            both = (*told(f"a{number}", "a"), *told(f"b{number}", "b"))
            await index.put_object(made, an_object(b"k"), events=both)
        assert await index.events.lengths() == {"a": 5, "b": 5}
    async with engine() as index:
        first = await index.events.next("a", 2)
        assert [one.event.body for one in first] == [b"a0", b"a1"]
        assert first[0].id < first[1].id
        await index.events.forget("a", first[1].id)
        assert await bodies(index, "a") == ["a2", "a3", "a4"]
        assert await bodies(index, "b") == ["b0", "b1", "b2", "b3", "b4"]
        last = (await index.events.next("b", 9))[-1]
        await index.events.forget("b", last.id)
        assert await index.events.lengths() == {"a": 3}
        await index.put_object(made, an_object(b"k"), events=told("new", "b"))
        # Ids are never used again: they order what a receiver sees.
        assert (await index.events.next("b", 1))[0].id > last.id

"""Many change and read one key at the same time: what they see is what one after the other would have seen."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.errors import NotFound
from mallee.s3.v1 import listing_pb2, object_pb2
from services.walrus import delete, get, listing
from services.walrus.reclaim import Reclaimer
from services.walrus.store import Store
from tests.linearizable import Kind, Operation, is_linearizable
from tests.walrus_store import ALICE, begin_upload, complete, get_bytes, make_bucket, opened_store, put_bytes
from tests.walrus_store import upload_part as put_part

_CLIENTS = 6
_OPERATIONS = 25
_ROUNDS = 5


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path / "walrus") as store:
        await make_bucket(store)
        yield store


class Client:
    """Does this and that to one key, and writes down what it saw. Values are ETags."""

    def __init__(self, store: Store, key: str, name: str, chance: random.Random) -> None:
        self.history: list[Operation] = []
        self._store = store
        self._key = key
        self._name = name
        self._chance = chance

    async def work(self) -> None:
        for number in range(_OPERATIONS):
            began = asyncio.get_running_loop().time()
            kind, value = await self._one(f"{self._name} {number}".encode())
            ended = asyncio.get_running_loop().time()
            self.history.append(Operation(kind=kind, value=value, began=began, ended=ended))

    async def _one(self, text: bytes) -> tuple[Kind, str | None]:
        match self._chance.randrange(8):
            case 0 | 1:
                # Some stand in the index, some are blobs.
                answer = await put_bytes(self._store, self._key, text * self._chance.choice((1, 50)))
                return Kind.PUT, answer.e_tag
            case 2:
                upload_id = await begin_upload(self._store, self._key)
                parts = {1: await put_part(self._store, self._key, upload_id, 1, text)}
                return Kind.PUT, (await complete(self._store, self._key, upload_id, parts)).e_tag
            case 3:
                request = object_pb2.DeleteObjectRequest(bucket="bucket", key=self._key)
                await delete.delete_object(self._store, request, ALICE)
                return Kind.DELETE, None
            case 4:
                return Kind.READ, await self._listed()
            case 5:
                return Kind.READ, await self._headed()
        return Kind.READ, await self._got()

    async def _listed(self) -> str | None:
        request = listing_pb2.ListObjectsV2Request(bucket="bucket", prefix=self._key)
        found = (await listing.list_objects_v2(self._store, request, ALICE)).contents
        return found[0].e_tag if found else None

    async def _headed(self) -> str | None:
        request = object_pb2.HeadObjectRequest(bucket="bucket", key=self._key)
        try:
            return (await get.head_object(self._store, request, ALICE)).e_tag
        except NotFound:
            return None

    async def _got(self) -> str | None:
        request = object_pb2.GetObjectRequest(bucket="bucket", key=self._key)
        try:
            async with get.opened_object(self._store, request, ALICE) as (header, chunks):
                body = b"".join([chunk async for chunk in chunks])
        except NotFound:
            return None
        if "-" not in header.e_tag:
            assert header.e_tag == f'"{hashlib.md5(body).hexdigest()}"'
        return header.e_tag


async def test_any_history_of_one_key_has_an_order(store: Store) -> None:
    reclaimer = Reclaimer(store, pause_s=0)
    store.reclaim = reclaimer.nudge
    worker = asyncio.create_task(reclaimer.run())
    for number in range(_ROUNDS):
        key = f"k{number}"
        clients = [Client(store, key, f"{key} {n}", random.Random(f"{key} {n}")) for n in range(_CLIENTS)]
        async with asyncio.TaskGroup() as tasks:
            for client in clients:
                tasks.create_task(client.work())
        history = [operation for client in clients for operation in client.history]
        assert is_linearizable(history), sorted(history, key=lambda one: one.began)
        assert {one.kind for one in history} == set(Kind)
        await put_bytes(store, key, b"last")
        assert await get_bytes(store, key) == b"last"
    worker.cancel()
    await asyncio.wait([worker])

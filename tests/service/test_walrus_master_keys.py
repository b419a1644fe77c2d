"""The keys that seal objects' keys: rotated while the store serves, and what a lost one means."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.errors import WrongState
from common.keyring import Keyring, add_line
from mallee.s3.v1 import listing_pb2, object_pb2
from services.walrus import listing, put
from services.walrus.master_keys import MasterKeys
from services.walrus.store import Store
from tests.service.test_walrus_encryption import BY_STORE, LARGE, MINE, SMALL, embedded
from tests.service.walrus_fixtures import store
from tests.walrus_store import (
    ALICE,
    begin_upload,
    complete,
    get_bytes,
    put_bytes,
    refused,
    stream,
    upload_part,
    version_bucket,
)

__all__ = ["embedded", "store"]


async def test_master_keys_are_rotated_and_none_of_them_may_be_lost(embedded: Store) -> None:
    await put_bytes(embedded, "old", LARGE, **BY_STORE)
    new = os.urandom(32)
    embedded.keyring = Keyring([new, bytes(range(32))])
    await put_bytes(embedded, "new", LARGE, **BY_STORE)
    assert await get_bytes(embedded, "old") == await get_bytes(embedded, "new") == LARGE
    embedded.keyring = Keyring([new])
    assert await get_bytes(embedded, "new") == LARGE
    await refused("InternalError", get_bytes(embedded, "old"))
    embedded.keyring = Keyring(())
    await refused("InternalError", put_bytes(embedded, "none", LARGE, **BY_STORE))


async def resealed(store: Store, *keys: bytes) -> tuple[int, list[str]]:
    """How many keys were sealed anew with these master keys, and whose could not be."""
    keyring = MasterKeys(store=store, load=lambda: Keyring(keys))
    keyring.read()
    steps = [step async for step in keyring.reseal()]
    assert [step.complete for step in steps].index(True) == len(steps) - 1
    return steps[-1].resealed, [one for step in steps for one in step.unopened]


async def test_what_older_master_keys_sealed_is_sealed_by_the_newest_and_they_are_needed_no_more(store: Store) -> None:
    await version_bucket(store)
    for body in (SMALL, LARGE):
        await put_bytes(store, "k", body, **BY_STORE)
    await put_bytes(store, "plain", SMALL)
    await put_bytes(store, "theirs", SMALL, **MINE)
    upload_id = await begin_upload(store, "parts", **BY_STORE)
    parts = {1: await upload_part(store, "parts", upload_id, 1, LARGE)}
    old, new = bytes(range(32)), os.urandom(32)
    assert await resealed(store, new, old) == (3, [])
    assert await resealed(store, new, old) == (0, [])
    # The old one is gone.
    store.keyring = Keyring([new])
    assert await get_bytes(store, "k") == LARGE
    request = listing_pb2.ListObjectVersionsRequest(bucket="bucket", prefix="k")
    versions = (await listing.list_object_versions(store, request, ALICE)).versions
    assert [await get_bytes(store, "k", version_id=one.version_id) for one in versions] == [LARGE, SMALL]
    parts[2] = await upload_part(store, "parts", upload_id, 2, SMALL)
    await complete(store, "parts", upload_id, parts)
    assert await get_bytes(store, "parts") == LARGE + SMALL
    assert await get_bytes(store, "theirs", **MINE) == await get_bytes(store, "plain") == SMALL
    newest = os.urandom(32)
    assert await resealed(store, newest, new) == (3, [])


async def test_objects_that_no_master_key_opens_are_named_and_stay_as_they_are(store: Store) -> None:
    await put_bytes(store, "k", SMALL, **BY_STORE)
    upload_id = await begin_upload(store, "parts", **BY_STORE)
    stranger = os.urandom(32)
    assert await resealed(store, stranger) == (0, ["bucket/k", f"upload {upload_id} of bucket/parts"])
    error = await refused("InternalError", get_bytes(store, "k"))
    assert "there is no master key" in error.message
    assert await resealed(store, stranger, bytes(range(32))) == (2, [])
    assert await get_bytes(store, "k") == SMALL


@pytest.mark.parametrize("ends", ["meanwhile", "later"])
async def test_what_is_put_while_keys_are_sealed_anew_is_sealed_by_the_newest(store: Store, ends: str) -> None:
    for n in range(5):
        await put_bytes(store, f"before/{n}", SMALL, **BY_STORE)
    old, new = bytes(range(32)), os.urandom(32)
    held = asyncio.Event()

    async def slow_body() -> AsyncIterator[object_pb2.PutObjectStream]:
        header = object_pb2.PutObjectRequest(bucket="bucket", key="under-way", **BY_STORE)
        yield object_pb2.PutObjectStream(header=header)
        held.set()
        await let_go.wait()
        async for message in stream(object_pb2.PutObjectStream, header, SMALL):
            if message.WhichOneof("part") != "header":
                yield message

    let_go = asyncio.Event()
    putting = asyncio.create_task(put.put_object(store, slow_body(), ALICE))
    await held.wait()
    keyring = MasterKeys(store=store, load=lambda: Keyring([new, old]))
    keyring.read()
    steps = keyring.reseal()
    first = await anext(steps)
    assert first.resealed == 5
    if ends == "meanwhile":
        let_go.set()
        await putting
    assert [step async for step in steps][-1].resealed == 5
    let_go.set()
    await putting
    store.keyring = Keyring([new])
    assert await get_bytes(store, "under-way") == SMALL


async def test_keys_that_cannot_be_read_leave_those_before_in_use(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "object.keys"
    keyring = MasterKeys(store=store, load=lambda: Keyring.load(path))
    for content in (None, "", "no key"):
        if content is not None:
            path.write_text(content)
        with pytest.raises(WrongState):
            keyring.read()
    await put_bytes(store, "k", SMALL, **BY_STORE)
    path.write_text(bytes(range(32)).hex() + "\n")
    path.chmod(0o640)
    add_line(path)
    assert (len(path.read_text().split()), stat.S_IMODE(path.stat().st_mode)) == (2, 0o640)
    keyring.read()
    assert await get_bytes(store, "k") == SMALL

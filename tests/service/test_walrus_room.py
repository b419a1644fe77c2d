"""Bodies that cannot be stored are refused before they are taken in, or as soon as it shows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mallee.s3.v1 import copy_pb2, multipart_pb2, object_pb2
from services.walrus import copy, multipart, put
from services.walrus.drivers.fake import FakeIndex
from services.walrus.drivers.fake_blobs import FakeBlobs
from services.walrus.drivers.quotas import Quota
from services.walrus.store import Limits, Store
from tests.walrus_store import (
    ALICE,
    begin_upload,
    files_of,
    make_bucket,
    opened_store,
    put_bytes,
    refused,
    upload_part,
    version_bucket,
)

MIB = 1 << 20


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path / "walrus") as store:
        await make_bucket(store)
        await store.index.quotas.put_bucket("bucket", Quota(size=1000, objects=2))
        yield store


async def unread(kind: Any, header: Any) -> AsyncIterator[Any]:
    """A body that must not be asked for."""
    yield kind(header=header)
    raise AssertionError("the body was asked for")


async def put_unread(store: Store, key: str, length: int) -> None:
    header = object_pb2.PutObjectRequest(bucket="bucket", key=key, content_length=length)
    await put.put_object(store, unread(object_pb2.PutObjectStream, header), ALICE)


async def test_what_a_quota_forbids_is_refused_before_its_body(store: Store) -> None:
    await put_bytes(store, "k", b"x" * 900)
    await refused("QuotaExceeded", put_unread(store, "l", 101))
    await refused("QuotaExceeded", put_unread(store, "k", 1001))
    await put_bytes(store, "k", b"y" * 1000, content_length=1000)
    await put_bytes(store, "l", b"", content_length=0)
    await refused("QuotaExceeded", put_unread(store, "m", 0))


async def test_a_version_more_takes_no_other_ones_place(store: Store) -> None:
    await put_bytes(store, "k", b"x" * 900)
    await version_bucket(store)
    await refused("QuotaExceeded", put_unread(store, "k", 101))
    await put_bytes(store, "k", b"y" * 100, content_length=100)
    await version_bucket(store, "Suspended")
    # The null version goes.
    await put_bytes(store, "k", b"z" * 900, content_length=900)
    await refused("QuotaExceeded", put_unread(store, "k", 901))


async def test_a_part_beyond_the_quota_is_refused_before_its_body(store: Store) -> None:
    upload = await begin_upload(store, "k")
    await upload_part(store, "k", upload, 2, b"x" * 600)

    async def put_part_unread(number: int, length: int) -> None:
        header = multipart_pb2.UploadPartRequest(
            bucket="bucket", key="k", upload_id=upload, part_number=number, content_length=length
        )
        await multipart.upload_part(store, unread(multipart_pb2.UploadPartStream, header), ALICE)

    await refused("QuotaExceeded", put_part_unread(1, 401))
    await refused("QuotaExceeded", put_part_unread(3, 401))
    await refused("QuotaExceeded", put_part_unread(2, 1001))
    await upload_part(store, "k", upload, 2, b"y" * 1000, content_length=1000)


async def test_a_quota_refuses_what_only_its_end_tells_the_length_of(store: Store, tmp_path: Path) -> None:
    await refused("QuotaExceeded", put_bytes(store, "k", b"x" * 1001))
    assert files_of(tmp_path / "walrus") == []


class FillingBlobs(FakeBlobs):
    """On a disk of 40 MiB that the test fills."""

    written = 0

    async def free_bytes(self) -> int:
        return 40 * MIB - self.written


@pytest.mark.parametrize("fits", [True, False])
async def test_a_body_of_unknown_length_never_takes_the_reserve(fits: bool) -> None:
    blobs = FillingBlobs()
    store = Store(index=FakeIndex(), blobs=blobs, limits=Limits(inline_bytes=64, reserve_bytes=4 * MIB))
    await make_bucket(store)
    chunks = 18 if fits else 40

    async def messages() -> AsyncIterator[object_pb2.PutObjectStream]:
        yield object_pb2.PutObjectStream(header=object_pb2.PutObjectRequest(bucket="bucket", key="k"))
        for _ in range(chunks):
            yield object_pb2.PutObjectStream(chunk=bytes(MIB))
            blobs.written += MIB
        message = object_pb2.PutObjectStream()
        message.end.length = chunks * MIB
        yield message

    if fits:
        await put.put_object(store, messages(), ALICE)
    else:
        await refused("InsufficientCapacity", put.put_object(store, messages(), ALICE))
        assert await blobs.free_bytes() >= 4 * MIB
        assert blobs.sealed == {}
        # What it was promised is there for others again.
        blobs.written = 0
        await put_bytes(store, "k", bytes(30 * MIB), content_length=30 * MIB)
    await store.close()


async def test_a_quota_ends_a_body_of_unknown_length_in_its_midst() -> None:
    store = Store(index=FakeIndex(), blobs=FakeBlobs(), limits=Limits(inline_bytes=64, reserve_bytes=0))
    await make_bucket(store)
    await store.index.quotas.put_bucket("bucket", Quota(size=20 * MIB))
    given = 0

    async def messages() -> AsyncIterator[object_pb2.PutObjectStream]:
        nonlocal given
        yield object_pb2.PutObjectStream(header=object_pb2.PutObjectRequest(bucket="bucket", key="k"))
        while given < 200:
            given += 1
            yield object_pb2.PutObjectStream(chunk=bytes(MIB))

    await refused("QuotaExceeded", put.put_object(store, messages(), ALICE))
    assert 20 < given < 50
    await store.close()


async def test_a_copy_that_a_quota_forbids_is_refused_before_its_bytes_are_read(store: Store, tmp_path: Path) -> None:
    await put_bytes(store, "k", b"x" * 900)
    before = files_of(tmp_path / "walrus")
    for body in before:
        body.unlink()
    request = copy_pb2.CopyObjectRequest(
        bucket="bucket", key="l", copy_source="bucket/k", server_side_encryption="AES256"
    )
    await refused("QuotaExceeded", copy.copy_object(store, request, ALICE))

"""An object of as many parts as there may be: each of them is found, and none of them is read for another."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mallee.s3.v1 import multipart_pb2, object_attributes_pb2, object_pb2
from services.walrus import get, multipart, object_attributes
from services.walrus.drivers.base import BlobId, Checksum, Part
from services.walrus.object import PART_COUNT
from services.walrus.store import Store
from tests.walrus_store import (
    ALICE,
    begin_upload,
    complete,
    get_object,
    make_bucket,
    opened_store,
    refused,
    upload_part,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZE = 100
LAST = b"the last one"
# Those that are read; of the others the index knows, and that is what an answer costs.
REAL = (1, 2, PART_COUNT // 2, PART_COUNT // 2 + 1, PART_COUNT - 1, PART_COUNT)
# Of all that Python holds, while the upload is completed: a few hundred bytes a part.
MOST_BYTES = 64 << 20


def body_of(number: int) -> bytes:
    return LAST if number == PART_COUNT else number.to_bytes(4, "big") * (SIZE // 4)


async def put_all_parts(store: Store, upload_id: str) -> dict[int, str]:
    bucket = await store.index.find_bucket("bucket")
    assert bucket
    upload = await store.index.find_upload(bucket, b"k", upload_id)
    assert upload

    async def put(number: int) -> str:
        body = body_of(number)
        if number in REAL:
            return await upload_part(store, "k", upload_id, number, body)
        checksum = Checksum(algorithm="SHA256", value=base64.b64encode(hashlib.sha256(body).digest()).decode())
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        part = Part(number=number, size=len(body), etag=etag, modified_ms=1, checksum=checksum, blob=BlobId.new())
        await store.index.put_part(upload, part)
        return f'"{etag}"'

    numbers = range(1, PART_COUNT + 1)
    return dict(zip(numbers, await asyncio.gather(*map(put, numbers)), strict=True))


async def listed(store: Store, upload_id: str) -> list[list[int]]:
    """The numbers, page by page."""
    pages = []
    marker = 0
    while True:
        request = multipart_pb2.ListPartsRequest(
            bucket="bucket", key="k", upload_id=upload_id, part_number_marker=marker
        )
        page = await multipart.list_parts(store, request, ALICE)
        pages.append([part.part_number for part in page.parts])
        if not page.is_truncated:
            return pages
        marker = page.next_part_number_marker


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Store]:
    async with opened_store(Path(tmp_path_factory.mktemp("parts")) / "walrus") as store:
        await make_bucket(store)
        upload_id = await begin_upload(store, "k", checksum_algorithm="SHA256")
        parts = await put_all_parts(store, upload_id)
        pages = await listed(store, upload_id)
        assert [number for page in pages for number in page] == list(parts)
        assert {len(page) for page in pages} == {1000}
        await refused("InvalidArgument", upload_part(store, "k", upload_id, PART_COUNT + 1, b"x"))
        await refused("MalformedXML", complete(store, "k", upload_id, parts | {PART_COUNT + 1: '"e"'}))
        tracemalloc.start()
        try:
            done = await complete(store, "k", upload_id, parts)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert done.e_tag.endswith(f'-{PART_COUNT}"')
        assert done.checksum_sha256.endswith(f"-{PART_COUNT}")
        assert peak < MOST_BYTES
        assert (await complete(store, "k", upload_id, parts)).e_tag == done.e_tag
        yield store


@pytest.mark.parametrize("number", REAL)
async def test_any_part_is_read_by_its_number(store: Store, number: int) -> None:
    header, body = await get_object(store, "k", part_number=number)
    assert body == body_of(number)
    start, size = (number - 1) * SIZE, (PART_COUNT - 1) * SIZE + len(LAST)
    assert (header.parts_count, header.content_range) == (PART_COUNT, f"bytes {start}-{start + len(body) - 1}/{size}")
    head = object_pb2.HeadObjectRequest(bucket="bucket", key="k", part_number=number)
    assert (await get.head_object(store, head, ALICE)).content_length == len(body)


async def test_a_part_behind_the_last_is_none(store: Store) -> None:
    await refused("InvalidPartNumber", get_object(store, "k", part_number=PART_COUNT + 1))


@pytest.mark.parametrize("first", [1, PART_COUNT // 2, PART_COUNT - 1])
async def test_ranges_cross_parts_wherever_they_are(store: Store, first: int) -> None:
    start = (first - 1) * SIZE + SIZE // 2
    end = start + SIZE // 2 + 9
    _, body = await get_object(store, "k", range=f"bytes={start}-{end}")
    assert body == (body_of(first) + body_of(first + 1))[SIZE // 2 : SIZE + 10]


async def test_the_last_bytes_are_read_without_the_others(store: Store) -> None:
    _, body = await get_object(store, "k", range=f"bytes=-{len(LAST) + 1}")
    assert body == body_of(PART_COUNT - 1)[-1:] + LAST


async def test_attributes_tell_parts_page_by_page(store: Store) -> None:
    seen: list[int] = []
    marker, truncated = 0, True
    while truncated:
        request = object_attributes_pb2.GetObjectAttributesRequest(
            bucket="bucket", key="k", object_attributes=["ObjectParts"], part_number_marker=marker
        )
        parts = (await object_attributes.get_attributes(store, request, ALICE)).object_parts
        assert (parts.total_parts_count, parts.max_parts) == (PART_COUNT, 1000)
        assert parts.parts[0].checksum_sha256
        seen += [part.part_number for part in parts.parts]
        marker, truncated = parts.next_part_number_marker, parts.is_truncated
    assert seen == list(range(1, PART_COUNT + 1))

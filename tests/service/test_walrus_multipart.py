"""Multipart uploads on the embedded engines."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mallee.s3.v1 import bucket_pb2, multipart_pb2, object_pb2
from services.walrus import buckets, digests, get, listing, multipart, wire
from services.walrus.drivers.base import Checksum
from services.walrus.reclaim import Reclaimer
from services.walrus.store import Store
from tests.walrus_store import (
    ALICE,
    begin_upload,
    complete,
    files_of,
    get_bytes,
    get_object,
    make_bucket,
    opened_store,
    part_stream,
    put_bytes,
    refused,
    upload_part,
)

FIRST, SECOND, LAST = b"a" * 150, b"b" * 100, b"c" * 7
WHOLE = FIRST + SECOND + LAST


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path / "walrus") as store:
        await make_bucket(store)
        yield store


async def three_parts(store: Store, **members: str) -> tuple[str, dict[int, str]]:
    upload_id = await begin_upload(store, "k", metadata={"m": "1"}, content_type="x/y", **members)
    # Numbers may have gaps and come in any order.
    parts = {n: await upload_part(store, "k", upload_id, n, body) for n, body in ((9, LAST), (2, FIRST), (5, SECOND))}
    return upload_id, dict(sorted(parts.items()))


async def test_parts_become_the_object_without_being_copied(store: Store, tmp_path: Path) -> None:
    upload_id, parts = await three_parts(store)
    before = {path.name for path in files_of(tmp_path / "walrus")}
    answer = await complete(store, "k", upload_id, parts)
    md5s = b"".join(hashlib.md5(body).digest() for body in (FIRST, SECOND, LAST))
    assert answer.e_tag == f'"{hashlib.md5(md5s).hexdigest()}-3"'
    header, body = await get_object(store, "k", checksum_mode="ENABLED")
    assert body == WHOLE
    assert (header.content_type, dict(header.metadata)) == ("x/y", {"m": "1"})
    whole = digests.Digests({"CRC64NVME"})
    whole.update(WHOLE)
    assert header.checksum_crc64_nvme == whole.value("CRC64NVME") == answer.checksum_crc64_nvme
    assert header.checksum_type == "FULL_OBJECT"
    assert {path.name for path in files_of(tmp_path / "walrus")} == before


@pytest.mark.parametrize(("start", "end"), [(0, 1), (140, 260), (150, 250), (249, 257), (256, 257), (0, 257)])
async def test_ranges_cross_parts(store: Store, start: int, end: int) -> None:
    await complete(store, "k", *(await three_parts(store)))
    assert await get_bytes(store, "k", range=f"bytes={start}-{end - 1}") == WHOLE[start:end]


async def test_a_part_of_the_object_is_read_by_its_number(store: Store) -> None:
    await complete(store, "k", *(await three_parts(store)))
    header, body = await get_object(store, "k", part_number=2)
    assert body == SECOND
    assert (header.parts_count, header.content_range) == (3, "bytes 150-249/257")
    head = object_pb2.HeadObjectRequest(bucket="bucket", key="k", part_number=4)
    error = await refused("InvalidPartNumber", get.head_object(store, head, ALICE))
    assert error.details == {"PartNumberRequested": "4", "ActualPartCount": "3"}


async def test_a_part_of_the_object_is_told_with_its_own_checksum(store: Store) -> None:
    for members, algorithm, kind in (
        ({}, "CRC64NVME", "FULL_OBJECT"),
        ({"checksum_algorithm": "CRC32"}, "CRC32", "COMPOSITE"),
    ):
        await complete(store, "k", *(await three_parts(store, **members)))
        second = digests.Digests({algorithm})
        second.update(SECOND)
        header, _ = await get_object(store, "k", part_number=2, checksum_mode="ENABLED")
        assert wire.checksum_sent(header) == Checksum(algorithm=algorithm, value=second.value(algorithm))
        assert header.checksum_type == kind
        ask = object_pb2.HeadObjectRequest(bucket="bucket", key="k", part_number=2, checksum_mode="ENABLED")
        head = await get.head_object(store, ask, ALICE)
        assert (wire.checksum_sent(head), head.checksum_type) == (wire.checksum_sent(header), kind)
        assert wire.checksum_sent((await get_object(store, "k", part_number=2))[0]) is None


async def test_completing_again_answers_the_same(store: Store) -> None:
    upload_id, parts = await three_parts(store)
    first = await complete(store, "k", upload_id, parts)
    assert await complete(store, "k", upload_id, parts) == first
    await refused("NoSuchUpload", complete(store, "k", upload_id, {2: parts[2]}))
    await refused("NoSuchUpload", upload_part(store, "k", upload_id, 1, FIRST))


async def test_parts_that_are_not_chosen_are_let_go(store: Store) -> None:
    upload_id, parts = await three_parts(store)
    parts.pop(5)
    await complete(store, "k", upload_id, parts)
    assert await get_bytes(store, "k") == FIRST + LAST
    assert len(await store.index.garbage(10)) == 1


async def test_what_does_not_fit_is_refused_and_the_upload_goes_on(store: Store) -> None:
    upload_id, parts = await three_parts(store)
    await refused("InvalidPart", complete(store, "k", upload_id, parts | {10: parts[9]}))
    await refused("InvalidPart", complete(store, "k", upload_id, {2: parts[5]}))
    await refused("InvalidPartOrder", complete(store, "k", upload_id, {5: parts[5], 2: parts[2]}))
    await refused("MalformedXML", complete(store, "k", upload_id, {}))
    await refused("InvalidRequest", complete(store, "k", upload_id, parts, mpu_object_size=1))
    await refused("BadDigest", complete(store, "k", upload_id, parts, checksum_crc64_nvme="AAAAAAAAAAA="))
    await complete(store, "k", upload_id, parts)


async def test_only_the_last_part_may_be_small(store: Store) -> None:
    upload_id = await begin_upload(store, "k")
    parts = {n: await upload_part(store, "k", upload_id, n, body) for n, body in ((1, LAST), (2, FIRST))}
    error = await refused("EntityTooSmall", complete(store, "k", upload_id, parts))
    assert error.details["PartNumber"] == "1"


async def test_a_part_may_be_uploaded_again(store: Store) -> None:
    upload_id = await begin_upload(store, "k")
    await upload_part(store, "k", upload_id, 1, SECOND)
    etag = await upload_part(store, "k", upload_id, 1, FIRST)
    await complete(store, "k", upload_id, {1: etag})
    assert await get_bytes(store, "k") == FIRST


async def test_a_composite_checksum_is_of_the_parts_checksums(store: Store) -> None:
    upload_id, parts = await three_parts(store, checksum_algorithm="SHA256")
    answer = await complete(store, "k", upload_id, parts)
    joined = b"".join(hashlib.sha256(body).digest() for body in (FIRST, SECOND, LAST))
    assert answer.checksum_sha256 == base64.b64encode(hashlib.sha256(joined).digest()).decode() + "-3"
    assert answer.checksum_type == "COMPOSITE"


async def test_checksums_of_multipart_uploads_are_as_s3_documents(store: Store) -> None:
    refusal = begin_upload(store, "k", checksum_algorithm="SHA1", checksum_type="FULL_OBJECT")
    await refused("InvalidRequest", refusal)
    await refused("InvalidRequest", begin_upload(store, "k", checksum_algorithm="CRC64NVME", checksum_type="COMPOSITE"))
    await refused("InvalidRequest", begin_upload(store, "k", checksum_type="FULL_OBJECT"))
    upload_id = await begin_upload(store, "k", checksum_algorithm="CRC32", checksum_type="FULL_OBJECT")
    digest = digests.Digests({"SHA1"})
    digest.update(FIRST)
    wrong_kind = part_stream("k", upload_id, 1, FIRST, checksum_sha1=digest.value("SHA1"))
    await refused("InvalidRequest", multipart.upload_part(store, wrong_kind, ALICE))
    # boto3 sends CRC32 with each part, also to an upload that named no algorithm.
    upload_id = await begin_upload(store, "k")
    crc = digests.Digests({"CRC32"})
    crc.update(FIRST)
    etag = await upload_part(store, "k", upload_id, 1, FIRST, checksum_crc32=crc.value("CRC32"))
    request = multipart_pb2.CompleteMultipartUploadRequest(bucket="bucket", key="k", upload_id=upload_id)
    request.multipart_upload.parts.add(part_number=1, e_tag=etag, checksum_crc32=crc.value("CRC32"))
    assert (await multipart.complete_upload(store, request, ALICE)).checksum_crc64_nvme


async def test_an_aborted_upload_leaves_nothing(store: Store, tmp_path: Path) -> None:
    upload_id, _ = await three_parts(store)
    request = multipart_pb2.AbortMultipartUploadRequest(bucket="bucket", key="k", upload_id=upload_id)
    await multipart.abort_upload(store, request, ALICE)
    await refused("NoSuchUpload", multipart.abort_upload(store, request, ALICE))
    assert await Reclaimer(store).collect() == 3
    assert files_of(tmp_path / "walrus") == []
    assert await store.index.garbage(10) == []


async def test_uploads_go_with_their_bucket_and_never_into_the_next_of_that_name(store: Store) -> None:
    upload_id, parts = await three_parts(store)
    await buckets.delete_bucket(store, bucket_pb2.DeleteBucketRequest(bucket="bucket"), ALICE)
    assert len(await store.index.garbage(10)) == 3
    await make_bucket(store)
    await refused("NoSuchUpload", complete(store, "k", upload_id, parts))


async def test_parts_are_listed_in_pages(store: Store) -> None:
    upload_id, parts = await three_parts(store)
    request = multipart_pb2.ListPartsRequest(bucket="bucket", key="k", upload_id=upload_id, max_parts=2)
    page = await multipart.list_parts(store, request, ALICE)
    assert [(part.part_number, part.size) for part in page.parts] == [(2, 150), (5, 100)]
    assert (page.is_truncated, page.next_part_number_marker) == (True, 5)
    request.part_number_marker = 5
    page = await multipart.list_parts(store, request, ALICE)
    assert [part.e_tag for part in page.parts] == [parts[9]]
    assert not page.is_truncated


async def test_uploads_are_listed_by_key_and_then_by_age(store: Store) -> None:
    clock = iter(range(10_000, 20_000))
    store.now_ms = lambda: next(clock)
    ids = [(key, await begin_upload(store, key)) for key in ("b", "a/2", "b", "a/1", "b")]
    seen: list[tuple[str, str]] = []
    request = multipart_pb2.ListMultipartUploadsRequest(bucket="bucket", max_uploads=2)
    while True:
        page = await listing.list_multipart_uploads(store, request, ALICE)
        seen += [(one.key, one.upload_id) for one in page.uploads]
        if not page.is_truncated:
            break
        request.key_marker, request.upload_id_marker = page.next_key_marker, page.next_upload_id_marker
    assert seen == sorted(ids)
    assert (page.next_key_marker, page.next_upload_id_marker) == seen[-1]
    request.upload_id_marker = "never"
    await refused("InvalidArgument", listing.list_multipart_uploads(store, request, ALICE))
    by_folder = multipart_pb2.ListMultipartUploadsRequest(bucket="bucket", delimiter="/")
    page = await listing.list_multipart_uploads(store, by_folder, ALICE)
    assert [one.prefix for one in page.common_prefixes] == ["a/"]
    assert len(page.uploads) == 3


async def test_a_large_object_is_read_to_its_end_although_it_is_replaced_and_reclaimed(store: Store) -> None:
    await complete(store, "k", *(await three_parts(store)))
    request = object_pb2.GetObjectRequest(bucket="bucket", key="k")
    reclaimer = Reclaimer(store)
    async with get.opened_object(store, request, ALICE) as (_, chunks):
        await put_bytes(store, "k", b"new")
        assert await reclaimer.collect() == 0
        assert b"".join([chunk async for chunk in chunks]) == WHOLE
    assert await reclaimer.collect() == 3


async def test_a_completion_in_which_another_write_came_between_begins_anew(store: Store) -> None:
    now = store.now_ms()
    store.now_ms = lambda: now
    first = await put_bytes(store, "k", b"first")
    upload_id = await begin_upload(store, "k")
    parts = {1: await upload_part(store, "k", upload_id, 1, LAST)}
    store.now_ms = lambda: now + 1
    await put_bytes(store, "k", b"first")
    await refused("ConditionalRequestConflict", complete(store, "k", upload_id, parts, if_match=first.e_tag))
    await refused("PreconditionFailed", complete(store, "k", upload_id, parts, if_none_match="*"))
    upload_id = await begin_upload(store, "k")
    parts = {1: await upload_part(store, "k", upload_id, 1, LAST)}
    await complete(store, "k", upload_id, parts, if_match=first.e_tag)

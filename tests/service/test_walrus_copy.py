"""Copies of objects and of parts, what is told of an object without its bytes, and archives."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mallee.s3.v1 import copy_pb2, object_attributes_pb2, object_pb2, restore_pb2
from services.walrus import copy, delete, object_attributes, restore_object
from services.walrus.drivers.base import Object, Single
from services.walrus.reclaim import Reclaimer
from services.walrus.store import Store
from tests.walrus_store import (
    ALICE,
    BOB,
    begin_upload,
    complete,
    files_of,
    get_bytes,
    get_object,
    make_bucket,
    opened_store,
    put_bytes,
    refused,
    upload_part,
    version_bucket,
)

LARGE = os.urandom(3000)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path / "walrus") as store:
        await make_bucket(store)
        yield store


async def copied(store: Store, source: str, key: str, **members: Any) -> copy_pb2.CopyObjectOutput:
    members = {"bucket": "bucket", **members}
    return await copy.copy_object(store, copy_pb2.CopyObjectRequest(key=key, copy_source=source, **members), ALICE)


async def found(store: Store, key: str) -> Object:
    bucket = await store.index.find_bucket("bucket")
    assert bucket is not None
    one = await store.index.find_object(bucket, key.encode())
    assert isinstance(one, Object)
    return one


@pytest.mark.parametrize("body", [b"", b"small", LARGE])
async def test_a_copy_is_an_object_of_its_own(store: Store, body: bytes) -> None:
    put = await put_bytes(
        store, "a b", body, content_type="x/y", metadata={"m": "1"}, tagging="t=1", storage_class="STANDARD_IA"
    )
    answer = await copied(store, "/bucket/a%20b", "copy")
    assert answer.copy_object_result.e_tag == put.e_tag
    assert answer.copy_object_result.checksum_crc64_nvme == put.checksum_crc64_nvme
    await delete.delete_object(store, object_pb2.DeleteObjectRequest(bucket="bucket", key="a b"), ALICE)
    await Reclaimer(store).collect()
    header, again = await get_object(store, "copy")
    assert again == body
    assert (header.content_type, dict(header.metadata), header.tag_count) == ("x/y", {"m": "1"}, 1)
    assert not header.storage_class


async def test_a_source_is_encoded_as_a_query_is(store: Store) -> None:
    for key in ("a b", "a+b", "a%20b"):
        await put_bytes(store, key, key.encode())
    for source, key in (("a+b", "a b"), ("a%20b", "a b"), ("a%2Bb", "a+b"), ("a%2520b", "a%20b")):
        await copied(store, f"bucket/{source}", "copy")
        assert (await get_object(store, "copy"))[1] == key.encode(), source


async def test_a_large_copy_shares_its_bytes_until_one_of_them_goes(store: Store, tmp_path: Path) -> None:
    await put_bytes(store, "k", LARGE)
    await copied(store, "bucket/k", "copy")
    files = files_of(tmp_path / "walrus")
    assert len(files) == 2
    assert {file.stat().st_nlink for file in files} == {2}
    one, other = await found(store, "k"), await found(store, "copy")
    assert isinstance(one.content, Single)
    assert one.content != other.content
    assert await store.blobs.delete([one.content.blob]) == 0
    assert await get_bytes(store, "copy") == LARGE


async def test_what_was_uploaded_in_parts_is_copied_as_one(store: Store) -> None:
    upload = await begin_upload(store, "k", checksum_algorithm="SHA256")
    pieces = [LARGE, b"end"]
    etags = {n: await upload_part(store, "k", upload, n, piece) for n, piece in enumerate(pieces, 1)}
    await complete(store, "k", upload, etags)
    answer = await copied(store, "bucket/k", "copy")
    whole = await put_bytes(store, "whole", LARGE + b"end", checksum_algorithm="SHA256")
    assert answer.copy_object_result.e_tag == whole.e_tag
    assert answer.copy_object_result.checksum_sha256 == whole.checksum_sha256
    assert await get_bytes(store, "copy") == LARGE + b"end"
    for name in ("MD5", "SHA512"):
        await refused("InvalidRequest", copied(store, "bucket/k", "never", checksum_algorithm=name))
        await refused("InvalidRequest", put_bytes(store, "never", LARGE, checksum_algorithm=name))
        await refused("InvalidRequest", begin_upload(store, "never", checksum_algorithm=name))
    await refused("NoSuchKey", get_bytes(store, "never"))
    answer = await copied(store, "bucket/k", "copy", checksum_algorithm="CRC32")
    assert answer.copy_object_result.checksum_crc32


async def test_metadata_and_tags_are_copied_or_replaced(store: Store) -> None:
    await put_bytes(store, "k", b"x", content_type="x/y", metadata={"m": "1"}, tagging="t=1")
    await refused("InvalidRequest", copied(store, "bucket/k", "k"))
    # Said anew even if it is what the object has.
    for _ in range(2):
        await copied(store, "bucket/k", "k", storage_class="GLACIER_IR")
    header, _ = await get_object(store, "k")
    assert (header.storage_class, dict(header.metadata)) == ("GLACIER_IR", {"m": "1"})
    replaced = {"metadata_directive": "REPLACE", "tagging_directive": "REPLACE"}
    await copied(store, "bucket/k", "k", content_type="z/z", metadata={"n": "2"}, tagging="a=1&b=2", **replaced)
    header, _ = await get_object(store, "k")
    assert (header.content_type, dict(header.metadata), header.tag_count) == ("z/z", {"n": "2"}, 2)
    await refused("InvalidArgument", copied(store, "bucket/k", "x", metadata_directive="MOVE"))
    await refused("InvalidArgument", copied(store, "bucket/k", "x", tagging_directive="MOVE"))


async def test_conditions_are_about_both_objects(store: Store) -> None:
    etag = (await put_bytes(store, "k", b"x")).e_tag
    modified = (await get_object(store, "k"))[0].last_modified
    await copied(store, "bucket/k", "copy", copy_source_if_match=etag, if_none_match="*")
    for failing in (
        {"copy_source_if_match": '"other"'},
        {"copy_source_if_none_match": etag},
        {"copy_source_if_modified_since": modified},
        {"copy_source_if_unmodified_since": {"seconds": 1}},
        {"if_none_match": "*"},
        {"if_match": '"other"'},
    ):
        await refused("PreconditionFailed", copied(store, "bucket/k", "copy", **failing))
    await copied(store, "bucket/k", "copy", if_match=etag)


async def test_a_source_is_named_to_the_version(store: Store) -> None:
    await version_bucket(store)
    first = (await put_bytes(store, "k", b"first")).version_id
    await put_bytes(store, "k", b"second")
    answer = await copied(store, f"bucket/k?versionId={first}", "k")
    assert answer.copy_source_version_id == first
    assert answer.version_id not in ("", first)
    assert await get_bytes(store, "k") == b"first"
    gone = await delete.delete_object(store, object_pb2.DeleteObjectRequest(bucket="bucket", key="k"), ALICE)
    await refused("NoSuchKey", copied(store, "bucket/k", "copy"))
    await refused("InvalidRequest", copied(store, f"bucket/k?versionId={gone.version_id}", "copy"))
    for wrong in ("", "bucket", "/bucket/", "bucket/"):
        await refused("InvalidArgument", copied(store, wrong, "copy"))
    await refused("NoSuchBucket", copied(store, "never-made/k", "copy"))


async def test_a_source_is_only_for_who_may_read_it(store: Store) -> None:
    await make_bucket(store, "bobs", BOB)
    await put_bytes(store, "k", b"x", caller=BOB, bucket="bobs")
    await refused("AccessDenied", copied(store, "bobs/k", "copy"))
    await put_bytes(store, "k", b"x")
    await refused("AccessDenied", copied(store, "bucket/k", "copy", bucket="bobs"))
    await refused("AccessDenied", copied(store, "bucket/k", "copy", expected_source_bucket_owner=BOB.account_id))


async def test_parts_are_copied_whole_and_in_part(store: Store) -> None:
    put = await put_bytes(store, "k", LARGE)
    upload = await begin_upload(store, "new")

    async def part(number: int, span: str = "", **members: Any) -> str:
        request = copy_pb2.UploadPartCopyRequest(
            bucket="bucket", key="new", upload_id=upload, part_number=number, copy_source="bucket/k", **members
        )
        if span:
            request.copy_source_range = span
        return (await copy.copy_part(store, request, ALICE)).copy_part_result.e_tag

    etags = {1: await part(1), 2: await part(2, "bytes=100-299"), 3: await part(3, "bytes=2999-2999")}
    assert etags[1] == put.e_tag
    for span in ("bytes=0-3000", "bytes=5-2", "bytes=1-", "0-5"):
        await refused("InvalidArgument", part(4, span))
    await refused("InvalidRequest", part(4, "bytes=3000-3000"))
    await refused("InvalidArgument", part(10_001))
    await refused("PreconditionFailed", part(4, copy_source_if_match='"other"'))
    await complete(store, "new", upload, etags)
    assert await get_bytes(store, "new") == LARGE + LARGE[100:300] + LARGE[2999:]
    await refused("NoSuchUpload", part(1))


async def test_attributes_are_told_without_the_bytes(store: Store) -> None:
    upload = await begin_upload(store, "k", checksum_algorithm="SHA256")
    pieces = [LARGE, LARGE, b"end"]
    etags = {n: await upload_part(store, "k", upload, n, piece) for n, piece in enumerate(pieces, 1)}
    done = await complete(store, "k", upload, etags)

    async def ask(*names: str, **members: Any) -> object_attributes_pb2.GetObjectAttributesOutput:
        members = {"key": "k", **members}
        request = object_attributes_pb2.GetObjectAttributesRequest(bucket="bucket", object_attributes=names, **members)
        return await object_attributes.get_attributes(store, request, ALICE)

    told = await ask("ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize", max_parts=2)
    assert (told.e_tag, told.object_size, told.storage_class) == (done.e_tag.strip('"'), 6003, "STANDARD")
    whole = done.checksum_sha256.removesuffix("-3")
    assert (told.checksum.checksum_sha256, told.checksum.checksum_type) == (whole, "COMPOSITE")
    parts = told.object_parts
    assert (parts.total_parts_count, parts.is_truncated, parts.next_part_number_marker) == (3, True, 2)
    assert [(part.part_number, part.size) for part in parts.parts] == [(1, 3000), (2, 3000)]
    assert parts.parts[0].checksum_sha256
    told = await ask("ObjectParts", part_number_marker=2)
    assert [part.part_number for part in told.object_parts.parts] == [3]
    assert not told.HasField("e_tag")
    full = await begin_upload(store, "full", checksum_algorithm="CRC32", checksum_type="FULL_OBJECT")
    await complete(store, "full", full, {1: await upload_part(store, "full", full, 1, LARGE)})
    told = await ask("ObjectParts", key="full")
    assert [(field.name, value) for field, value in told.object_parts.ListFields()] == [("total_parts_count", 1)]
    await refused("InvalidBucketOwnerAWSAccountID", ask("ETag", expected_bucket_owner="me"))
    await refused("AccessDenied", ask("ETag", expected_bucket_owner="9" * 12))
    await refused("InvalidArgument", ask("Nonsense"))
    await refused("InvalidRequest", ask())
    await refused("NoSuchKey", ask("ETag", key="never"))


async def test_only_archives_are_restored_and_they_need_not_be(store: Store) -> None:
    await put_bytes(store, "warm", b"x")
    await put_bytes(store, "cold", b"x", storage_class="GLACIER")

    async def restore(key: str, days: int = 1, tier: str = "Bulk") -> None:
        request = restore_pb2.RestoreObjectRequest(bucket="bucket", key=key)
        request.restore_request.days = days
        request.restore_request.glacier_job_parameters.tier = tier
        await restore_object.restore_object(store, request, ALICE)

    await restore("cold")
    error = await refused("InvalidObjectState", restore("warm"))
    assert error.details["StorageClass"] == "STANDARD"
    await refused("NoSuchKey", restore("never"))
    await refused("MalformedXML", restore("cold", days=0))
    await refused("MalformedXML", restore("cold", tier="Slow"))

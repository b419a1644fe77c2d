"""Objects that are encrypted: by the store's keys, by the bucket's default, by keys that clients bring."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.rpc.uploads import RawExtent
from mallee.s3.v1 import (
    bucket_policy_pb2,
    copy_pb2,
    encryption_pb2,
    multipart_pb2,
    object_attributes_pb2,
    object_pb2,
)
from mallee.walrus.v1 import service_pb2
from services.walrus import bucket_encryption, copy, get, multipart, object_attributes, policies, transfer
from services.walrus.cipher import PIECE_BYTES
from services.walrus.drivers.base import Object, Single
from services.walrus.store import Store
from tests.service.walrus_fixtures import store
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

__all__ = ["store"]

SECRET = b"a secret that nobody else may read. "
SMALL = SECRET
LARGE = SECRET * 20_000
BODIES = (b"", SMALL, SECRET * 50, LARGE)

KEY, OTHER = os.urandom(32), os.urandom(32)


def brought(key: bytes, prefix: str = "") -> dict[str, Any]:
    return {
        f"{prefix}sse_customer_algorithm": "AES256",
        f"{prefix}sse_customer_key": base64.b64encode(key).decode(),
        f"{prefix}sse_customer_key_md5": base64.b64encode(hashlib.md5(key).digest()).decode(),
    }


MINE, THEIRS = brought(KEY), brought(OTHER)
BY_STORE: dict[str, Any] = {"server_side_encryption": "AES256"}


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path / "walrus") as store:
        await make_bucket(store)
        yield store


async def found(store: Store, key: str) -> Object:
    bucket = await store.index.find_bucket("bucket")
    assert bucket is not None
    one = await store.index.find_object(bucket, key.encode())
    assert isinstance(one, Object)
    return one


async def encrypt_bucket(store: Store, algorithm: str = "AES256", **members: Any) -> None:
    request = encryption_pb2.PutBucketEncryptionRequest(bucket="bucket")
    rule = request.server_side_encryption_configuration.rules.add()
    rule.apply_server_side_encryption_by_default.sse_algorithm = algorithm
    for name, value in members.items():
        setattr(rule.apply_server_side_encryption_by_default, name, value)
    await bucket_encryption.put_encryption(store, request, ALICE)


async def head(store: Store, key: str, **members: Any) -> object_pb2.HeadObjectOutput:
    return await get.head_object(store, object_pb2.HeadObjectRequest(bucket="bucket", key=key, **members), ALICE)


async def copied(store: Store, key: str, source: str, **members: Any) -> copy_pb2.CopyObjectOutput:
    request = copy_pb2.CopyObjectRequest(bucket="bucket", key=key, copy_source=f"bucket/{source}", **members)
    return await copy.copy_object(store, request, ALICE)


async def part_copied(
    store: Store, key: str, upload_id: str, number: int, source: str, **members: Any
) -> copy_pb2.UploadPartCopyOutput:
    request = copy_pb2.UploadPartCopyRequest(
        bucket="bucket", key=key, upload_id=upload_id, part_number=number, copy_source=f"bucket/{source}", **members
    )
    return await copy.copy_part(store, request, ALICE)


def all_bytes(root: Path) -> bytes:
    """Of blobs and index, what SQLite has not merged yet included."""
    return b"".join(path.read_bytes() for path in [*files_of(root), *root.glob("index.sqlite*")])


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("asked", [BY_STORE, MINE])
async def test_what_was_encrypted_comes_back(store: Store, body: bytes, asked: dict[str, Any]) -> None:
    read = MINE if asked is MINE else {}
    answer = await put_bytes(store, "k", body, **asked)
    header, got = await get_object(store, "k", checksum_mode="ENABLED", **read)
    assert got == body
    assert header.content_length == len(body)
    assert header.checksum_crc64_nvme == answer.checksum_crc64_nvme != ""
    is_md5 = answer.e_tag.strip('"') == hashlib.md5(body).hexdigest()
    assert is_md5 == (asked is BY_STORE)
    for told in (answer, header, await head(store, "k", **read)):
        assert told.e_tag == answer.e_tag
        assert told.server_side_encryption == asked.get("server_side_encryption", "")
        assert told.sse_customer_algorithm == asked.get("sse_customer_algorithm", "")
        assert told.sse_customer_key_md5 == asked.get("sse_customer_key_md5", "")


@pytest.mark.parametrize(
    "span", [(0, 0), (5, 99), (PIECE_BYTES - 1, PIECE_BYTES), (70_000, 400_000), (719_999, 719_999)]
)
async def test_ranges_are_of_the_plaintext(store: Store, span: tuple[int, int]) -> None:
    await put_bytes(store, "k", LARGE, **BY_STORE)
    header, got = await get_object(store, "k", range=f"bytes={span[0]}-{span[1]}")
    assert got == LARGE[span[0] : span[1] + 1]
    assert header.content_range == f"bytes {span[0]}-{span[1]}/{len(LARGE)}"


@pytest.mark.parametrize("body", BODIES[1:])
async def test_the_disk_never_sees_the_plaintext_or_a_clients_key(embedded: Store, tmp_path: Path, body: bytes) -> None:
    await put_bytes(embedded, "own", body, **BY_STORE)
    await put_bytes(embedded, "brought", body, **MINE)
    assert SECRET not in all_bytes(tmp_path / "walrus")
    assert KEY not in all_bytes(tmp_path / "walrus")
    await put_bytes(embedded, "plain", body)
    assert SECRET in all_bytes(tmp_path / "walrus")


async def test_parts_have_no_plaintext_on_disk_and_ranges_go_across_them(embedded: Store, tmp_path: Path) -> None:
    none: dict[str, Any] = {}
    for asked, read in ((BY_STORE, none), (MINE, MINE)):
        upload_id = await begin_upload(embedded, "k", **asked)
        bodies = [LARGE[:100_000], LARGE[100_000:165_537], LARGE[165_537:]]
        parts = {n: await upload_part(embedded, "k", upload_id, n, b, **read) for n, b in enumerate(bodies, 1)}
        done = await complete(embedded, "k", upload_id, parts, **read)
        assert done.server_side_encryption == asked.get("server_side_encryption", "")
        assert await complete(embedded, "k", upload_id, parts, **read) == done
        assert await get_bytes(embedded, "k", **read) == LARGE
        assert await get_bytes(embedded, "k", range="bytes=99990-165540", **read) == LARGE[99_990:165_541]
        assert await get_bytes(embedded, "k", part_number=2, **read) == bodies[1]
        assert SECRET not in all_bytes(tmp_path / "walrus")


async def test_an_upload_that_brings_keys_wants_the_same_key_for_each_part(store: Store) -> None:
    upload_id = await begin_upload(store, "k", **MINE)
    await refused("InvalidRequest", upload_part(store, "k", upload_id, 1, LARGE))
    await refused("InvalidRequest", upload_part(store, "k", upload_id, 1, LARGE, **THEIRS))
    part = {1: await upload_part(store, "k", upload_id, 1, LARGE, **MINE)}
    assert hashlib.md5(LARGE).hexdigest() not in part[1]
    await refused("InvalidRequest", complete(store, "k", upload_id, part, **THEIRS))
    ask = multipart_pb2.ListPartsRequest(bucket="bucket", key="k", upload_id=upload_id, **THEIRS)
    await refused("InvalidRequest", multipart.list_parts(store, ask, ALICE))
    ask.MergeFrom(multipart_pb2.ListPartsRequest(**MINE))
    assert [one.e_tag for one in (await multipart.list_parts(store, ask, ALICE)).parts] == [part[1]]
    await complete(store, "k", upload_id, part)
    for asked in ({}, BY_STORE):
        upload_id = await begin_upload(store, "k", **asked)
        await refused("InvalidRequest", upload_part(store, "k", upload_id, 1, LARGE, **MINE))
    answer = await multipart.upload_part(store, part_stream("k", upload_id, 1, LARGE), ALICE)
    assert answer.server_side_encryption == "AES256"


async def test_without_its_key_an_object_is_told_of_to_nobody(store: Store) -> None:
    await put_bytes(store, "k", LARGE, **MINE)
    ask = object_attributes_pb2.GetObjectAttributesRequest(bucket="bucket", key="k", object_attributes=["ETag"])
    for call in (
        get_bytes(store, "k"),
        head(store, "k"),
        object_attributes.get_attributes(store, ask, ALICE),
        copied(store, "copy", "k"),
        anext(
            transfer.fetch_object(
                store, service_pb2.FetchObjectRequest(account_id=ALICE.account_id, bucket="bucket", key=b"k")
            )
        ),
    ):
        error = await refused("InvalidRequest", call)
        assert "was stored using a form of Server Side Encryption" in error.message
    await refused("AccessDenied", get_bytes(store, "k", **THEIRS))
    await refused("AccessDenied", copied(store, "copy", "k", **brought(OTHER, "copy_source_")))
    await put_bytes(store, "plain", LARGE)
    await refused("InvalidRequest", get_bytes(store, "plain", **MINE))
    await refused("InvalidRequest", copied(store, "copy", "plain", **brought(KEY, "copy_source_")))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"sse_customer_algorithm": ""}, "InvalidArgument"),
        ({"sse_customer_key": ""}, "InvalidArgument"),
        ({"sse_customer_key_md5": ""}, "InvalidArgument"),
        ({"sse_customer_key_md5": brought(OTHER)["sse_customer_key_md5"]}, "InvalidArgument"),
        ({"sse_customer_algorithm": "AES128"}, "InvalidEncryptionAlgorithmError"),
        ({"sse_customer_key": "no base64!"}, "InvalidArgument"),
        (brought(b"short"), "InvalidArgument"),
        (BY_STORE, "InvalidArgument"),
    ],
)
async def test_a_key_is_brought_whole_or_not_at_all(store: Store, change: dict[str, Any], code: str) -> None:
    error = await refused(code, put_bytes(store, "k", SMALL, **{**MINE, **change}))
    assert base64.b64encode(KEY).decode() not in error.message + str(error.details)
    await refused("NoSuchKey", get_bytes(store, "k"))


async def test_there_is_no_kms(store: Store) -> None:
    await refused("NotImplemented", put_bytes(store, "k", SMALL, server_side_encryption="aws:kms"))
    await refused("InvalidArgument", put_bytes(store, "k", SMALL, server_side_encryption="rot13"))
    # A key of a KMS goes with no other method.
    for asked in ({}, BY_STORE, MINE):
        await refused("InvalidArgument", put_bytes(store, "k", SMALL, ssekms_key_id="key", **asked))
    await refused("NotImplemented", encrypt_bucket(store, "aws:kms"))
    await refused("MalformedXML", encrypt_bucket(store, "rot13"))
    await refused("InvalidArgument", encrypt_bucket(store, kms_master_key_id="key"))


async def test_a_buckets_default_is_for_what_is_stored_later(store: Store) -> None:
    ask = encryption_pb2.GetBucketEncryptionRequest(bucket="bucket")
    none = "ServerSideEncryptionConfigurationNotFoundError"
    await refused(none, bucket_encryption.get_encryption(store, ask, ALICE))
    await put_bytes(store, "before", SMALL)
    await encrypt_bucket(store)
    told = (await bucket_encryption.get_encryption(store, ask, ALICE)).server_side_encryption_configuration
    assert told.rules[0].apply_server_side_encryption_by_default.sse_algorithm == "AES256"
    assert (await put_bytes(store, "after", SMALL)).server_side_encryption == "AES256"
    assert (await copied(store, "copy", "before")).server_side_encryption == "AES256"
    assert (await put_bytes(store, "brought", SMALL, **MINE)).server_side_encryption == ""
    upload_id = await begin_upload(store, "parts")
    part = await upload_part(store, "parts", upload_id, 1, LARGE)
    await bucket_encryption.delete_encryption(
        store, encryption_pb2.DeleteBucketEncryptionRequest(bucket="bucket"), ALICE
    )
    assert (await complete(store, "parts", upload_id, {1: part})).server_side_encryption == "AES256"
    await refused(none, bucket_encryption.get_encryption(store, ask, ALICE))
    assert [(await head(store, key)).server_side_encryption for key in ("before", "after", "copy", "parts")] == [
        "",
        "AES256",
        "AES256",
        "AES256",
    ]
    assert (await put_bytes(store, "later", SMALL)).server_side_encryption == ""
    assert await get_bytes(store, "parts") == LARGE


@pytest.mark.parametrize("body", [SMALL, LARGE])
@pytest.mark.parametrize("source", [{}, BY_STORE, MINE])
@pytest.mark.parametrize("target", [{}, BY_STORE, THEIRS])
async def test_copies_have_the_encryption_that_they_ask_for(
    store: Store, body: bytes, source: dict[str, Any], target: dict[str, Any]
) -> None:
    await put_bytes(store, "source", body, **source)
    opens = brought(KEY, "copy_source_") if source is MINE else {}
    answer = await copied(store, "copy", "source", **opens, **target)
    reads = THEIRS if target is THEIRS else {}
    assert await get_bytes(store, "copy", **reads) == body
    record = (await found(store, "copy")).encryption
    assert bool(record) == bool(target)
    assert record == b"" or record != (await found(store, "source")).encryption
    assert answer.server_side_encryption == target.get("server_side_encryption", "")
    assert answer.sse_customer_key_md5 == target.get("sse_customer_key_md5", "")
    upload_id = await begin_upload(store, "parts", **target)
    parts = {}
    for number in (1, 2):
        part = await part_copied(store, "parts", upload_id, number, "source", **opens, **reads)
        assert part.server_side_encryption == answer.server_side_encryption
        assert part.sse_customer_key_md5 == answer.sse_customer_key_md5
        parts[number] = part.copy_part_result.e_tag
    if body is LARGE:
        await complete(store, "parts", upload_id, parts)
        assert await get_bytes(store, "parts", **reads) == body * 2


async def test_an_object_is_encrypted_by_a_copy_onto_itself(store: Store) -> None:
    await put_bytes(store, "k", LARGE)
    await refused("InvalidRequest", copied(store, "k", "k"))
    await copied(store, "k", "k", **BY_STORE)
    assert (await head(store, "k")).server_side_encryption == "AES256"
    assert await get_bytes(store, "k") == LARGE


@pytest.mark.parametrize("body", [SMALL, LARGE])
async def test_ciphertext_that_somebody_made_up_is_an_error_and_never_bytes(store: Store, body: bytes) -> None:
    await put_bytes(store, "one", body, **BY_STORE)
    await put_bytes(store, "other", body, **BY_STORE)
    one, other = await found(store, "one"), await found(store, "other")
    bucket = await store.index.find_bucket("bucket")
    assert bucket is not None
    forged = replace(one, key=b"forged", encryption=other.encryption)
    if not isinstance(one.content, Single):
        await store.index.put_object(bucket, forged)
        await refused("InternalError", get_bytes(store, "forged"))
        return
    async with store.blobs.stage() as staged:
        async for chunk in store.blobs.read(one.content.blob, start=0, end=len(body)):
            await staged.write(chunk)
        await staged.write(bytes(1 << 20))
        await staged.seal()
        await store.index.put_object(bucket, replace(forged, content=Single(blob=staged.blob)))
        staged.keep()
    await refused("InternalError", get_bytes(store, "forged"))


async def test_descriptors_are_of_plaintext_alone(embedded: Store) -> None:
    for key, asked in (("plain", {}), ("encrypted", BY_STORE)):
        await put_bytes(embedded, key, LARGE, **asked)
        request = object_pb2.GetObjectRequest(bucket="bucket", key=key)
        async with get.handed_over(embedded, request, ALICE) as (_, chunks):
            kinds = {isinstance(chunk, RawExtent) async for chunk in chunks}
        assert kinds == {key == "plain"}


async def test_policies_see_what_encryption_a_request_asks_for(store: Store) -> None:
    text = """{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject",
        "Resource": "arn:aws:s3:::bucket/*", "Condition": {"StringNotEquals": {"s3:x-amz-server-side-encryption":
        "AES256"}}}]}"""
    await policies.put_bucket_policy(
        store, bucket_policy_pb2.PutBucketPolicyRequest(bucket="bucket", policy=text), ALICE
    )
    await put_bytes(store, "k", SMALL, **BY_STORE)
    for asked in ({}, MINE):
        await refused("AccessDenied", put_bytes(store, "k", SMALL, **asked))
        await refused("AccessDenied", begin_upload(store, "k", **asked))
        await refused("AccessDenied", copied(store, "copy", "k", **asked))
    # Requests about parts say nothing of it: the upload did.
    upload_id = await begin_upload(store, "k", **BY_STORE)
    await complete(store, "k", upload_id, {1: await upload_part(store, "k", upload_id, 1, LARGE)})
    assert await get_bytes(store, "k") == LARGE


@pytest.mark.parametrize("offset", [0, 1, PIECE_BYTES, len(LARGE) - 1])
async def test_storage_controllers_are_given_the_plaintext(store: Store, offset: int) -> None:
    await put_bytes(store, "k", LARGE, **BY_STORE)
    ask = service_pb2.FetchObjectRequest(account_id=ALICE.account_id, bucket="bucket", key=b"k", offset=offset)
    told, *chunks = [answer async for answer in transfer.fetch_object(store, ask)]
    assert told.size_bytes == len(LARGE)
    assert b"".join(answer.chunk for answer in chunks) == LARGE[offset:]


def test_a_clients_key_is_not_shown_in_messages() -> None:
    for kind in (object_pb2.PutObjectRequest, object_pb2.GetObjectRequest, multipart_pb2.UploadPartRequest):
        (field,) = (one for one in kind.DESCRIPTOR.fields if one.name == "sse_customer_key")
        assert field.GetOptions().debug_redact

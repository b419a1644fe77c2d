"""An embedded store in a folder of its own, and the words to use it directly, for Walrus' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from common.errors import CloudError
from common.keyring import Keyring
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import bucket_pb2, multipart_pb2, object_lock_pb2, object_pb2, versioning_pb2
from services.walrus import buckets, get, multipart, object_lock, put, settings, wire
from services.walrus.drivers.embedded import pieces
from services.walrus.drivers.embedded.blobs import FileBlobs
from services.walrus.drivers.embedded.index import SqliteIndex
from services.walrus.store import Limits, Store

ALICE = Caller(account_id="111111111111", arn="arn:aws:iam::111111111111:root", canonical_user_id="a" * 64)
BOB = Caller(account_id="222222222222", arn="arn:aws:iam::222222222222:root", canonical_user_id="b" * 64)

# Of every store that is opened here, also again.
KEYRING = Keyring([bytes(range(32))])

LIMITS = Limits(inline_bytes=64, reserve_bytes=0, part_bytes=100, idle_s=5)


@asynccontextmanager
async def opened_store(root: Path, limits: Limits = LIMITS, keyring: Keyring = KEYRING) -> AsyncIterator[Store]:
    blobs = FileBlobs(root)
    await blobs.open()
    index = SqliteIndex(root / "index.sqlite")
    await index.open()
    store = Store(index=index, blobs=blobs, limits=limits, keyring=keyring)
    try:
        yield store
    finally:
        await store.close()
        await index.close()
        await blobs.close()


async def stream(
    kind: Any, header: Any, body: bytes, *, trailers: dict[str, str] | None = None, ended: bool = True
) -> AsyncIterator[Any]:
    """An upload's messages: several chunks, however small the body is."""
    yield kind(header=header)
    chunk = min(max(50, len(body) // 8), 1 << 20)
    for start in range(0, len(body), chunk):
        yield kind(chunk=body[start : start + chunk])
    if ended:
        message = kind()
        message.end.length = len(body)
        message.end.trailers.update(trailers or {})
        yield message


async def make_bucket(store: Store, name: str = "bucket", caller: Caller = ALICE) -> None:
    await buckets.create_bucket(store, bucket_pb2.CreateBucketRequest(bucket=name), caller)


async def version_bucket(store: Store, status: str = "Enabled", name: str = "bucket") -> None:
    request = versioning_pb2.PutBucketVersioningRequest(bucket=name)
    request.versioning_configuration.status = status
    await settings.put_bucket_versioning(store, request, ALICE)


async def lock_bucket(store: Store, **default: Any) -> None:
    """Versions of it may be locked from now on. `default`: mode, days, years."""
    await version_bucket(store)
    request = object_lock_pb2.PutObjectLockConfigurationRequest(bucket="bucket")
    request.object_lock_configuration.object_lock_enabled = "Enabled"
    if default:
        request.object_lock_configuration.rule.default_retention.CopyFrom(object_lock_pb2.DefaultRetention(**default))
    await object_lock.put_configuration(store, request, ALICE)


async def put_bytes(
    store: Store, key: str, body: bytes, *, caller: Caller = ALICE, bucket: str = "bucket", **members: Any
) -> object_pb2.PutObjectOutput:
    header = object_pb2.PutObjectRequest(bucket=bucket, key=key, **members)
    return await put.put_object(store, stream(object_pb2.PutObjectStream, header, body), caller)


def part_stream(
    key: str, upload_id: str, number: int, body: bytes, **members: Any
) -> AsyncIterator[multipart_pb2.UploadPartStream]:
    header = multipart_pb2.UploadPartRequest(
        bucket="bucket", key=key, upload_id=upload_id, part_number=number, **members
    )
    return stream(multipart_pb2.UploadPartStream, header, body)


async def get_bytes(store: Store, key: str, *, caller: Caller = ALICE, **members: Any) -> bytes:
    _, body = await get_object(store, key, caller=caller, **members)
    return body


async def get_object(
    store: Store, key: str, *, caller: Caller = ALICE, bucket: str = "bucket", **members: Any
) -> tuple[object_pb2.GetObjectOutput, bytes]:
    request = object_pb2.GetObjectRequest(bucket=bucket, key=key, **members)
    async with get.opened_object(store, request, caller) as (header, chunks):
        return header, b"".join([chunk async for chunk in chunks])


async def upload_part(store: Store, key: str, upload_id: str, number: int, body: bytes, **members: Any) -> str:
    """The part's ETag."""
    answer = await multipart.upload_part(store, part_stream(key, upload_id, number, body, **members), ALICE)
    return answer.e_tag


async def begin_upload(store: Store, key: str, **members: Any) -> str:
    request = multipart_pb2.CreateMultipartUploadRequest(bucket="bucket", key=key, **members)
    return (await multipart.create_upload(store, request, ALICE)).upload_id


async def complete(
    store: Store, key: str, upload_id: str, parts: dict[int, str], **members: Any
) -> multipart_pb2.CompleteMultipartUploadOutput:
    request = multipart_pb2.CompleteMultipartUploadRequest(bucket="bucket", key=key, upload_id=upload_id, **members)
    checksums = {part.number: part.checksum for part in await store.index.list_parts(upload_id, limit=10_000)}
    for number, etag in parts.items():
        one = request.multipart_upload.parts.add(part_number=number, e_tag=etag)
        wire.set_checksum(one, checksums.get(number), with_kind=False)
    return await multipart.complete_upload(store, request, ALICE)


async def refused(code: str, call: Awaitable[object]) -> CloudError:
    with pytest.raises(CloudError) as caught:
        await call
    assert caught.value.code == code, caught.value
    return caught.value


def content_bytes(path: Path) -> int:
    """How much of a blob's file is not its checksums."""
    whole = path.read_bytes()
    return len(whole) - pieces.footer_bytes(whole)


def files_of(root: Path) -> list[Path]:
    """Every blob and every file in the making."""
    return [path for folder in ("blobs", "staging") for path in (root / folder).rglob("*") if path.is_file()]

"""Walrus over real gRPC: streams in and out, clients that go away, who may call."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import grpc
import pytest

from common.errors import CloudError, Denied
from common.rpc.channel import cloud_errors
from mallee.s3.v1 import bucket_pb2, object_pb2
from mallee.walrus.v1 import service_pb2
from tests.eventually import eventually
from tests.service.walrus_fixtures import certificates, stage
from tests.service.walrus_stage import WalrusStage, said_by
from tests.walrus_store import ALICE, BOB, files_of, put_bytes, stream

__all__ = ["certificates", "stage"]

BODY = bytes(range(256)) * 20_000
MIB = 1 << 20


async def test_a_body_streams_in_and_out(stage: WalrusStage) -> None:
    s3 = await stage.s3()
    header = object_pb2.PutObjectRequest(bucket="bucket", key="k", content_length=len(BODY))
    messages = stream(object_pb2.PutObjectStream, header, BODY)
    answer = await s3.PutObject(messages, metadata=said_by(ALICE))
    assert answer.e_tag == f'"{hashlib.md5(BODY).hexdigest()}"'
    request = object_pb2.GetObjectRequest(bucket="bucket", key="k")
    parts = [part async for part in s3.GetObject(request, metadata=said_by(ALICE))]
    assert parts[0].header.content_length == len(BODY)
    assert all(len(part.chunk) <= MIB for part in parts)
    assert b"".join(part.chunk for part in parts) == BODY


async def test_errors_arrive_with_their_code_and_details(stage: WalrusStage) -> None:
    s3 = await stage.s3()
    request = object_pb2.GetObjectRequest(bucket="bucket", key="nothing")
    with pytest.raises(CloudError) as caught, cloud_errors():
        async for _ in s3.GetObject(request, metadata=said_by(ALICE)):
            pass
    assert (caught.value.code, caught.value.details["Key"]) == ("NoSuchKey", "nothing")
    with pytest.raises(Denied):
        await s3.HeadBucket(bucket_pb2.HeadBucketRequest(bucket="bucket"), metadata=said_by(BOB))
    with pytest.raises(Denied):
        await s3.HeadBucket(bucket_pb2.HeadBucketRequest(bucket="bucket"))


async def test_an_upload_whose_client_goes_away_leaves_nothing(stage: WalrusStage) -> None:
    s3 = await stage.s3()
    go_on = asyncio.Event()

    async def messages() -> AsyncIterator[object_pb2.PutObjectStream]:
        header = object_pb2.PutObjectRequest(bucket="bucket", key="k")
        yield object_pb2.PutObjectStream(header=header)
        yield object_pb2.PutObjectStream(chunk=BODY[:MIB])
        await go_on.wait()

    call = s3.PutObject(messages(), metadata=said_by(ALICE))
    await eventually(lambda: len(files_of(stage.root)) == 1)
    call.cancel()
    await eventually(lambda: files_of(stage.root) == [])
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_reader_that_goes_away_lets_go_of_the_blob(stage: WalrusStage) -> None:
    s3 = await stage.s3()
    await put_bytes(stage.store, "k", BODY)
    call = s3.GetObject(object_pb2.GetObjectRequest(bucket="bucket", key="k"), metadata=said_by(ALICE))
    first = await call.read()
    assert isinstance(first, object_pb2.GetObjectStream)
    assert first.WhichOneof("part") == "header"
    assert stage.store.readers.held
    call.cancel()
    await eventually(lambda: not stage.store.readers.held)


async def test_other_roles_are_kept_out(stage: WalrusStage) -> None:
    with pytest.raises(Denied):
        await (await stage.s3("nc-a-1")).ListBuckets(bucket_pb2.ListBucketsRequest())
    with pytest.raises(Denied):
        await (await stage.walrus("facade-1")).DescribeStore(service_pb2.DescribeStoreRequest())


async def test_an_account_is_cleared_out(stage: WalrusStage) -> None:
    walrus = await stage.walrus()
    for n in range(5):
        await put_bytes(stage.store, f"k{n}", BODY[:100])
    figures = await walrus.DescribeStore(service_pb2.DescribeStoreRequest())
    assert (figures.buckets, figures.objects, figures.bytes) == (1, 5, 500)
    for _ in range(2):
        await walrus.DeleteAccountData(service_pb2.DeleteAccountDataRequest(account_id=ALICE.account_id))
    figures = await walrus.DescribeStore(service_pb2.DescribeStoreRequest(account_id=ALICE.account_id))
    assert (figures.buckets, figures.objects, figures.bytes) == (0, 0, 0)


async def test_a_stream_that_breaks_off_is_told_so(stage: WalrusStage) -> None:
    s3 = await stage.s3()
    messages = stream(
        object_pb2.PutObjectStream, object_pb2.PutObjectRequest(bucket="bucket", key="k"), BODY[:MIB], ended=False
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await s3.PutObject(messages, metadata=said_by(ALICE))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert files_of(stage.root) == []

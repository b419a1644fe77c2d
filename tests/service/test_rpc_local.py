"""Walrus over the unix socket of its host, called as the facade calls it: what gRPC's tests ask of it, and bounds."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message

from common.errors import CloudError, Denied, InvalidArgument, NotFound, Unavailable
from common.rpc import context
from common.rpc.local.calls import LENGTH
from common.rpc.local.channel import LocalCall, LocalChannel
from common.rpc.local.frames import Frames, Kind
from common.rpc.local.server import LocalServer, Unary
from common.rpc.uploads import RawChunk, RawExtent, header_accepted
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import body_pb2, bucket_pb2, object_pb2
from services.walrus.local import local_handlers
from services.walrus.store import Store
from tests.eventually import eventually
from tests.walrus_store import ALICE, BOB, files_of, get_bytes, make_bucket, opened_store, put_bytes

MIB = 1 << 20
BODY = bytes(range(256)) * 20_000
S3 = "/mallee.s3.v1.S3Service"


@dataclass(kw_only=True)
class Stage:
    root: Path
    path: Path
    store: Store
    server: LocalServer
    channel: LocalChannel

    def call(self, method: str, receives: type[Message]) -> LocalCall:
        frames = self.channel.connection()
        assert frames is not None
        return LocalCall(self.channel, frames, f"{S3}/{method}", receives)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(opened_store(tmp_path / "walrus"))
        await make_bucket(store)
        path = tmp_path / "run" / "rpc"
        server = LocalServer(path, local_handlers(store))
        await server.start()
        stack.push_async_callback(server.stop, 2.0)
        channel = LocalChannel(path)
        stack.callback(channel.close)
        yield Stage(root=tmp_path / "walrus", path=path, store=store, server=server, channel=channel)


@contextmanager
def opened(stage: Stage, method: str, receives: type[Message], message: Message, **how: bool) -> Iterator[LocalCall]:
    call = stage.call(method, receives)
    with context.bind(caller=ALICE):
        call.begin(message.SerializeToString(), **how)
    try:
        yield call
    finally:
        call.cancel()


def uploading(stage: Stage, *, asks: bool = False) -> LocalCall:
    call = stage.call("PutObject", object_pb2.PutObjectOutput)
    with context.bind(caller=ALICE):
        call.begin(upload=True, asks=asks)
    return call


def header(**members: object) -> object_pb2.PutObjectStream:
    request = object_pb2.PutObjectRequest(bucket="bucket", key="k", **members)  # type: ignore[arg-type]
    return object_pb2.PutObjectStream(header=request)


def end(length: int) -> object_pb2.PutObjectStream:
    return object_pb2.PutObjectStream(end=body_pb2.BodyEnd(length=length))


async def send(call: LocalCall, body: bytes) -> object_pb2.PutObjectOutput:
    await call.write(header(content_length=len(body)))
    for at in range(0, len(body), MIB):
        await call.write(RawChunk(body[at : at + MIB]))
    await call.write(end(len(body)))
    await call.done_writing()
    answer = await call
    assert isinstance(answer, object_pb2.PutObjectOutput)
    return answer


async def receive(call: LocalCall) -> tuple[object_pb2.GetObjectOutput, bytes]:
    first = await call.read()
    parts = []
    while (part := await call.read()) is not grpc.aio.EOF:
        if isinstance(part, RawExtent):
            parts.append(os.pread(part.descriptor, part.end - part.start, part.start))
            os.close(part.descriptor)
            call.taken()
        else:
            parts.append(part.chunk)
    return first.header, b"".join(parts)


@pytest.mark.parametrize("size", [0, 1, 4096, len(BODY), 9 * MIB + 1])
async def test_a_body_goes_in_and_out_and_its_connection_is_used_again(stage: Stage, size: int) -> None:
    body = (BODY * (size // len(BODY) + 1))[:size]
    for _ in range(2):
        call = uploading(stage)
        assert (await send(call, body)).e_tag == f'"{hashlib.md5(body).hexdigest()}"'
        call.cancel()
        request = object_pb2.GetObjectRequest(bucket="bucket", key="k")
        with opened(stage, "GetObject", object_pb2.GetObjectOutput, request) as call:
            told, got = await receive(call)
        assert (told.content_length, got) == (size, body)
    first = stage.channel.connection()
    assert first is not None
    assert not first.closed
    first.close()


async def test_many_calls_at_once_get_each_its_own_answer(stage: Stage) -> None:
    async def one(number: int) -> None:
        await put_bytes(stage.store, f"k{number}", b"%d" % number * 100)
        request = object_pb2.GetObjectRequest(bucket="bucket", key=f"k{number}")
        with opened(stage, "GetObject", object_pb2.GetObjectOutput, request) as call:
            assert (await receive(call))[1] == b"%d" % number * 100

    await asyncio.gather(*(one(number) for number in range(50)))


async def test_errors_arrive_with_their_kind_code_and_details(stage: Stage) -> None:
    request = object_pb2.GetObjectRequest(bucket="bucket", key="nothing")
    with (
        opened(stage, "GetObject", object_pb2.GetObjectOutput, request) as call,
        pytest.raises(NotFound) as caught,
    ):
        await call.read()
    assert (caught.value.code, caught.value.details["Key"]) == ("NoSuchKey", "nothing")


@pytest.mark.parametrize("caller", [BOB, None], ids=["another", "nobody"])
async def test_the_caller_comes_along(stage: Stage, caller: Caller | None) -> None:
    call = stage.call("HeadBucket", bucket_pb2.HeadBucketOutput)
    with context.bind(caller=caller):
        call.begin(bucket_pb2.HeadBucketRequest(bucket="bucket").SerializeToString())
    with pytest.raises(Denied):
        await call
    call.cancel()


async def test_who_asks_is_told_that_the_header_is_accepted_before_the_body(stage: Stage) -> None:
    call = uploading(stage, asks=True)
    await call.write(header(content_length=3))
    assert await header_accepted(call)
    await call.write(RawChunk(b"abc"))
    await call.write(end(3))
    await call.done_writing()
    await call
    call.cancel()
    assert await get_bytes(stage.store, "k") == b"abc"


@pytest.mark.parametrize("size", [2 * MIB, 9 * MIB + 5])
async def test_a_large_body_is_written_into_the_blob_that_it_becomes(stage: Stage, size: int) -> None:
    body = (BODY * 2)[:size]
    call = uploading(stage, asks=True)
    await call.write(header(content_length=size))
    assert await header_accepted(call)
    assert call.has_file
    for at in range(0, size, 3 * MIB):
        half = min(at + 3 * MIB, size) // 2
        await call.write_file([body[at:half], body[half : at + 3 * MIB]] if half > at else [body[at : at + 3 * MIB]])
    await call.write(end(size))
    await call.done_writing()
    answer = await call
    call.cancel()
    assert isinstance(answer, object_pb2.PutObjectOutput)
    assert answer.e_tag == f'"{hashlib.md5(body).hexdigest()}"'
    assert await get_bytes(stage.store, "k") == body


async def test_what_was_told_while_the_store_was_busy_is_taken_together(stage: Stage) -> None:
    body = (BODY * 5)[: 20 * MIB]
    call = uploading(stage, asks=True)
    await call.write(header(content_length=len(body)))
    assert await header_accepted(call)
    os.pwrite(call._file, body, 0)
    # One turn of the loop: the frames arrive together.
    for _ in range(0, len(body), MIB):
        call._put(Kind.WRITTEN, LENGTH.pack(MIB))
    await call.write(end(len(body)))
    await call.done_writing()
    answer = await call
    call.cancel()
    assert isinstance(answer, object_pb2.PutObjectOutput)
    assert answer.e_tag == f'"{hashlib.md5(body).hexdigest()}"'


async def test_what_was_written_and_not_told_of_is_no_part_of_the_object(stage: Stage) -> None:
    body = BODY[: 2 * MIB]
    call = uploading(stage, asks=True)
    await call.write(header(content_length=len(body)))
    assert await header_accepted(call)
    await call.write_file([body])
    os.pwrite(call._file, b"more", len(body))
    await call.write(end(len(body)))
    await call.done_writing()
    await call
    call.cancel()
    assert await get_bytes(stage.store, "k") == body


async def test_more_is_told_of_than_was_written(stage: Stage) -> None:
    call = uploading(stage, asks=True)
    await call.write(header(content_length=2 * MIB))
    assert await header_accepted(call)
    await call.write_file([BODY[:MIB]])
    os.ftruncate(call._file, 1000)
    with pytest.raises(CloudError):
        await call
    call.cancel()
    await eventually(lambda: files_of(stage.root) == [])


async def test_a_refusal_that_crosses_with_the_body_arrives_and_nothing_stays(stage: Stage) -> None:
    call = uploading(stage)
    await call.write(object_pb2.PutObjectStream(header=object_pb2.PutObjectRequest(bucket="none", key="k")))

    async def go_on() -> None:
        while True:
            await call.write(RawChunk(BODY[:MIB]))

    with pytest.raises(asyncio.InvalidStateError):
        await go_on()
    with pytest.raises(NotFound) as caught:
        await call
    call.cancel()
    assert caught.value.code == "NoSuchBucket"
    assert files_of(stage.root) == []


async def test_an_upload_whose_client_goes_away_leaves_nothing(stage: Stage) -> None:
    call = uploading(stage)
    await call.write(header())
    await call.write(RawChunk(BODY[:MIB]))
    await eventually(lambda: len(files_of(stage.root)) == 1)
    call.cancel()
    await eventually(lambda: files_of(stage.root) == [])


async def test_a_reader_that_does_not_read_stops_the_store_and_lets_go_of_the_blob(stage: Stage) -> None:
    await put_bytes(stage.store, "k", BODY * 8)
    request = object_pb2.GetObjectRequest(bucket="bucket", key="k")
    with opened(stage, "GetObject", object_pb2.GetObjectOutput, request) as call:
        await call.read()
        assert stage.store.readers.held
    await eventually(lambda: not stage.store.readers.held)


async def test_large_blobs_go_by_descriptor_and_no_more_than_two_extents_ahead(stage: Stage) -> None:
    await put_bytes(stage.store, "k", BODY * 4)
    request = object_pb2.GetObjectRequest(bucket="bucket", key="k", range="bytes=1000000-20479998")
    with opened(stage, "GetObject", object_pb2.GetObjectOutput, request) as call:
        await call.read()
        first, second = await call.read(), await call.read()
        assert isinstance(first, RawExtent)
        assert (first.start, second.end - first.start) == (1_000_000, 8 * MIB)
        third = asyncio.ensure_future(call.read())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not third.done()
        call.taken()
        assert (await third).start == second.end
        for extent in (first, second, third.result()):
            os.close(extent.descriptor)


async def test_damage_is_an_error_and_no_descriptor(stage: Stage) -> None:
    await put_bytes(stage.store, "k", BODY)
    (file,) = files_of(stage.root)
    with file.open("r+b") as blob:
        blob.seek(2 * MIB)
        blob.write(b"damage")
    request = object_pb2.GetObjectRequest(bucket="bucket", key="k")
    with (
        opened(stage, "GetObject", object_pb2.GetObjectOutput, request) as call,
        pytest.raises(CloudError) as caught,
    ):
        await receive(call)
    assert caught.value.code == "InternalError"


async def test_a_stop_answers_what_has_begun_and_then_nobody_serves(stage: Stage) -> None:
    call = uploading(stage, asks=True)
    await call.write(header(content_length=3))
    assert await header_accepted(call)
    stopping = asyncio.ensure_future(stage.server.stop(5.0))
    await eventually(lambda: not stage.path.exists())
    await call.write(RawChunk(b"abc"))
    await call.write(end(3))
    await call.done_writing()
    await call
    call.cancel()
    await stopping
    assert stage.channel.connection() is None


async def test_a_server_that_ends_in_the_middle_is_unavailable(stage: Stage) -> None:
    call = uploading(stage, asks=True)
    await call.write(header())
    assert await header_accepted(call)
    await stage.server.stop(0)
    with pytest.raises(Unavailable):
        await call
    call.cancel()


async def test_a_method_that_is_not_served_is_refused(stage: Stage) -> None:
    call = stage.call("Nothing", bucket_pb2.HeadBucketOutput)
    call.begin()
    with pytest.raises(InvalidArgument):
        await call
    call.cancel()


@pytest.mark.parametrize(
    "noise", [b"\x00\x00\x00\x02\x01xx", b"\xff\xff\xff\xff\x01", b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x00\x04"]
)
async def test_noise_ends_its_connection_and_no_other(stage: Stage, noise: bytes) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(stage.path))
    frames = Frames(sock)
    sock.send(noise)
    try:
        kind, _ = await frames.take()
        assert kind == Kind.ERROR
    except ConnectionResetError:
        pass
    frames.close()
    await put_bytes(stage.store, "k", b"x")
    with opened(
        stage, "HeadObject", object_pb2.HeadObjectOutput, object_pb2.HeadObjectRequest(bucket="bucket", key="k")
    ) as call:
        answer = await call
    assert isinstance(answer, object_pb2.HeadObjectOutput)
    assert answer.content_length == 1


async def test_a_bug_is_told_as_an_opaque_error(stage: Stage, tmp_path: Path) -> None:
    async def fail(request: object) -> Message:
        raise KeyError("secret")

    path = tmp_path / "other" / "rpc"
    server = LocalServer(path, {f"{S3}/HeadBucket": Unary(request=bucket_pb2.HeadBucketRequest, answer=fail)})
    await server.start()
    channel = LocalChannel(path)
    frames = channel.connection()
    assert frames is not None
    call = LocalCall(channel, frames, f"{S3}/HeadBucket", bucket_pb2.HeadBucketOutput)
    call.begin()
    with pytest.raises(CloudError) as caught:
        await call
    call.cancel()
    channel.close()
    await server.stop(1.0)
    assert caught.value.code == "InternalError"
    assert "secret" not in caught.value.message


@pytest.mark.timeout(20)
async def test_a_call_or_a_read_that_takes_too_long_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "silent"

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(silent, path):
        channel = LocalChannel(path)
        for number in range(2):
            frames = channel.connection()
            assert frames is not None
            call = LocalCall(channel, frames, "/silent/Service", object_pb2.HeadObjectOutput)
            call.begin(timeout_s=0.01 if number else None)
            with pytest.raises(Unavailable, match="longer than its deadline"):
                await (call if number else call.read(within_s=0.01))
            call.cancel()
        channel.close()

"""Clients that are slow, greedy or broken: each costs bounded memory and time, and leaves the others alone."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ec2_facade.limits import MIB
from mallee.s3.v1 import bucket_pb2
from tests.eventually import eventually
from tests.service.facade.conftest import Opener, Stage, in_thread
from tests.service.facade.signing_client import Wire
from tests.unit.facade.signing import sign_headers

_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@asynccontextmanager
async def connected(stage: Stage) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def send_until_cut(writer: asyncio.StreamWriter, piece: bytes, most: int) -> int:
    """How much the server let us send."""
    sent = 0
    try:
        while sent < most:
            writer.write(piece)
            await asyncio.wait_for(writer.drain(), 5)
            sent += len(piece)
    except (ConnectionError, TimeoutError):
        pass
    return sent


async def rest_of(reader: asyncio.StreamReader, *, within_s: float = 10) -> bytes:
    """All until the server hangs up."""
    try:
        return await asyncio.wait_for(reader.read(), within_s)
    except ConnectionError:
        return b""


async def still_serves(stage: Stage) -> None:
    stage.backstage.walrus.answers["ListBuckets"] = lambda request: bucket_pb2.ListBucketsOutput()
    await in_thread(stage.client("s3").list_buckets)


@pytest.mark.parametrize(
    "piece", [b"x-a: " + b"b" * 1000 + b"\r\n", b"y" * 65536, b"a: b\r\n" * 1000], ids=["headers", "line", "many"]
)
async def test_an_endless_head_is_cut_off(stage: Stage, piece: bytes) -> None:
    async with connected(stage) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
        sent = await send_until_cut(writer, piece, 64 * MIB)
        await rest_of(reader)
    # What fits into the kernel's buffers may be on the way still.
    assert sent < 16 * MIB
    await still_serves(stage)


async def test_an_endless_request_line_is_cut_off(stage: Stage) -> None:
    async with connected(stage) as (reader, writer):
        assert await send_until_cut(writer, b"G" * 65536, 64 * MIB) < 16 * MIB
        await rest_of(reader)


async def test_a_head_that_comes_a_byte_at_a_time_is_cut_off(open_stage: Opener) -> None:
    stage = await open_stage(head_s=0.5)
    async with connected(stage) as (reader, writer):
        closed = asyncio.ensure_future(rest_of(reader))
        began = time.monotonic()
        writer.write(b"GET / HTTP/1.1\r\nHost: ")
        while not closed.done() and time.monotonic() - began < 10:
            writer.write(b"x")
            await asyncio.wait([closed], timeout=0.05)
        assert closed.done()
        assert await closed == b""


async def test_a_connection_that_says_nothing_is_closed(open_stage: Opener) -> None:
    stage = await open_stage(head_s=0.3)
    async with connected(stage) as (reader, _):
        assert await rest_of(reader) == b""


async def test_an_endless_form_is_refused(stage: Stage) -> None:
    request = sign_headers("POST", stage.url + "/", service="ec2", body=b"x", headers=_FORM)
    async with connected(stage) as (reader, writer):
        head = Wire(request, b"", length=None).head().removesuffix(b"\r\n") + b"transfer-encoding: chunked\r\n\r\n"
        writer.write(head)
        chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
        reply = asyncio.ensure_future(reader.read(4096))
        sent = 0
        while not reply.done() and sent < 64 * MIB:
            writer.write(chunk)
            await writer.drain()
            sent += len(chunk)
        assert b"MaxMessageLengthExceeded" in await asyncio.wait_for(reply, 5)
    await still_serves(stage)


async def test_a_declared_body_that_is_too_large_is_not_read(stage: Stage) -> None:
    request = sign_headers("POST", f"{stage.url}/b?delete", service="s3", body=b"x")
    async with connected(stage) as (reader, writer):
        writer.write(Wire(request, b"", length=1 << 40).head())
        await send_until_cut(writer, b"<" * 65536, 5 * MIB)
        assert b"MaxMessageLengthExceeded" in await asyncio.wait_for(reader.read(4096), 5)


async def test_a_stalled_upload_is_cut_off_and_stores_nothing(open_stage: Opener) -> None:
    stage = await open_stage(idle_s=0.4, linger_s=0.2)
    body = os.urandom(2 * MIB)
    request = sign_headers("PUT", f"{stage.url}/b/k", service="s3", body=body)
    async with connected(stage) as (reader, writer):
        writer.write(Wire(request, body).head() + body[: MIB + 5])
        answer = await rest_of(reader)
    assert b"400 Bad Request" in answer
    assert b"<Code>RequestTimeout</Code>" in answer
    await asyncio.wait_for(stage.backstage.walrus.broken_off.wait(), 5)
    assert stage.backstage.walrus.objects == {}


async def test_a_trickling_upload_is_cut_off(open_stage: Opener) -> None:
    stage = await open_stage(idle_s=5.0, window_s=0.4, window_bytes=4096)
    request = sign_headers("PUT", f"{stage.url}/b/k", service="s3", body=b"x" * 10_000)
    async with connected(stage) as (reader, writer):
        writer.write(Wire(request, b"", length=10_000).head())
        answer = asyncio.ensure_future(reader.read(4096))
        while not answer.done():
            writer.write(b"x")
            await asyncio.wait([answer], timeout=0.05)
        assert b"RequestTimeout" in await answer


async def test_a_slow_form_is_cut_off(open_stage: Opener) -> None:
    stage = await open_stage(held_s=0.4)
    request = sign_headers("POST", stage.url + "/", service="ec2", body=b"x" * 1000, headers=_FORM)
    async with connected(stage) as (reader, writer):
        writer.write(Wire(request, b"", length=1000).head())
        answer = asyncio.ensure_future(reader.read(4096))
        while not answer.done():
            writer.write(b"x")
            await asyncio.wait([answer], timeout=0.05)
        assert b"RequestTimeout" in await answer


async def test_a_reader_that_stops_is_cut_off_and_stops_the_store(open_stage: Opener) -> None:
    stage = await open_stage(idle_s=2.0)
    await in_thread(stage.client("s3").put_object, Bucket="b", Key="k", Body=b"x" * (64 * MIB))
    request = sign_headers("GET", f"{stage.url}/b/k", service="s3")
    async with connected(stage) as (_, writer):
        writer.write(Wire(request, b"", length=None).head())
        await eventually(lambda: stage.backstage.walrus.sent > 0)
        await eventually(lambda: stage.server.open_connections <= 1, within_s=15)
    assert stage.backstage.walrus.sent < 48 * MIB


_BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9))
    + b"]><Delete><Object><Key>&j;</Key></Object></Delete>"
)
_EXTERNAL = b'<!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/hostname">]><Delete><Object><Key>&x;</Key></Object></Delete>'
_DEEP = b"<Delete>" * 100_000


@pytest.mark.parametrize("body", [_BOMB, _EXTERNAL, _DEEP], ids=["bomb", "external", "deep"])
async def test_hostile_xml_is_refused_at_once(stage: Stage, body: bytes) -> None:
    digest = base64.b64encode(hashlib.md5(body).digest()).decode()
    request = sign_headers("POST", f"{stage.url}/b?delete", service="s3", body=body, headers={"Content-MD5": digest})
    began = time.monotonic()
    status, text = await in_thread(Wire(request, body).send, stage.port)
    assert (status, b"<Code>MalformedXML</Code>" in text) == (400, True)
    assert time.monotonic() - began < 5
    assert not [name for name, *_ in stage.backstage.walrus.seen if name == "DeleteObjects"]


async def test_too_many_connections_are_turned_away(open_stage: Opener) -> None:
    stage = await open_stage(connections=3)
    kept = [await asyncio.open_connection("127.0.0.1", stage.port) for _ in range(3)]
    async with connected(stage) as (reader, _):
        assert await rest_of(reader) == b""
    for _, writer in kept:
        writer.close()
    await eventually(lambda: stage.server.open_connections == 0)
    await still_serves(stage)


@pytest.mark.parametrize(("proxies", "served"), [((), False), (("127.0.0.0/8",), True)])
async def test_an_address_that_holds_too_many_connections_is_turned_away_unless_it_is_a_trusted_proxy(
    open_stage: Opener, proxies: tuple[str, ...], served: bool
) -> None:
    stage = await open_stage(connections_per_address=2, proxies=proxies)
    kept = [await asyncio.open_connection("127.0.0.1", stage.port) for _ in range(2)]
    async with connected(stage) as (reader, writer):
        writer.write(b"GET /b/k HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert bool(await rest_of(reader)) is served
    for _, writer in kept:
        writer.close()


async def test_too_many_transfers_are_told_to_slow_down(open_stage: Opener) -> None:
    stage = await open_stage(transfers=1)
    stage.backstage.walrus.hold_upload = asyncio.Event()
    first = sign_headers("PUT", f"{stage.url}/b/k", service="s3", body=b"12345")
    async with connected(stage) as (reader, writer):
        writer.write(Wire(first, b"12345").head() + b"12345")
        await eventually(lambda: len(stage.backstage.walrus.seen) == 1)
        status, text = await in_thread(Wire(first, b"12345").send, stage.port)
        assert (status, b"SlowDown" in text) == (503, True)
        stage.backstage.walrus.hold_upload.set()
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    assert (await in_thread(Wire(first, b"12345").send, stage.port))[0] == 200


async def test_bodies_held_at_once_are_bounded(open_stage: Opener) -> None:
    stage = await open_stage(held_bytes=100_000)
    body = b"Action=DescribeRegions&Version=2016-11-15&" + b"x" * 200_000
    request = sign_headers("POST", stage.url + "/", service="ec2", body=body, headers=_FORM)
    status, text = await in_thread(Wire(request, body).send, stage.port)
    assert (status, b"ServiceUnavailable" in text) == (503, True)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x00" * 1000,
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_and_hung_up_on(stage: Stage, garbage: bytes) -> None:
    async with connected(stage) as (reader, writer):
        writer.write(garbage + b"\r\n\r\n")
        writer.write_eof()
        answer = await rest_of(reader)
    assert answer == b"" or b" 400 " in answer.split(b"\r\n", 1)[0] or b" 403 " in answer.split(b"\r\n", 1)[0]
    await still_serves(stage)


async def test_the_rest_of_a_refused_body_is_no_request(stage: Stage) -> None:
    """A body that looks like a request must not be answered as one."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
    request = sign_headers("PUT", f"{stage.url}/b/k", service="s3", body=smuggled, secret="wrong" * 8)
    async with connected(stage) as (reader, writer):
        writer.write(Wire(request, smuggled).head())
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(smuggled)
        rest = await rest_of(reader)
    assert b"403 Forbidden" in head
    assert b"Connection: close" in head
    assert b"HTTP/1.1" not in rest


async def test_a_bug_is_answered_opaquely(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    protocol = stage.protocols.s3
    monkeypatch.setattr(protocol, "route", fail)
    request = sign_headers("GET", stage.url + "/", service="s3")
    status, text = await in_thread(Wire(request, b"", length=None).send, stage.port)
    assert (status, b"<Code>InternalError</Code>" in text, b"secret" in text) == (500, True, False)


async def test_http_1_0_is_served(stage: Stage) -> None:
    await still_serves(stage)
    request = sign_headers("GET", stage.url + "/", service="s3")
    async with connected(stage) as (reader, writer):
        writer.write(Wire(request, b"", length=None).head().replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert b" 200 OK" in (await rest_of(reader)).split(b"\r\n", 1)[0]

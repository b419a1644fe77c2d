"""Whoever gives no credentials: what he may cost, and what of his is checked all the same."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import zlib

import pytest

from ec2_facade.limits import MIB
from mallee.s3.v1 import object_pb2
from tests.service.facade.conftest import Opener, Stage, in_thread
from tests.service.facade.signing_client import Wire
from tests.service.facade.test_hostile import connected, rest_of
from tests.unit.facade.signing import sign_headers

_HEAD = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: "
_KEY = b'--x\r\nContent-Disposition: form-data; name="key"\r\n\r\nk'
_FILE = b'\r\n--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n'


@pytest.mark.parametrize("sent", [b"", _KEY, _KEY + _FILE + b"x" * (MIB + 5)], ids=["nothing", "fields", "file"])
async def test_a_form_that_stalls_is_cut_off_and_stores_nothing(open_stage: Opener, sent: bytes) -> None:
    stage: Stage = await open_stage(idle_s=0.4, linger_s=0.2)
    async with connected(stage) as (reader, writer):
        writer.write(_HEAD + b"5000000\r\n\r\n" + sent)
        answer = await rest_of(reader)
    assert b"<Code>RequestTimeout</Code>" in answer
    assert stage.backstage.walrus.objects == {}


async def test_a_form_that_trickles_is_cut_off(open_stage: Opener) -> None:
    stage: Stage = await open_stage(window_s=0.4, window_bytes=4096)
    async with connected(stage) as (reader, writer):
        writer.write(_HEAD + b"5000000\r\n\r\n" + _KEY)
        answer = asyncio.ensure_future(reader.read(4096))
        while not answer.done():
            writer.write(b"x")
            await asyncio.wait([answer], timeout=0.05)
        assert b"RequestTimeout" in await answer


@pytest.mark.parametrize(
    "piece", [b"y" * 65536, b"\r\n" * 1000, b"\r\n--x\r\nA: b" * 1000], ids=["value", "lines", "parts"]
)
async def test_an_endless_form_is_refused(open_stage: Opener, piece: bytes) -> None:
    stage: Stage = await open_stage(linger_s=0.2)
    async with connected(stage) as (reader, writer):
        writer.write(_HEAD + b"5000000000\r\n\r\n" + _KEY)
        writer.write(piece * (40_000 // len(piece) + 1))
        assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    assert stage.backstage.walrus.seen == []


async def test_strangers_take_no_room_from_those_who_are_known(open_stage: Opener) -> None:
    stage: Stage = await open_stage(strangers_held_bytes=1000)
    stage.backstage.walrus.answers["DeleteObjects"] = lambda _: object_pb2.DeleteObjectsOutput()
    body = b"<Delete><Object><Key>" + b"k" * 1000 + b"</Key></Object></Delete>"
    headers = {"Content-MD5": base64.b64encode(hashlib.md5(body).digest()).decode()}
    known = sign_headers("POST", f"{stage.url}/b?delete", service="s3", body=body, headers=headers)
    stranger = Wire(known, body)
    stranger.request = type(known)(
        method="POST",
        raw_path="/b",
        raw_query="delete",
        headers=(("host", "x"), ("content-md5", headers["Content-MD5"])),
    )
    status, text = await in_thread(stranger.send, stage.port)
    assert (status, b"<Code>ServiceUnavailable</Code>" in text) == (503, True)
    assert (await in_thread(Wire(known, body).send, stage.port))[0] == 200


@pytest.mark.parametrize(
    ("declared", "code"),
    [
        ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", None),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", "InvalidArgument"),
        ("0" * 64, "XAmzContentSHA256Mismatch"),
    ],
)
async def test_what_a_stranger_says_of_his_body_is_held_against_it(
    stage: Stage, declared: str, code: str | None
) -> None:
    body = b"x" * 10_000
    checksum = base64.b64encode(zlib.crc32(body).to_bytes(4, "big"))
    framed = b"2710\r\n" + body + b"\r\n0\r\nx-amz-checksum-crc32:" + checksum + b"\r\n\r\n"
    head = f"PUT /b/k HTTP/1.1\r\nHost: x\r\nx-amz-content-sha256: {declared}\r\nContent-Length: {len(framed)}\r\n"
    head += "x-amz-decoded-content-length: 10000\r\nx-amz-trailer: x-amz-checksum-crc32\r\nConnection: close\r\n\r\n"
    async with connected(stage) as (reader, writer):
        writer.write(head.encode() + framed)
        answer = await rest_of(reader)
    if code is None:
        assert answer.startswith(b"HTTP/1.1 200")
        assert stage.backstage.walrus.objects["b", "k"][0] == body
        assert "x-amz-checksum-crc32" in stage.backstage.walrus.trailers
    else:
        assert f"<Code>{code}</Code>".encode() in answer
        assert stage.backstage.walrus.objects == {}

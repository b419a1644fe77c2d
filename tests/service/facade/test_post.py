"""Browser forms, as boto3 prepares them and a browser sends them: what comes to Walrus, and what the browser gets."""

from __future__ import annotations

import html
import http.client
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from urllib3.filepost import encode_multipart_formdata

from common.errors import Denied
from ec2_facade.auth.authenticate import utc_now
from mallee.common.v1.caller_pb2 import Caller, RequestContext
from mallee.s3.v1 import object_pb2
from tests.service.facade.conftest import Stage, in_thread
from tests.unit.facade.signing import ACCESS_KEY

VERSIONS = pytest.mark.parametrize("version", ["s3v4", "s3"])


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


def prepared(stage: Stage, key: str = "k", *, version: str = "s3v4", **more: Any) -> dict[str, str]:
    """The fields of a form; `fields` are allowed as they are."""
    fields = more.pop("fields", {})
    conditions = [{name: value} for name, value in fields.items()] + more.pop("conditions", [])
    made = stage.client("s3", signature_version=version).generate_presigned_post(
        "bucket", key, Fields=fields, Conditions=conditions, **more
    )
    found: dict[str, str] = made["fields"]
    return found


def send(
    stage: Stage, fields: Mapping[str, str], file: Any = ("n.txt", b"bytes"), *, headers: dict[str, str] | None = None
) -> Answer:
    body, content_type = encode_multipart_formdata([*fields.items(), ("file", file)])
    return send_body(stage, body, {"Content-Type": content_type} | (headers or {}))


def send_body(stage: Stage, body: bytes, headers: dict[str, str], path: str = "/bucket") -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", stage.port, timeout=15)
    connection.request("POST", path, body, {"Host": urlsplit(stage.url).netloc} | headers)
    answer = connection.getresponse()
    found = Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    connection.close()
    return found


def stored(stage: Stage, key: str = "k") -> tuple[bytes, object_pb2.PutObjectRequest]:
    return stage.backstage.walrus.objects["bucket", key]


@VERSIONS
async def test_a_signed_form_brings_an_object(stage: Stage, version: str) -> None:
    fields = {"Content-Type": "text/x", "x-amz-meta-a": "ü", "Cache-Control": "no-store", "acl": "private"}
    made = await in_thread(prepared, stage, "dir/${filename}", version=version, fields=fields)
    body = os.urandom(3_000_000)
    answer = await in_thread(send, stage, made, ("C:\\here\\a b.bin", body))
    assert (answer.status, answer.body) == (204, b""), answer.body
    found, header = stored(stage, "dir/a b.bin")
    assert found == body
    assert (header.content_type, header.cache_control, header.acl) == ("text/x", "no-store", "private")
    assert dict(header.metadata) == {"a": "ü"}
    assert answer.headers["location"] == f"{stage.url}/bucket/dir/a%20b.bin"
    assert answer.headers["etag"]
    ((_, _, caller, _),) = stage.backstage.walrus.seen
    assert caller is not None
    assert (caller.access_key_id, caller.request.auth_type) == (ACCESS_KEY, "POST")
    assert caller.request.signature_version == {"s3v4": "AWS4-HMAC-SHA256", "s3": "AWS"}[version]


async def test_a_form_of_nobody_comes_to_walrus_as_nobodys(stage: Stage) -> None:
    assert (await in_thread(send, stage, {"key": "k"})).status == 204
    ((_, header, caller, _),) = stage.backstage.walrus.seen
    assert caller == Caller(anonymous=True, source_ip="127.0.0.1", request=RequestContext())
    assert header == object_pb2.PutObjectRequest(bucket="bucket", key="k")
    stage.backstage.walrus.refuse_upload = Denied("Access Denied", code="AccessDenied")
    answer = await in_thread(send, stage, {"key": "k"}, ("n", os.urandom(5_000_000)))
    assert (answer.status, b"<Code>AccessDenied</Code>" in answer.body) == (403, True)


async def test_tags_come_as_a_document(stage: Stage) -> None:
    xml = "<Tagging><TagSet><Tag><Key>a b</Key><Value>1&amp;2</Value></Tag></TagSet></Tagging>"
    answer = await in_thread(send, stage, {"key": "k", "tagging": xml})
    assert answer.status == 204
    assert stored(stage)[1].tagging == "a%20b=1%262"
    answer = await in_thread(send, stage, {"key": "k", "tagging": "<Tagging>"})
    assert (answer.status, b"<Code>MalformedXML</Code>" in answer.body) == (400, True)


async def test_the_form_says_how_it_is_answered(stage: Stage) -> None:
    for given, status in (("200", 200), ("204", 204), ("404", 204), ("", 204), (None, 204)):
        fields = {"key": "a<b"} | ({} if given is None else {"success_action_status": given})
        answer = await in_thread(send, stage, fields)
        assert (answer.status, answer.body) == (status, b""), given
    answer = await in_thread(send, stage, {"key": "a<b", "success_action_status": "201"})
    assert answer.status == 201
    location = f"{stage.url}/bucket/a%3Cb"
    expected = f"<Location>{location}</Location><Bucket>bucket</Bucket><Key>a&lt;b</Key><ETag>{answer.headers['etag']}"
    assert expected in answer.body.decode()


async def test_a_browser_is_sent_where_the_form_says(stage: Stage) -> None:
    for field, address, expected in (
        ("success_action_redirect", "http://x.example/done", "http://x.example/done?"),
        ("redirect", "https://x.example/?a=1", "https://x.example/?a=1&"),
    ):
        answer = await in_thread(send, stage, {"key": "a b", field: address})
        etag = answer.headers["etag"].strip('"')
        assert answer.status == 303
        assert answer.headers["location"] == f"{expected}bucket=bucket&key=a%20b&etag=%22{etag}%22"
    for address in ("javascript:alert(1)", "http://x.example/\r\nSet-Cookie: a=b", "nowhere", "http://[x"):
        answer = await in_thread(send, stage, {"key": "a b", "success_action_redirect": address})
        assert (answer.status, "set-cookie" in answer.headers) == (204, False), address


@VERSIONS
async def test_a_form_that_was_changed_is_refused(stage: Stage, version: str) -> None:
    made = await in_thread(prepared, stage, version=version)
    signature = "x-amz-signature" if version == "s3v4" else "signature"
    unknown = (
        ("x-amz-credential", made["x-amz-credential"].replace(ACCESS_KEY, "AKIANONE"))
        if version == "s3v4"
        else ("AWSAccessKeyId", "AKIANONE")
    )
    for name, value, status, code in (
        ("key", "other", 403, "AccessDenied"),
        ("acl", "public-read", 403, "AccessDenied"),
        ("policy", "e30=", 403, "SignatureDoesNotMatch"),
        ("policy", None, 400, "InvalidArgument"),
        ("key", None, 400, "InvalidArgument"),
        (signature, None, 400, "InvalidArgument"),
        (*unknown, 403, "InvalidAccessKeyId"),
        ("x-amz-security-token", "x", 400, "InvalidToken"),
    ):
        fields = {key: text for key, text in {**made, name: value}.items() if text is not None}
        answer = await in_thread(send, stage, fields)
        assert (answer.status, f"<Code>{code}</Code>" in answer.body.decode()) == (status, True), answer.body
    assert stage.backstage.walrus.objects == {}


async def test_a_signature_that_cannot_be_one_is_named(stage: Stage) -> None:
    made = await in_thread(prepared, stage)
    for field, value, said in (
        ("x-amz-algorithm", "AWS4-HMAC-SHA1", "Only AWS4-HMAC-SHA256 is supported"),
        ("x-amz-credential", "k/20300101/us-east-1/s3", "the Credential is mal-formed"),
        ("x-amz-credential", "k/20300101/eu-west-1/s3/aws4_request", "the region 'eu-west-1' is wrong"),
        ("x-amz-date", "yesterday", "X-Amz-Date must be formated via ISO8601 Long format"),
        ("x-amz-date", f"{utc_now() - timedelta(days=1):%Y%m%dT%H%M%SZ}", "This date is not the same as X-Amz-Date"),
        ("x-amz-signature", "x", "Signature must be 64 hexadecimal digits."),
    ):
        answer = await in_thread(send, stage, made | {field: value})
        assert (answer.status, said in html.unescape(answer.body.decode())) == (400, True), answer.body


async def test_a_policy_ends(stage: Stage) -> None:
    made = await in_thread(prepared, stage, ExpiresIn=-1)
    answer = await in_thread(send, stage, made)
    assert answer.status == 403
    assert b"<Message>Invalid according to Policy: Policy expired.</Message>" in answer.body


@pytest.mark.parametrize(
    ("size", "status", "code"), [(99_999, 400, "EntityTooSmall"), (100_000, 204, ""), (200_001, 400, "EntityTooLarge")]
)
async def test_a_policy_bounds_the_file(stage: Stage, size: int, status: int, code: str) -> None:
    made = await in_thread(prepared, stage, conditions=[["content-length-range", 100_000, 200_000]])
    answer = await in_thread(send, stage, made, ("n", os.urandom(size)))
    assert answer.status == status
    assert f"<Code>{code}</Code>" in answer.body.decode() if code else ("bucket", "k") in stage.backstage.walrus.objects
    if code:
        assert stage.backstage.walrus.objects == {}
        assert f"<ProposedSize>{size}</ProposedSize>" in answer.body.decode()


async def test_what_is_no_form_is_refused(stage: Stage) -> None:
    answer = await in_thread(send_body, stage, b"{}", {"Content-Type": "application/json"})
    assert (answer.status, b"enclosure-type multipart/form-data" in answer.body) == (412, True)
    answer = await in_thread(send_body, stage, b"nonsense", {"Content-Type": "multipart/form-data; boundary=x"})
    assert (answer.status, b"<Code>MalformedPOSTRequest</Code>" in answer.body) == (400, True)
    answer = await in_thread(send_body, stage, b"", {"Content-Type": "multipart/form-data; boundary=x"}, "/bucket/key")
    assert (answer.status, b"<Code>MethodNotAllowed</Code>" in answer.body) == (405, True)


async def test_a_form_that_breaks_off_leaves_nothing(stage: Stage) -> None:
    body, content_type = encode_multipart_formdata([("key", "k"), ("file", ("n", os.urandom(2_000_000)))])
    head = f"POST /bucket HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"

    def break_off() -> None:
        with socket.create_connection(("127.0.0.1", stage.port), timeout=15) as sock:
            sock.sendall(head.encode() + body[:1_500_000])

    await in_thread(break_off)
    await stage.backstage.walrus.broken_off.wait()
    assert stage.backstage.walrus.objects == {}


async def test_a_form_waits_for_leave_and_its_connection_serves_on(stage: Stage) -> None:
    body, content_type = encode_multipart_formdata([("key", "k"), ("file", ("n", b"x" * 100_000))])

    def converse() -> tuple[bytes, list[int]]:
        with socket.create_connection(("127.0.0.1", stage.port), timeout=15) as sock:
            head = (
                f"POST /bucket HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
            )
            sock.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
            invited = sock.recv(100)
            sock.sendall(body)
            statuses = []
            for again in (True, False):
                answer = http.client.HTTPResponse(sock, method="POST")
                answer.begin()
                answer.read()
                statuses.append(answer.status)
                if again:
                    sock.sendall(head.encode() + b"\r\n" + body)
            return invited, statuses

    assert await in_thread(converse) == (b"HTTP/1.1 100 Continue\r\n\r\n", [204, 204])

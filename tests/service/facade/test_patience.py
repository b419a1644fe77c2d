"""Copies and completed uploads that take long: the connection is kept awake, and the outcome stands in the body."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from botocore.exceptions import ClientError

from common.errors import CloudError, WrongState
from mallee.s3.v1 import copy_pb2, multipart_pb2
from tests.eventually import eventually
from tests.service.facade.conftest import Opener, Stage, in_thread
from tests.service.facade.signing_client import Wire
from tests.unit.facade.signing import sign_headers

COPYING: dict[str, Any] = {"Bucket": "b", "Key": "k", "CopySource": "b/source"}


@pytest.fixture
async def slow(open_stage: Opener) -> Stage:
    """Answers wait until the test lets them go."""
    stage: Stage = await open_stage(alive_s=0.05)
    stage.backstage.walrus.hold_answers = asyncio.Event()
    copied = copy_pb2.CopyObjectOutput(version_id="v1")
    copied.copy_object_result.e_tag = '"e"'
    completed = multipart_pb2.CompleteMultipartUploadOutput(bucket="b", key="k", e_tag='"e-1"')
    stage.backstage.walrus.answers |= {
        "CopyObject": lambda _: copied,
        "CompleteMultipartUpload": lambda _: completed,
    }
    return stage


def let_go(stage: Stage) -> None:
    assert stage.backstage.walrus.hold_answers is not None
    stage.backstage.walrus.hold_answers.set()


def copy_request(stage: Stage) -> bytes:
    headers = {"x-amz-copy-source": "b/source"}
    return Wire(sign_headers("PUT", f"{stage.url}/b/k", service="s3", body=b"", headers=headers), b"").head()


def begun(sock: socket.socket) -> bytes:
    """What has come when the answer shows three signs of life."""
    seen = b""
    while seen.count(b"\r\n1\r\n \r\n") < 3:
        more = sock.recv(4096)
        assert more, seen
        seen += more
    return seen


async def test_spaces_come_until_the_answer_is_known_and_the_connection_serves_on(slow: Stage) -> None:
    with socket.create_connection(("127.0.0.1", slow.port), timeout=15) as sock:
        for _ in range(2):
            sock.sendall(copy_request(slow))
            seen = await in_thread(begun, sock)
            let_go(slow)
            head, _, _ = seen.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"x-amz-request-id" in head.lower()

            def rest(seen: bytes = seen) -> bytes:
                while not seen.endswith(b"\r\n0\r\n\r\n"):
                    seen += sock.recv(4096)
                return seen

            body = await in_thread(rest)
            assert b"<CopyObjectResult" in body
            assert body.count(b"<?xml") == 1
            slow.backstage.walrus.hold_answers = asyncio.Event()


@pytest.mark.parametrize("action", ["copy_object", "complete_multipart_upload"])
async def test_clients_read_what_came_behind_the_spaces(slow: Stage, action: str) -> None:
    client = slow.client("s3")
    parts = {"Bucket": "b", "Key": "k", "UploadId": "u", "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": "e"}]}}
    asked = COPYING if action == "copy_object" else parts
    waiting = asyncio.create_task(in_thread(getattr(client, action), **asked))
    await eventually(lambda: len(slow.backstage.walrus.seen) == 1)
    asyncio.get_running_loop().call_later(0.3, let_go, slow)
    answer = await waiting
    assert (answer.get("CopyObjectResult") or answer)["ETag"] in ('"e"', '"e-1"')


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WrongState("No.", code="PreconditionFailed"), "PreconditionFailed"),
        (CloudError("the disk said something that is nobody's business"), "InternalError"),
    ],
)
async def test_an_error_stands_in_an_answer_that_was_begun(slow: Stage, error: CloudError, code: str) -> None:
    def fail(_: object) -> Any:
        raise error

    slow.backstage.walrus.answers["CopyObject"] = fail
    waiting = asyncio.create_task(in_thread(slow.client("s3").copy_object, **COPYING))
    await eventually(lambda: len(slow.backstage.walrus.seen) == 1)
    asyncio.get_running_loop().call_later(0.3, let_go, slow)
    with pytest.raises(ClientError) as caught:
        await waiting
    assert caught.value.response["Error"]["Code"] == code
    assert "business" not in str(caught.value)


async def test_what_is_known_at_once_is_a_plain_answer_with_its_status_and_headers(slow: Stage) -> None:
    let_go(slow)
    assert (await in_thread(slow.client("s3").copy_object, **COPYING))["VersionId"] == "v1"

    def fail(_: object) -> Any:
        raise WrongState("No.", code="PreconditionFailed")

    slow.backstage.walrus.answers["CopyObject"] = fail
    with pytest.raises(ClientError) as caught:
        await in_thread(slow.client("s3").copy_object, **COPYING)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412


async def test_what_was_begun_is_carried_through_though_the_client_went(slow: Stage) -> None:
    with socket.create_connection(("127.0.0.1", slow.port), timeout=15) as sock:
        sock.sendall(copy_request(slow))
        await in_thread(begun, sock)
    await eventually(lambda: slow.server.open_connections == 0)
    assert slow.backstage.walrus.answered == 0
    let_go(slow)
    await eventually(lambda: slow.backstage.walrus.answered == 1)

"""Answers on the wire: those that are written in one piece say what aiohttp would have said."""

from __future__ import annotations

import http.client

import pytest

from mallee.s3.v1 import bucket_pb2, listing_pb2, object_pb2
from tests.service.facade.conftest import Stage, in_thread

# Differ from one answer to the next.
_OWN = ("x-amz-request-id", "x-amz-id-2", "date", "connection")


def ask(stage: Stage, method: str, path: str, times: int = 1, **headers: str) -> tuple[int, str, object, bytes]:
    """Of the last of so many on one connection: status, reason, headers but for its own, body."""
    connection = http.client.HTTPConnection("127.0.0.1", stage.port, timeout=15)
    for _ in range(times):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    connection.close()
    told = sorted((name.lower(), value) for name, value in answer.getheaders() if name.lower() not in _OWN)
    assert answer.getheader("date")
    assert answer.getheader("x-amz-request-id")
    return answer.status, answer.reason, told, body


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/b/k"), ("HEAD", "/b/k"), ("GET", "/b?list-type=2"), ("HEAD", "/b")],
)
async def test_an_answer_is_the_same_whether_the_connection_goes_on_or_not(
    stage: Stage, method: str, path: str
) -> None:
    walrus = stage.backstage.walrus
    walrus.objects["b", "k"] = b"x" * 5000, object_pb2.PutObjectRequest(content_type="text/plain")
    walrus.answers["HeadObject"] = lambda request: object_pb2.HeadObjectOutput(
        content_length=5000, e_tag='"x"', content_type="text/plain", metadata={"a": "b"}
    )
    walrus.answers["HeadBucket"] = lambda request: bucket_pb2.HeadBucketOutput(bucket_region="us-east-1")
    walrus.answers["ListObjectsV2"] = lambda request: listing_pb2.ListObjectsV2Output(name="b", key_count=0)
    goes_on = await in_thread(ask, stage, method, path, 3)
    ends = await in_thread(ask, stage, method, path, Connection="close")
    assert goes_on == ends
    assert goes_on[0] == 200


async def test_a_stored_line_break_begins_no_header(stage: Stage) -> None:
    stage.backstage.walrus.answers["HeadObject"] = lambda request: object_pb2.HeadObjectOutput(
        content_length=1, content_disposition="a\r\nSet-Cookie: b"
    )
    status, _, told, _ = await in_thread(ask, stage, "HEAD", "/b/k")
    assert status == 200
    assert ("content-disposition", "a  Set-Cookie: b") in told

"""Who asks of S3, and how his request came, as Walrus hears it."""

from __future__ import annotations

import http.client

import pytest

from mallee.common.v1.caller_pb2 import Caller, RequestContext
from mallee.s3.v1 import bucket_pb2, object_pb2
from tests.service.facade.conftest import Opener, Stage, in_thread
from tests.service.facade.signing_client import raw_exchange
from tests.unit.facade.signing import ACCESS_KEY, REGION


async def test_a_client_of_another_region_finds_ours_by_itself(stage: Stage) -> None:
    stage.backstage.walrus.answers["HeadBucket"] = lambda _: bucket_pb2.HeadBucketOutput(bucket_region=REGION)
    lost = stage.client("s3", region="eu-west-1")
    found = await in_thread(lost.head_bucket, Bucket="b")
    assert found["BucketRegion"] == REGION


async def test_whoever_names_nobody_comes_to_walrus_as_nobody(stage: Stage) -> None:
    status, text = await in_thread(raw_exchange, stage.port, "GET", f"{stage.url}/b/k")
    assert (status, b"<Code>NoSuchKey</Code>" in text) == (404, True)
    ((name, _, caller, _),) = stage.backstage.walrus.seen
    assert name == "GetObject"
    assert caller == Caller(anonymous=True, source_ip="127.0.0.1", request=RequestContext())


async def test_nobody_gets_an_answer_of_his_own_wording(stage: Stage) -> None:
    url = f"{stage.url}/b/k?response-content-type=text/html"
    status, text = await in_thread(raw_exchange, stage.port, "GET", url)
    assert (status, b"<Code>InvalidRequest</Code>" in text) == (400, True)
    assert b"cannot be used for anonymous GET requests" in text
    assert stage.backstage.walrus.seen == []


async def test_a_trusted_proxy_tells_who_came_to_it(open_stage: Opener) -> None:
    def ask(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
        headers = {"X-Forwarded-For": "6.6.6.6, 198.18.0.1", "X-Forwarded-Proto": "https"}
        connection.request("GET", "/b/k", headers=headers)
        connection.getresponse().read()
        connection.close()

    for proxies, expected in (((), ("127.0.0.1", False)), (("127.0.0.0/8",), ("198.18.0.1", True))):
        stage: Stage = await open_stage(proxies=proxies)
        await in_thread(ask, stage.port)
        ((_, _, caller, _),) = stage.backstage.walrus.seen
        assert caller is not None
        assert (caller.source_ip, caller.request.secure_transport) == expected


@pytest.mark.parametrize(
    ("version", "presigned", "auth_type", "signature"),
    [
        ("s3v4", False, "REST-HEADER", "AWS4-HMAC-SHA256"),
        ("s3v4", True, "REST-QUERY-STRING", "AWS4-HMAC-SHA256"),
        ("s3", False, "REST-HEADER", "AWS"),
        ("s3", True, "REST-QUERY-STRING", "AWS"),
    ],
)
async def test_walrus_hears_how_a_request_came(
    stage: Stage, version: str, presigned: bool, auth_type: str, signature: str
) -> None:
    client = stage.client("s3", signature_version=version, user_agent="tester")
    stage.backstage.walrus.objects["b", "k"] = b"x", object_pb2.PutObjectRequest()
    if presigned:
        url = client.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"})
        assert await in_thread(raw_exchange, stage.port, "GET", url) == (200, b"x")
    else:
        await in_thread(client.get_object, Bucket="b", Key="k")
    ((_, _, caller, _),) = stage.backstage.walrus.seen
    assert caller is not None
    assert (caller.anonymous, caller.access_key_id, caller.source_ip) == (False, ACCESS_KEY, "127.0.0.1")
    told = caller.request
    assert (told.auth_type, told.signature_version) == (auth_type, signature)
    assert bool(told.signed_ms) is (version == "s3v4")
    assert (told.user_agent.startswith("tester"), told.HasField("user_agent")) == (not presigned, not presigned)
    assert not told.HasField("referer")

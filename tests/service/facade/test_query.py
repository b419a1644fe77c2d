"""EC2 and STS through the facade, driven by boto3 and by hand-made requests."""

from __future__ import annotations

import re
from typing import Any

import aiohttp
import pytest
from botocore.exceptions import ClientError

from common.errors import NoCapacity, NotFound, Unavailable
from mallee.ec2.v1 import key_pair_pb2, region_pb2
from mallee.sts.v1 import caller_pb2
from tests.eventually import eventually
from tests.service.facade.conftest import Stage, in_thread
from tests.service.facade.stand_in import ACCOUNT
from tests.unit.facade.signing import ACCESS_KEY, SECRET, presign, sign_headers

_REGIONS = region_pb2.DescribeRegionsResult(regions=[region_pb2.Region(region_name="us-east-1", endpoint="here")])
_FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
_DESCRIBE = b"Action=DescribeRegions&Version=2016-11-15"


async def test_an_action_goes_through_with_caller_and_request_id(stage: Stage) -> None:
    stage.backstage.ec2.answers["DescribeRegions"] = lambda request: _REGIONS
    answer = await in_thread(stage.client("ec2").describe_regions, RegionNames=["us-east-1"])
    assert answer["Regions"] == [{"RegionName": "us-east-1", "Endpoint": "here"}]
    ((name, request, caller, request_id),) = stage.backstage.ec2.seen
    assert name == "DescribeRegions"
    assert list(request.region_names) == ["us-east-1"]  # type: ignore[attr-defined]
    assert caller is not None
    assert (caller.account_id, caller.access_key_id, caller.source_ip) == (ACCOUNT, ACCESS_KEY, "127.0.0.1")
    metadata = answer["ResponseMetadata"]
    assert metadata["RequestId"] == request_id == metadata["HTTPHeaders"]["x-amzn-requestid"]
    assert metadata["HTTPHeaders"]["server"] == "AmazonEC2"
    assert "date" in metadata["HTTPHeaders"]


async def test_sts_tells_who_calls(stage: Stage) -> None:
    stage.backstage.sts.answers["GetCallerIdentity"] = lambda request: caller_pb2.GetCallerIdentityResponse(
        account=ACCOUNT, arn="arn:aws:iam::1:root", user_id="1"
    )
    answer = await in_thread(stage.client("sts").get_caller_identity)
    assert answer["Account"] == ACCOUNT
    assert answer["ResponseMetadata"]["RequestId"]


async def test_an_error_behind_the_facade_keeps_its_code(stage: Stage) -> None:
    def refuse(request: Any) -> Any:
        raise NotFound("The key pair 'x' does not exist", code="InvalidKeyPair.NotFound")

    stage.backstage.ec2.answers["DeleteKeyPair"] = refuse
    with pytest.raises(ClientError) as caught:
        await in_thread(stage.client("ec2").delete_key_pair, KeyName="x")
    assert caught.value.response["Error"]["Code"] == "InvalidKeyPair.NotFound"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


async def test_lack_of_capacity_is_a_server_error(stage: Stage) -> None:
    def refuse(request: Any) -> Any:
        raise NoCapacity("We currently do not have sufficient capacity.")

    stage.backstage.ec2.answers["RunInstances"] = refuse
    with pytest.raises(ClientError) as caught:
        await in_thread(stage.client("ec2").run_instances, ImageId="ami-1", MinCount=1, MaxCount=1)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500


async def test_a_bug_behind_the_facade_is_opaque(stage: Stage) -> None:
    def fail(request: Any) -> Any:
        raise ZeroDivisionError("secret detail")

    stage.backstage.ec2.answers["DescribeRegions"] = fail
    with pytest.raises(ClientError) as caught:
        await in_thread(stage.client("ec2").describe_regions)
    assert caught.value.response["Error"]["Code"] == "InternalError"
    assert "secret" not in str(caught.value.response)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500


async def test_trouble_between_services_is_told_without_their_addresses(stage: Stage) -> None:
    def fail(request: Any) -> Any:
        raise Unavailable("failed to connect to ipv4:10.0.0.1:8774")

    stage.backstage.ec2.answers["DescribeRegions"] = fail
    with pytest.raises(ClientError) as caught:
        await in_thread(stage.client("ec2").describe_regions)
    assert caught.value.response["Error"]["Code"] == "Unavailable"
    assert "ipv4" not in caught.value.response["Error"]["Message"]
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503


@pytest.mark.parametrize(
    ("service", "options", "code", "status"),
    [
        ("ec2", {"secret": SECRET + "x"}, "AuthFailure", 401),
        ("ec2", {"access_key": "AKIAUNKNOWN"}, "AuthFailure", 401),
        ("ec2", {"region": "eu-west-1"}, "AuthFailure", 401),
        ("sts", {"secret": SECRET + "x"}, "SignatureDoesNotMatch", 403),
        ("sts", {"access_key": "AKIAUNKNOWN"}, "InvalidClientTokenId", 403),
        ("sts", {"region": "eu-west-1"}, "SignatureDoesNotMatch", 403),
    ],
)
async def test_refusals(stage: Stage, service: str, options: dict[str, str], code: str, status: int) -> None:
    client = stage.client(service, **options)
    call = client.describe_regions if service == "ec2" else client.get_caller_identity
    with pytest.raises(ClientError) as caught:
        await in_thread(call)
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("Action=DescribeVolumes&Version=2016-11-15", "UnsupportedOperation"),
        ("Action=MakeCoffee&Version=2016-11-15", "InvalidAction"),
        ("Version=2016-11-15", "MissingParameter"),
        ("Action=DescribeRegions&Version=2016-11-15&Nonsense=1", "UnknownParameter"),
        ("Action=DescribeRegions&Version=2016-11-15&Version=2015-11-15", "MalformedQueryString"),
        ("Action=DescribeRegions&Version=2016-11-15&RegionName.1=%FF", "MalformedQueryString"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_malformed_requests_have_ec2s_codes(stage: Stage, query: str, code: str, method: str) -> None:
    if method == "GET":
        status, text = await send(stage, sign_headers("GET", f"{stage.url}/?{query}", service="ec2"), stage.url)
    else:
        signed = sign_headers("POST", stage.url + "/", service="ec2", body=query.encode(), headers=_FORM)
        status, text = await send(stage, signed, stage.url, body=query.encode())
    assert f"<Code>{code}</Code>" in text
    assert status == 400
    assert re.search(r"<RequestID>[0-9a-f-]{36}</RequestID>", text)


async def test_the_get_form_and_a_presigned_request_are_served(stage: Stage) -> None:
    stage.backstage.ec2.answers["DescribeRegions"] = lambda request: _REGIONS
    url = f"{stage.url}/?{_DESCRIBE.decode()}"
    for request in (sign_headers("GET", url, service="ec2"), presign("GET", url, service="ec2")):
        status, text = await send(stage, request, stage.url)
        assert (status, "<regionName>us-east-1</regionName>" in text) == (200, True)


async def test_a_request_without_credentials_is_told_so(stage: Stage) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{stage.url}/?{_DESCRIBE.decode()}") as answer:
            assert (answer.status, "MissingAuthenticationToken" in await answer.text()) == (403, True)
        async with session.post(stage.url, data=_DESCRIBE, headers=_FORM) as answer:
            assert (answer.status, "MissingAuthenticationToken" in await answer.text()) == (403, True)


async def test_a_service_that_is_not_here_is_refused_by_name(stage: Stage) -> None:
    with pytest.raises(ClientError) as caught:
        await in_thread(stage.client("iam").list_users)
    assert caught.value.response["Error"]["Code"] == "UnsupportedOperation"
    assert "iam" in caught.value.response["Error"]["Message"]


async def test_signing_keys_are_cached_until_the_clc_says_otherwise(stage: Stage) -> None:
    stage.backstage.ec2.answers["DescribeRegions"] = lambda request: _REGIONS
    client = stage.client("ec2")
    for _ in range(3):
        await in_thread(client.describe_regions)
    assert stage.backstage.identities.asked == 1
    del stage.backstage.identities.secrets[ACCESS_KEY]
    stage.backstage.identities.tell([ACCESS_KEY])
    await eventually(lambda: len(stage.keys) == 0)
    with pytest.raises(ClientError, match="AuthFailure"):
        await in_thread(client.describe_regions)


async def test_a_broken_stream_of_changes_empties_the_cache_and_is_taken_up_again(stage: Stage) -> None:
    stage.backstage.ec2.answers["DescribeRegions"] = lambda request: _REGIONS
    await in_thread(stage.client("ec2").describe_regions)
    assert len(stage.keys) == 1
    stage.backstage.identities.tell(None)
    await eventually(lambda: len(stage.keys) == 0)
    await eventually(lambda: stage.keys.live)


async def test_large_answers_come_whole(stage: Stage) -> None:
    pairs = [key_pair_pb2.KeyPairInfo(key_name=f"key-{n}", key_fingerprint="f" * 100) for n in range(5000)]
    stage.backstage.ec2.answers["DescribeKeyPairs"] = lambda request: key_pair_pb2.DescribeKeyPairsResult(
        key_pairs=pairs
    )
    answer = await in_thread(stage.client("ec2").describe_key_pairs)
    assert len(answer["KeyPairs"]) == 5000


async def send(stage: Stage, wire: Any, url: str, body: bytes = b"") -> tuple[int, str]:
    """A signed request, sent as it stands."""
    from yarl import URL

    target = URL(f"{url}{wire.raw_path}?{wire.raw_query}", encoded=True)
    headers = {name: value for name, value in wire.headers if name != "host"}
    async with (
        aiohttp.ClientSession(skip_auto_headers=["Content-Type"]) as session,
        session.request(wire.method, target, data=body or None, headers=headers) as answer,
    ):
        return answer.status, await answer.text()

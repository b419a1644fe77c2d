"""Presigned URLs of Signature Version 2 against botocore's own signer."""

from __future__ import annotations

import base64
import dataclasses
import hmac
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote

import botocore.session
import pytest
from botocore.auth import HmacV1Auth, HmacV1QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from common.errors import NotFound
from ec2_facade.auth.legacy import LegacyAuthenticator, is_legacy
from ec2_facade.auth.problem import AuthProblem, Reason
from ec2_facade.wire import WireRequest
from mallee.common.v1 import caller_pb2
from tests.unit.facade.signing import ACCESS_KEY, ENDPOINT, SECRET, wire_of

MODEL = botocore.session.get_session().get_service_model("s3")


class Holder:
    async def sign_v2(
        self, access_key_id: str, string_to_sign: str, *, hash_name: str
    ) -> tuple[bytes, caller_pb2.Caller]:
        if access_key_id != ACCESS_KEY:
            raise NotFound("no such key")
        signature = hmac.digest(SECRET.encode(), string_to_sign.encode(), hash_name)
        return signature, caller_pb2.Caller(access_key_id=access_key_id)


def presigned(
    method: str,
    path: str,
    *,
    headers: dict[str, str] | None = None,
    auth_path: str | None = None,
    access_key: str = ACCESS_KEY,
) -> WireRequest:
    request = AWSRequest(method=method, url=ENDPOINT + path, headers=dict(headers or {}), auth_path=auth_path)
    HmacV1QueryAuth(Credentials(access_key, SECRET), expires=60).add_auth(request)
    # What is in the query now is not sent as a header.
    for name in headers or {}:
        del request.headers[name]
    wire = wire_of(request)
    return dataclasses.replace(wire, headers=tuple(pair for pair in wire.headers if pair[0] != "date"))


async def admit(request: WireRequest, *, host_bucket: str | None = None, later_s: int = 0) -> None:
    assert is_legacy(request)
    subject = LegacyAuthenticator(
        Holder(), clock_skew_s=900, now=lambda: datetime.now(UTC) + timedelta(seconds=later_s)
    )
    await subject.authenticate(request, host_bucket=host_bucket)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), st.sampled_from(["GET", "PUT"]))
async def test_any_key_that_botocore_presigns_is_admitted(key: str, method: str) -> None:
    await admit(presigned(method, f"/bucket/{quote(key.encode(), safe='/~')}"))


@pytest.mark.parametrize(
    "query", ["uploads", "partNumber=3&uploadId=a%2Bb", "response-content-type=text%2Fplain&prefix=x", "acl"]
)
async def test_subresources_are_part_of_it(query: str) -> None:
    await admit(presigned("GET", f"/bucket/key?{query}"))


async def test_headers_that_travel_in_the_query_are_part_of_it() -> None:
    headers = {"x-amz-meta-a": "1", "x-amz-acl": "private", "content-type": "text/plain"}
    await admit(presigned("PUT", "/bucket/key", headers=headers))


async def test_the_bucket_of_the_host_is_part_of_it() -> None:
    await admit(presigned("GET", "/key", auth_path="/bucket/key"), host_bucket="bucket")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"raw_path": "/bucket/other"}, Reason.WRONG_SIGNATURE),
        ({"method": "DELETE"}, Reason.WRONG_SIGNATURE),
        ({"headers": (("host", "x"), ("x-amz-acl", "public-read"))}, Reason.WRONG_SIGNATURE),
        ({"raw_query": "AWSAccessKeyId=AKIANONE&Signature=x&Expires=4000000000"}, Reason.UNKNOWN_KEY),
        ({"raw_query": f"AWSAccessKeyId={ACCESS_KEY}&Signature=x&Expires=4000000000"}, Reason.WRONG_SIGNATURE),
        ({"raw_query": f"AWSAccessKeyId={ACCESS_KEY}&Signature=x"}, Reason.INCOMPLETE_QUERY),
        ({"raw_query": f"AWSAccessKeyId={ACCESS_KEY}&Signature=x&Expires=soon"}, Reason.BAD_LEGACY_DATE),
        ({"raw_query": f"AWSAccessKeyId={ACCESS_KEY}&Signature=x&Expires={'9' * 40}"}, Reason.BAD_LEGACY_DATE),
        ({"raw_query": f"AWSAccessKeyId={ACCESS_KEY}&Signature=x&Expires=4000000000&acl=%FF"}, Reason.WRONG_SIGNATURE),
    ],
)
async def test_what_was_changed_is_refused(change: dict[str, object], reason: Reason) -> None:
    request = dataclasses.replace(presigned("GET", "/bucket/key"), **change)  # type: ignore[arg-type]
    with pytest.raises(AuthProblem) as caught:
        await admit(request)
    assert caught.value.reason is reason


def everything_that_chooses_an_action() -> list[str]:
    uris = [model.http["requestUri"] for model in map(MODEL.operation_model, MODEL.operation_names)]
    names = {name for uri in uris for name, _ in parse_qsl(uri.partition("?")[2], keep_blank_values=True)}
    # Ordinary members beside what chooses, and of listings.
    return sorted(names - {"id", "list-type", "x-id"})


@pytest.mark.parametrize("name", everything_that_chooses_an_action())
@pytest.mark.parametrize("written", [lambda name: name, lambda name: f"%{ord(name[0]):02X}{name[1:]}"])
async def test_what_chooses_another_action_is_not_added_to_a_presigned_url(
    name: str, written: Callable[[str], str]
) -> None:
    request = presigned("PUT", "/bucket/key")
    for change in (f"&{written(name)}", f"&{written(name)}=1"):
        with pytest.raises(AuthProblem) as caught:
            await admit(dataclasses.replace(request, raw_query=request.raw_query + change))
        assert caught.value.reason is Reason.WRONG_SIGNATURE


@pytest.mark.parametrize("added", ["x-amz-acl=public-read&{}", "{}&x-amz-acl=public-read", "X-Amz-Acl=public-read&{}"])
async def test_a_header_in_the_query_is_not_given_once_more_with_another_value(added: str) -> None:
    request = presigned("PUT", "/bucket/key", headers={"x-amz-acl": "private"})
    with pytest.raises(AuthProblem):
        await admit(dataclasses.replace(request, raw_query=added.format(request.raw_query)))


async def test_a_header_in_the_query_is_not_made_two() -> None:
    request = presigned("PUT", "/bucket/key", headers={"x-amz-meta-a": "1,2"})
    assert "x-amz-meta-a=1%2C2" in request.raw_query
    query = request.raw_query.replace("x-amz-meta-a=1%2C2", "x-amz-meta-a=1&x-amz-meta-a=2")
    with pytest.raises(AuthProblem):
        await admit(dataclasses.replace(request, raw_query=query))


async def test_a_signed_header_is_not_made_part_of_another_one() -> None:
    signed = {"x-amz-meta-a": "1", "x-amz-server-side-encryption": "AES256"}
    request = presigned("PUT", "/bucket/key", headers=signed)
    apart = "x-amz-meta-a=1", "x-amz-server-side-encryption=AES256"
    kept = [pair for pair in request.raw_query.split("&") if pair not in apart]
    assert len(kept) == len(request.raw_query.split("&")) - 2
    query = "&".join([*kept, "x-amz-meta-a=1%0Ax-amz-server-side-encryption:AES256"])
    with pytest.raises(AuthProblem):
        await admit(dataclasses.replace(request, raw_query=query))


async def test_it_ends_with_its_time() -> None:
    with pytest.raises(AuthProblem) as caught:
        await admit(presigned("GET", "/bucket/key"), later_s=120)
    assert caught.value.reason is Reason.EXPIRED


def signed(
    method: str, path: str, *, headers: dict[str, str] | None = None, auth_path: str | None = None
) -> WireRequest:
    request = AWSRequest(method=method, url=ENDPOINT + path, headers=dict(headers or {}), auth_path=auth_path)
    HmacV1Auth(Credentials(ACCESS_KEY, SECRET)).add_auth(request)
    return wire_of(request)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), st.sampled_from(["GET", "PUT"]))
async def test_any_key_that_botocore_signs_is_admitted(key: str, method: str) -> None:
    await admit(signed(method, f"/bucket/{quote(key.encode(), safe='/~')}"))


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/bucket/key?uploads", {}),
        ("/bucket/key?versionId=a%2Bb&prefix=x&acl", {"Content-MD5": "x", "Content-Type": "text/plain"}),
        ("/bucket/key?response-content-type=text%2Fplain&x-amz-acl=public-read", {}),
        ("/bucket/key", {"x-amz-meta-b": " 2 ", "X-Amz-Meta-A": "1"}),
    ],
)
async def test_what_a_header_signs_is_admitted(path: str, headers: dict[str, str]) -> None:
    await admit(signed("PUT", path, headers=headers))


@pytest.mark.parametrize("form", ["%a, %d %b %Y %H:%M:%S GMT", "%Y%m%dT%H%M%SZ"])
async def test_amazons_date_stands_for_the_other(form: str) -> None:
    """As the guide has it; botocore never sends it."""
    moment = datetime.now(UTC).strftime(form)
    text = f"GET\n\n\n\nx-amz-date:{moment}\n/bucket/key"
    signature = base64.b64encode(hmac.digest(SECRET.encode(), text.encode(), "sha1")).decode()
    headers = (
        ("host", "x"),
        ("date", "Mon, 01 Jan 2001 00:00:00 GMT"),
        ("x-amz-date", moment),
        ("authorization", f"AWS {ACCESS_KEY}:{signature}"),
    )
    await admit(WireRequest(method="GET", raw_path="/bucket/key", raw_query="", headers=headers))


@pytest.mark.parametrize(
    ("path", "auth_path"), [("/bucket", "/bucket/"), ("/bucket", "/bucket"), ("/bucket/", "/bucket/")]
)
async def test_a_bucket_alone_is_signed_with_a_slash_or_as_it_is_sent(path: str, auth_path: str) -> None:
    await admit(signed("GET", f"{path}?list-type=2&prefix=x", auth_path=auth_path))
    await admit(presigned("GET", path, auth_path=auth_path))


async def test_a_slash_that_is_sent_is_signed() -> None:
    with pytest.raises(AuthProblem) as caught:
        await admit(signed("GET", "/bucket/", auth_path="/bucket"))
    assert caught.value.reason is Reason.WRONG_SIGNATURE


async def test_the_bucket_of_the_host_is_part_of_what_a_header_signs() -> None:
    await admit(signed("GET", "/key", auth_path="/bucket/key"), host_bucket="bucket")


def with_header(request: WireRequest, name: str, value: str | None) -> WireRequest:
    kept = tuple(pair for pair in request.headers if pair[0] != name)
    return dataclasses.replace(request, headers=kept if value is None else (*kept, (name, value)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: dataclasses.replace(r, raw_path="/bucket/other"), Reason.WRONG_SIGNATURE),
        (lambda r: dataclasses.replace(r, raw_query="acl"), Reason.WRONG_SIGNATURE),
        (lambda r: with_header(r, "x-amz-acl", "public-read"), Reason.WRONG_SIGNATURE),
        (lambda r: with_header(r, "content-type", "text/html"), Reason.WRONG_SIGNATURE),
        (lambda r: with_header(r, "date", None), Reason.BAD_LEGACY_DATE),
        (lambda r: with_header(r, "date", "yesterday"), Reason.BAD_LEGACY_DATE),
        (lambda r: with_header(r, "date", "Mon, 01 Jan 2001 00:00:00 GMT"), Reason.CLOCK_BEHIND),
        (lambda r: with_header(r, "date", "Mon, 01 Jan 2091 00:00:00 GMT"), Reason.CLOCK_AHEAD),
        (lambda r: with_header(r, "authorization", "AWS nothing"), Reason.BAD_LEGACY_HEADER),
        (lambda r: with_header(r, "authorization", "AWS :x"), Reason.BAD_LEGACY_HEADER),
        (lambda r: with_header(r, "authorization", "AWS AKIANONE:x"), Reason.UNKNOWN_KEY),
        (lambda r: with_header(r, "authorization", f"AWS {ACCESS_KEY}:\udcff"), Reason.WRONG_SIGNATURE),
        (lambda r: with_header(r, "x-amz-security-token", "x"), Reason.BAD_SESSION_TOKEN),
        (lambda r: dataclasses.replace(r, raw_query="Signature=x"), Reason.TWO_MECHANISMS),
    ],
)
async def test_what_a_header_did_not_sign_is_refused(
    change: Callable[[WireRequest], WireRequest], reason: Reason
) -> None:
    with pytest.raises(AuthProblem) as caught:
        await admit(change(signed("GET", "/bucket/key")))
    assert caught.value.reason is reason

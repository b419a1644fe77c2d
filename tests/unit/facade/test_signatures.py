"""Signature Version 4 against botocore's own signers."""

from __future__ import annotations

import collections
import dataclasses
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec2_facade.auth.authenticate import Identified
from ec2_facade.auth.failures import refusal
from ec2_facade.auth.payload import read_payload
from ec2_facade.auth.problem import AuthProblem, Reason
from ec2_facade.wire import WireRequest, split_target
from tests.unit.facade.signing import (
    ENDPOINT,
    SECRET,
    authenticator,
    presign,
    sha256,
    sign_headers,
)

_BODY = b"Action=DescribeRegions&Version=2016-11-15"
_FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}


async def admit(request: WireRequest, service: str, *, body: bytes = b"", now: datetime | None = None) -> Identified:
    checker = authenticator(now)
    identified = await checker.identify(request, service)
    payload_hash = read_payload(request, identified.claim).hash if service == "s3" else sha256(body)
    checker.verify(request, identified, payload_hash=payload_hash)
    return identified


async def refused(request: WireRequest, service: str, **kwargs: object) -> AuthProblem:
    with pytest.raises(AuthProblem) as caught:
        await admit(request, service, **kwargs)  # type: ignore[arg-type]
    return caught.value


def replace_header(request: WireRequest, name: str, value: str | None) -> WireRequest:
    kept = tuple(pair for pair in request.headers if pair[0] != name)
    return dataclasses.replace(request, headers=kept if value is None else (*kept, (name, value)))


@pytest.mark.parametrize("service", ["ec2", "sts"])
async def test_a_query_request_signed_by_header_is_admitted(service: str) -> None:
    request = sign_headers("POST", ENDPOINT + "/", service=service, body=_BODY, headers=_FORM)
    identified = await admit(request, service, body=_BODY)
    assert identified.caller("192.0.2.9").source_ip == "192.0.2.9"


async def test_a_changed_body_is_refused() -> None:
    request = sign_headers("POST", ENDPOINT + "/", service="ec2", body=_BODY, headers=_FORM)
    problem = await refused(request, "ec2", body=_BODY + b"&DryRun=true")
    answer = refusal(problem, "ec2")
    assert (answer.code, answer.status) == ("AuthFailure", 401)


async def test_a_presigned_sts_request_is_admitted() -> None:
    url = ENDPOINT + "/?Action=GetCallerIdentity&Version=2011-06-15"
    await admit(presign("GET", url, service="sts", expires_s=60), "sts")


_keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(key=_keys, prefix=_keys)
async def test_any_key_and_query_that_botocore_signs_for_s3_is_admitted(key: str, prefix: str) -> None:
    path = quote(key.encode(), safe="/~")
    url = f"{ENDPOINT}/bucket/{path}?prefix={quote(prefix.encode(), safe='-_.~')}&acl"
    await admit(sign_headers("GET", url, service="s3"), "s3")
    await admit(presign("PUT", url), "s3")


@given(segments=st.lists(st.sampled_from(["", ".", "..", "a", "b c", "é", "%41", "~x"]), max_size=6))
async def test_paths_of_other_services_are_normalised_as_botocore_does(segments: list[str]) -> None:
    path = "/" + "/".join(quote(segment.encode(), safe="~") for segment in segments)
    request = sign_headers("GET", ENDPOINT + path, service="execute-api")
    checker = authenticator()
    identified = await checker.identify(request, "execute-api")
    checker.verify(request, identified, payload_hash=sha256(b""))


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20), max_size=4))
async def test_header_values_are_trimmed_and_folded(values: list[str]) -> None:
    headers = {f"x-amz-meta-{i}": value for i, value in enumerate(values)}
    await admit(sign_headers("GET", ENDPOINT + "/bucket/key", service="s3", headers=headers), "s3")


async def test_dots_and_double_slashes_of_s3_keys_stay() -> None:
    request = sign_headers("GET", ENDPOINT + "/bucket/a//../b/./c%2Fd", service="s3")
    await admit(request, "s3")
    assert (await refused(dataclasses.replace(request, raw_path="/bucket/b/c%2Fd"), "s3")).reason is (
        Reason.WRONG_SIGNATURE
    )


async def test_a_client_that_encodes_less_than_it_signs_is_admitted() -> None:
    request = sign_headers("GET", ENDPOINT + "/bucket/a%21%28b%29", service="s3")
    await admit(dataclasses.replace(request, raw_path="/bucket/a!(b)"), "s3")


async def test_s3_shows_what_it_signed() -> None:
    request = sign_headers("GET", ENDPOINT + "/bucket/key", service="s3", secret=SECRET + "x")
    answer = refusal(await refused(request, "s3"), "s3")
    assert (answer.code, answer.status) == ("SignatureDoesNotMatch", 403)
    assert answer.details["CanonicalRequest"].startswith("GET\n/bucket/key\n\n")
    assert answer.details["StringToSign"].startswith("AWS4-HMAC-SHA256\n")
    assert bytes.fromhex(answer.details["StringToSignBytes"]).decode() == answer.details["StringToSign"]


@pytest.mark.parametrize(
    ("service", "code", "status"),
    [("ec2", "AuthFailure", 401), ("sts", "InvalidClientTokenId", 403), ("s3", "InvalidAccessKeyId", 403)],
)
async def test_an_unknown_key(service: str, code: str, status: int) -> None:
    request = sign_headers("GET", ENDPOINT + "/", service=service, access_key="AKIAUNKNOWN")
    answer = refusal(await refused(request, service), service)
    assert (answer.code, answer.status) == (code, status)


@pytest.mark.parametrize(
    ("service", "code", "status"),
    [
        ("ec2", "MissingAuthenticationToken", 403),
        ("sts", "MissingAuthenticationToken", 403),
        ("s3", "AccessDenied", 403),
    ],
)
async def test_no_credentials_at_all(service: str, code: str, status: int) -> None:
    request = WireRequest(method="GET", raw_path="/", raw_query="", headers=(("host", "x"),))
    answer = refusal(await refused(request, service), service)
    assert (answer.code, answer.status) == (code, status)


@pytest.mark.parametrize(
    ("service", "code", "status"),
    [
        ("ec2", "AuthFailure", 401),
        ("sts", "SignatureDoesNotMatch", 403),
        ("s3", "AuthorizationHeaderMalformed", 400),
    ],
)
async def test_another_region(service: str, code: str, status: int) -> None:
    request = sign_headers("GET", ENDPOINT + "/", service=service, region="eu-west-9")
    answer = refusal(await refused(request, service), service)
    assert (answer.code, answer.status) == (code, status)
    assert "eu-west-9" in answer.message
    if service == "s3":
        assert answer.details == {"Region": "us-east-1", "x-amz-bucket-region": "us-east-1"}


@pytest.mark.parametrize("off_s", [-901, 901])
@pytest.mark.parametrize(
    ("service", "code", "status"),
    [("ec2", "RequestExpired", 400), ("sts", "SignatureDoesNotMatch", 403), ("s3", "RequestTimeTooSkewed", 403)],
)
async def test_a_clock_that_is_off(service: str, code: str, status: int, off_s: int) -> None:
    request = sign_headers("GET", ENDPOINT + "/", service=service)
    now = datetime.now(UTC) + timedelta(seconds=off_s)
    answer = refusal(await refused(request, service, now=now), service)
    assert (answer.code, answer.status) == (code, status)


async def test_the_last_second_that_a_date_can_name_is_ahead_and_no_bug() -> None:
    request = sign_headers("GET", ENDPOINT + "/", service="ec2")
    for name, value in (("x-amz-date", "99991231T235959Z"), ("authorization", None)):
        request = replace_header(request, name, value)
    scope = "AKID/99991231/us-east-1/ec2/aws4_request"
    claim = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host;x-amz-date, Signature={'0' * 64}"
    request = replace_header(request, "authorization", claim)
    assert (await refused(request, "ec2")).reason is Reason.CLOCK_AHEAD


@pytest.mark.parametrize("off_s", [-890, 890])
async def test_a_clock_within_the_skew_is_admitted(off_s: int) -> None:
    request = sign_headers("GET", ENDPOINT + "/", service="s3")
    await admit(request, "s3", now=datetime.now(UTC) + timedelta(seconds=off_s))


async def test_a_presigned_request_ends_with_its_time() -> None:
    request = presign("GET", ENDPOINT + "/bucket/key", expires_s=60)
    answer = refusal(await refused(request, "s3", now=datetime.now(UTC) + timedelta(seconds=62)), "s3")
    assert (answer.code, answer.message, answer.status) == ("AccessDenied", "Request has expired", 403)
    assert answer.details["X-Amz-Expires"] == "60"
    long = presign("GET", ENDPOINT + "/bucket/key", expires_s=604800)
    await admit(long, "s3", now=datetime.now(UTC) + timedelta(days=6))


@pytest.mark.parametrize("expires_s", [0, -1, 604801, 10**30])
async def test_an_expiry_outside_a_week_is_refused(expires_s: int) -> None:
    request = presign("GET", ENDPOINT + "/bucket/key", expires_s=expires_s)
    answer = refusal(await refused(request, "s3"), "s3")
    assert (answer.code, answer.status) == ("AuthorizationQueryParametersError", 400)


async def test_every_amz_header_must_be_signed_for_s3() -> None:
    request = sign_headers("PUT", ENDPOINT + "/bucket/key", service="s3")
    sneaky = dataclasses.replace(request, headers=(*request.headers, ("x-amz-acl", "public-read")))
    answer = refusal(await refused(sneaky, "s3"), "s3")
    assert (answer.code, answer.details) == ("AccessDenied", {"HeadersNotSigned": "x-amz-acl"})


async def test_header_and_query_at_once_is_refused() -> None:
    request = presign("GET", ENDPOINT + "/bucket/key")
    both = replace_header(request, "authorization", "AWS4-HMAC-SHA256 Credential=x")
    assert (await refused(both, "s3")).reason is Reason.TWO_MECHANISMS


@pytest.mark.parametrize("service", ["ec2", "sts", "s3"])
async def test_a_session_token_is_refused(service: str) -> None:
    headers = {"X-Amz-Security-Token": "token"}
    request = sign_headers("GET", ENDPOINT + "/", service=service, headers=headers)
    answer = refusal(await refused(request, service), service)
    expected = {"ec2": "AuthFailure", "sts": "InvalidClientTokenId", "s3": "InvalidToken"}
    assert answer.code == expected[service]


_authorizations = st.one_of(
    st.text(max_size=80),
    st.builds(
        "AWS4-HMAC-SHA256 Credential={}, SignedHeaders={}, Signature={}".format,
        st.sampled_from(["", "a/b", "AK/20200101/us-east-1/s3/aws4_request", "AK/2020/us-east-1/s3/aws4_request"]),
        st.sampled_from(["", "host", "Host", "host;;x", "x;host"]),
        st.sampled_from(["", "zz", "0" * 64, "A" * 64]),
    ),
    st.sampled_from(["AWS AK:sig", "Bearer x", "AWS4-ECDSA-P256-SHA256 Credential=a", "AWS4-HMAC-SHA256"]),
)


@given(
    _authorizations, st.sampled_from(["ec2", "sts", "s3"]), st.sampled_from([None, "", "yesterday", "20200101T000000Z"])
)
async def test_any_authorization_header_is_answered_with_a_refusal(header: str, service: str, date: str | None) -> None:
    request = WireRequest(method="GET", raw_path="/", raw_query="", headers=(("host", "x"), ("authorization", header)))
    if date is not None:
        request = replace_header(request, "x-amz-date", date)
    answer = refusal(await refused(request, service), service)
    assert answer.status in (400, 401, 403)


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("service", ["ec2", "sts", "s3"])
def test_every_reason_has_words_in_every_protocol(reason: Reason, service: str) -> None:
    # Whatever is asked for is there.
    facts: dict[str, str] = collections.defaultdict(lambda: "x")
    problem = AuthProblem(reason, "detail")
    problem.facts = facts
    answer = refusal(problem, service)
    assert 400 <= answer.status < 404
    assert answer.code.isalpha()


def test_targets_in_absolute_form_are_understood() -> None:
    assert split_target("http://host:1/a//b?x=%2F") == ("/a//b", "x=%2F")
    assert split_target("http://host?x") == ("/", "x")
    assert split_target("/a?b?c") == ("/a", "b?c")

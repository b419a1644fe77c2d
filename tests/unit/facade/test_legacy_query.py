"""Requests of Signature Version 2 against botocore's own signer."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from botocore.auth import SigV2Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from ec2_facade.auth.legacy_query import LegacyQueryAuthenticator, is_legacy_query
from ec2_facade.auth.problem import AuthProblem, Reason
from ec2_facade.wire import WireRequest
from tests.unit.facade.signing import ACCESS_KEY, SECRET
from tests.unit.facade.test_legacy import Holder

HOST = "ec2.example.com:8773"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def signed(parameters: dict[str, str], *, access_key: str = ACCESS_KEY) -> WireRequest:
    request = AWSRequest(method="GET", url=f"http://{HOST}/", params=dict(parameters))
    SigV2Auth(Credentials(access_key, SECRET)).add_auth(request)
    return WireRequest(
        method="GET", raw_path="/", raw_query=urlencode(request.params), headers=(("host", HOST),), source_ip="10.0.0.1"
    )


async def admit(request: WireRequest, *, later_s: int = 0) -> str:
    assert is_legacy_query(request)
    now = datetime.now(UTC) + timedelta(seconds=later_s)
    caller = await LegacyQueryAuthenticator(Holder(), clock_skew_s=900, now=lambda: now).authenticate(request)
    return caller.source_ip


@given(st.dictionaries(st.text("AaZz09._~-", min_size=1, max_size=9).map("P".__add__), TEXT, max_size=5))
async def test_whatever_botocore_signs_is_admitted(parameters: dict[str, str]) -> None:
    assert await admit(signed({"Action": "DescribeRegions", "Version": "2016-11-15"} | parameters)) == "10.0.0.1"


def changed(request: WireRequest, old: str, new: str) -> WireRequest:
    assert old in request.raw_query
    return dataclasses.replace(request, raw_query=request.raw_query.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Action=DescribeRegions", "Action=TerminateInstances", Reason.WRONG_SIGNATURE),
        ("Action=", "More=1&Action=", Reason.WRONG_SIGNATURE),
        ("Signature=", "Signature=x", Reason.WRONG_SIGNATURE),
        ("&Signature=", "&Unsigned=", Reason.MALFORMED),
        ("SignatureVersion=2", "SignatureVersion=1", Reason.MALFORMED),
        ("HmacSHA256", "HmacSHA1", Reason.WRONG_SIGNATURE),
        ("HmacSHA256", "None", Reason.MALFORMED),
        ("Timestamp=", "Expires=2030-01-01T00%3A00%3A00Z&Timestamp=", Reason.MALFORMED),
        ("Timestamp=", "Timestamp=x", Reason.MALFORMED),
        ("Timestamp=", "When=", Reason.MALFORMED),
        ("Action=", "SecurityToken=t&Action=", Reason.BAD_SESSION_TOKEN),
        (f"AWSAccessKeyId={ACCESS_KEY}", "AWSAccessKeyId=AKIAANOTHER", Reason.UNKNOWN_KEY),
        (f"AWSAccessKeyId={ACCESS_KEY}", "AWSAccessKeyId=%C3%BC", Reason.MALFORMED),
    ],
)
async def test_what_was_changed_on_the_way_is_refused(old: str, new: str, reason: Reason) -> None:
    with pytest.raises(AuthProblem) as caught:
        await admit(changed(signed({"Action": "DescribeRegions"}), old, new))
    assert caught.value.reason is reason


async def test_another_host_or_path_is_refused() -> None:
    request = signed({"Action": "DescribeRegions"})
    for other in ({"headers": (("host", "other"),)}, {"raw_path": "/other"}, {"headers": (("host", "ü"),)}):
        with pytest.raises(AuthProblem) as caught:
            await admit(dataclasses.replace(request, **other))
        assert caught.value.reason is Reason.WRONG_SIGNATURE


@pytest.mark.parametrize(("later_s", "reason"), [(1000, Reason.CLOCK_BEHIND), (-1000, Reason.CLOCK_AHEAD)])
async def test_a_request_is_good_for_a_while(later_s: int, reason: Reason) -> None:
    request = signed({"Action": "DescribeRegions"})
    assert await admit(request, later_s=later_s // 2)
    with pytest.raises(AuthProblem) as caught:
        await admit(request, later_s=later_s)
    assert caught.value.reason is reason
    assert caught.value.facts["request"]


async def test_other_requests_are_none_of_its_business() -> None:
    request = signed({"Action": "DescribeRegions"})
    assert not is_legacy_query(dataclasses.replace(request, method="POST"))
    assert not is_legacy_query(dataclasses.replace(request, headers=(*request.headers, ("authorization", "AWS4"))))

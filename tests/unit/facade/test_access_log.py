"""What the access log shows of a request."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from ec2_facade.body import HeldBytes
from ec2_facade.exchange import Exchange
from ec2_facade.limits import Limits
from ec2_facade.proxies import Proxies
from ec2_facade.s3.access_log import record_of, target_of
from ec2_facade.wire import WireRequest


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", "/b/k"),
        ("versionId=1&X-Amz-Signature=secret&partNumber=2", "/b/k?versionId=1&X-Amz-Signature=-&partNumber=2"),
        ("AWSAccessKeyId=A&Signature=secret", "/b/k?AWSAccessKeyId=A&Signature=-"),
        ("x-amz-server-side-encryption-customer-key=secret", "/b/k?x-amz-server-side-encryption-customer-key=-"),
        ("X-Amz-Server-Side-Encryption-Customer%2DKey=secret", "/b/k?X-Amz-Server-Side-Encryption-Customer%2DKey=-"),
    ],
)
def test_nothing_secret_in_a_query_is_shown(query: str, shown: str) -> None:
    assert target_of(WireRequest(method="GET", raw_path="/b/k", raw_query=query, headers=())) == shown


async def test_a_request_that_is_no_utf8_is_logged_like_any_other() -> None:
    exchange = Exchange(make_mocked_request("GET", "/"), "id", Limits(), HeldBytes(1), Proxies())
    headers = (("user-agent", "\udcffagent"), ("referer", "\udcffpage"), ("host", "\udcffhost"))
    exchange.wire = WireRequest(method="GET", raw_path="/b/\udcff", raw_query="versionId=%FF", headers=headers)
    exchange.bucket = "b"
    record = record_of(exchange, 1.0)
    assert (record.user_agent, record.referer, record.host) == ("\ufffdagent", "\ufffdpage", "\ufffdhost")
    assert (record.request_line, record.version_id) == ("GET /b/\ufffd?versionId=%FF HTTP/1.1", "\ufffd")

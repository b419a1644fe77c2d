"""What the access log shows of a request."""

from __future__ import annotations

import pytest

from ec2_facade.s3.access_log import target_of
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

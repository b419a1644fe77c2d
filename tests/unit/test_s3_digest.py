"""Digests of XML bodies, as clients declare them: also what is none."""

from __future__ import annotations

import pytest

from ec2_facade.errors import Refused
from ec2_facade.protocol import RestXmlProtocol
from ec2_facade.s3.digest import check_body

OPERATION = RestXmlProtocol("s3").route("PUT", "b", None, {"versioning": ""}, {})


@pytest.mark.parametrize("digest", ["AAAA", "²", "\x00", "AAAAAAAAAAAAAAAAAAAAAA"])
@pytest.mark.parametrize("header", ["content-md5", "x-amz-checksum-crc32", "x-amz-checksum-sha256"])
def test_what_is_no_digest_is_refused(header: str, digest: str) -> None:
    with pytest.raises(Refused) as caught:
        check_body(OPERATION, b"<x/>", {header: digest}, {})
    assert caught.value.code == "InvalidDigest"

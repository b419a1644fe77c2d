"""Digests of XML bodies, as clients declare them: also what is none."""

from __future__ import annotations

import pytest

from ec2_facade.auth.payload import Framing, Payload
from ec2_facade.errors import Refused
from ec2_facade.protocol import RestXmlProtocol
from ec2_facade.s3.digest import check_body, check_upload

OPERATION = RestXmlProtocol("s3").route("PUT", "b", None, {"versioning": ""}, {})


@pytest.mark.parametrize("digest", ["AAAA", "²", "\x00", "AAAAAAAAAAAAAAAAAAAAAA"])
@pytest.mark.parametrize("header", ["content-md5", "x-amz-checksum-crc32", "x-amz-checksum-sha256"])
def test_what_is_no_digest_is_refused(header: str, digest: str) -> None:
    with pytest.raises(Refused) as caught:
        check_body(OPERATION, b"<x/>", {header: digest}, {})
    assert caught.value.code == ("InvalidDigest" if header == "content-md5" else "InvalidRequest")


@pytest.mark.parametrize(
    ("headers", "framing", "taken"),
    [
        ({}, Framing.UNSIGNED, True),
        ({"x-amz-object-lock-mode": "GOVERNANCE"}, Framing.UNSIGNED, False),
        ({"x-amz-object-lock-legal-hold": "ON"}, Framing.UNSIGNED, False),
        ({"x-amz-object-lock-legal-hold": "ON", "content-md5": "x"}, Framing.UNSIGNED, True),
        ({"x-amz-object-lock-legal-hold": "ON", "x-amz-checksum-crc32": "x"}, Framing.UNSIGNED, True),
        ({"x-amz-object-lock-legal-hold": "ON"}, Framing.HASHED, True),
        ({"x-amz-object-lock-legal-hold": "ON"}, Framing.SIGNED_CHUNKS, True),
        ({"x-amz-object-lock-legal-hold": "ON"}, Framing.UNSIGNED_CHUNKS_TRAILER, True),
    ],
)
def test_what_is_to_be_locked_has_a_digest(headers: dict[str, str], framing: Framing, taken: bool) -> None:
    payload = Payload(framing=framing, hash=framing.value, length=1)
    if taken:
        check_upload(headers, payload)
        return
    with pytest.raises(Refused) as caught:
        check_upload(headers, payload)
    assert caught.value.code == "InvalidRequest"

"""What an upload policy allows."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import pytest

from common.errors import Unauthenticated
from services.clc.bundle_task.policy import check

NOW = 1_800_000_000.0
GOOD: dict[str, Any] = {
    "expiration": "2027-02-01T00:00:00Z",
    "conditions": [{"bucket": "b"}, {"acl": "ec2-bundle-read"}, ["starts-with", "$key", "images/"]],
}


def asked(
    policy: object, *, secret: str = "s", signature: str = "", bucket: str = "b", prefix: str = "images/x"
) -> None:
    text = base64.b64encode(json.dumps(policy).encode())
    signed = signature or base64.b64encode(hmac.digest(b"s", text, "sha1")).decode()
    check(text, signed, secret=secret, bucket=bucket, prefix=prefix, now=NOW)


def test_a_policy_lets_its_own_prefix_be_written() -> None:
    asked(GOOD)


@pytest.mark.parametrize(
    ("policy", "more"),
    [
        (GOOD, {"secret": "another"}),
        (GOOD, {"signature": "bm8="}),
        (GOOD, {"bucket": "c"}),
        (GOOD, {"prefix": "image"}),
        (GOOD | {"expiration": "2026-12-01T00:00:00Z"}, {}),
        (GOOD | {"expiration": "soon"}, {}),
        (GOOD | {"expiration": 7}, {}),
        (GOOD | {"conditions": []}, {}),
        (GOOD | {"conditions": 7}, {}),
        ({}, {}),
        ([], {}),
        ("x", {}),
        (None, {}),
    ],
)
def test_anything_else_is_refused(policy: object, more: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        asked(policy, **more)
    assert caught.value.code == "AuthFailure"

"""Policies of browser forms: every kind of condition, and the words in which S3 refuses."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from ec2_facade.errors import Refused
from ec2_facade.s3.form_policy import FormPolicy, read_policy

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ENDS = "2030-01-01T00:00:00.000Z"


def encode(document: Any) -> str:
    text = document if isinstance(document, str) else json.dumps(document)
    return base64.b64encode(text.encode()).decode()


def policy(*conditions: Any, expiration: Any = ENDS) -> FormPolicy:
    return read_policy(encode({"expiration": expiration, "conditions": list(conditions)}))


@pytest.mark.parametrize(
    ("condition", "name", "value"),
    [
        ({"acl": "private"}, "acl", "private"),
        ({"AcL": "private"}, "acl", "private"),
        (["eq", "$acl", "private"], "acl", "private"),
        (["EQ", "$Acl", ""], "acl", ""),
        (["starts-with", "$key", "user/"], "key", "user/1"),
        (["Starts-With", "$kEY", ""], "key", "anything"),
        (["starts-with", "$Content-Type", "image/"], "content-type", "image/png, image/gif"),
        (["starts-with", "$key", "a,"], "key", "a,b"),
        (["starts-with", "$key", "$a"], "key", "$ab"),
    ],
)
def test_a_condition_that_holds(condition: Any, name: str, value: str) -> None:
    policy(condition).check({name: value}, now=NOW)


@pytest.mark.parametrize(
    ("condition", "fields"),
    [
        ({"acl": "private"}, {"acl": "public-read"}),
        ({"acl": "private"}, {"acl": "Private"}),
        ({"acl": "private"}, {}),
        (["eq", "$acl", "private"], {"acl": "private "}),
        (["starts-with", "$key", "user/"], {"key": "/user/1"}),
        (["starts-with", "$key", ""], {}),
        (["starts-with", "$Content-Type", "image/"], {"content-type": "image/png,text/html"}),
    ],
)
def test_a_condition_that_does_not(condition: Any, fields: dict[str, str]) -> None:
    with pytest.raises(Refused, match="Invalid according to Policy: Policy Condition failed") as caught:
        policy(condition).check(fields, now=NOW)
    assert (caught.value.code, caught.value.status) == ("AccessDenied", 403)


def test_the_condition_that_failed_is_shown() -> None:
    with pytest.raises(Refused) as caught:
        policy({"Acl": "private"}).check({}, now=NOW)
    shown = 'Invalid according to Policy: Policy Condition failed: ["eq", "$Acl", "private"]'
    assert caught.value.message == shown


def test_every_field_needs_a_condition_but_those_of_the_signature() -> None:
    free = dict.fromkeys(("policy", "signature", "AWSAccessKeyId", "x-amz-signature", "file"), "x")
    fields = {name.lower(): value for name, value in free.items()} | {"x-ignore-this": "1"}
    policy().check(fields, now=NOW)
    with pytest.raises(Refused, match="Invalid according to Policy: Extra input fields: bucket, x-amz-date"):
        policy().check({"bucket": "b", "x-amz-date": "1", **fields}, now=NOW)


def test_a_policy_ends() -> None:
    policy(expiration="2030-01-01T01:00:00+01:00").check({}, now=NOW)
    with pytest.raises(Refused, match="Invalid according to Policy: Policy expired"):
        policy(expiration="2029-12-31T23:59:59Z").check({}, now=NOW)


def test_ranges_narrow_each_other() -> None:
    assert (policy().least_bytes, policy().most_bytes) == (0, None)
    found = policy(["content-length-range", 1, 10], ["Content-Length-Range", "0", "5"])
    assert (found.least_bytes, found.most_bytes) == (1, 5)


def test_escapes_that_json_does_not_have() -> None:
    text = f'{{"expiration": "{ENDS}", "conditions": [["eq", "$key", "\\$a\\v\\\\$"]]}}'
    read_policy(encode(text)).check({"key": "$a\x0b\\$"}, now=NOW)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("not JSON", "Invalid JSON."),
        ("[]", "Invalid JSON."),
        ("[" * 100_000, "Invalid JSON."),
        ({"conditions": []}, "Policy missing expiration."),
        ({"EXPIRATION": ENDS, "conditions": []}, "Policy missing expiration."),
        ({"expiration": ENDS}, "Policy missing conditions."),
        ({"expiration": ENDS, "CONDITIONS": []}, "Policy missing conditions."),
        ({"expiration": ENDS, "conditions": {}}, "Invalid 'conditions' value: must be a List."),
        ({"expiration": "tomorrow", "conditions": []}, "Invalid 'expiration' value: 'tomorrow'"),
        (
            {"expiration": "2030-01-01 00:00:00Z", "conditions": []},
            "Invalid 'expiration' value: '2030-01-01 00:00:00Z'",
        ),
        ({"expiration": 5, "conditions": []}, "Invalid 'expiration' value: '5'"),
    ],
)
def test_what_is_no_policy(document: Any, message: str) -> None:
    with pytest.raises(Refused) as caught:
        read_policy(encode(document))
    assert (caught.value.code, caught.value.message) == ("InvalidPolicyDocument", f"Invalid Policy: {message}")


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({}, "Invalid Simple-Condition: Simple-Conditions must have exactly one property specified."),
        ({"a": "1", "b": "2"}, "Invalid Simple-Condition: Simple-Conditions must have exactly one property specified."),
        ({"a": 1}, "Invalid Simple-Condition: value must be a string."),
        ([], "Invalid Condition: missing operation identifier."),
        ("acl", "Invalid condition test: must be a List or Object."),
        (None, "Invalid condition test: must be a List or Object."),
        (["eq", "$acl"], "Invalid eq: wrong number of arguments."),
        (["eq", "acl", "private"], "Invalid eq: a field with $ and a string are expected."),
        (["ends-with", "$key", "x"], "Invalid Condition: unknown operation 'ends-with'."),
        (["eq", "$acl", 1], "Invalid eq: a field with $ and a string are expected."),
        (["content-length-range", 1], "Invalid content-length-range: wrong number of arguments."),
        (["content-length-range", -1, 5], "Invalid content-length-range: not a number of bytes."),
        (["content-length-range", 1, "x"], "Invalid content-length-range: not a number of bytes."),
        (["content-length-range", True, 5], "Invalid content-length-range: not a number of bytes."),
    ],
)
def test_what_is_no_condition(condition: Any, message: str) -> None:
    with pytest.raises(Refused) as caught:
        policy(condition)
    assert (caught.value.code, caught.value.message) == ("InvalidPolicyDocument", f"Invalid Policy: {message}")


@pytest.mark.parametrize(
    ("encoded", "message"),
    [("$$$", "invalid Base64 encoding."), ("", "Expecting '{' but found End-of-Input"), ("/w==", "Invalid JSON.")],
)
def test_what_is_no_base64(encoded: str, message: str) -> None:
    with pytest.raises(Refused) as caught:
        read_policy(encoded)
    assert caught.value.message == f"Invalid Policy: {message}"

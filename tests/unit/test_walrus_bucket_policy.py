"""What S3 takes as a bucket's policy, and which policies are public."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.errors import CloudError
from services.walrus import bucket_policy
from tests.unit.walrus_access import says


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (says("s3:GetObject"), ""),
        (says("s3:*", "b"), ""),
        (says("*", "b*"), ""),
        (says("s3:ListBucket", "b", Condition={"StringLike": {"s3:prefix": "x*"}}), ""),
        (says("s3:GetObject", "b/${aws:username}/*"), ""),
        (says("s3:GetObject", Condition={"StringEquals": {"aws:Whatever": "x"}}), ""),
        (says("s3:GetObject", Condition={"StringEquals": {"s3:ExistingObjectTag/a": "x"}}), ""),
        (says("s3:GetObject", Condition={"StringEquals": {"s3:TlsVersion": "1.2"}}), ""),
        (says("s3:GetObject", "other/*"), "Policy has invalid resource"),
        (says("s3:GetObject", "bc/*"), "Policy has invalid resource"),
        (says("s3:*") | {"Resource": "*"}, "Policy has invalid resource"),
        (says("s3:*") | {"Resource": "arn:aws:ec2:::b"}, "Policy has invalid resource"),
        (says("s3:GetSomething"), "Policy has invalid action"),
        (says("ec2:*"), "Policy has invalid action"),
        (says("s3:GetObject", "b"), "Action does not apply to any resource(s) in statement"),
        (says("s3:ListBucket", "b/*"), "Action does not apply to any resource(s) in statement"),
        (
            says("s3:ListBucket") | {"Action": ["s3:ListBucket", "s3:GetObject"]},
            "Action does not apply to any resource(s) in statement",
        ),
        (says("s3:GetObject", Condition={"StringEquals": {"s3:nothing": "x"}}), "Policy has an invalid condition key"),
        (says("s3:GetObject", Condition={"StringEquals": {"ec2:Region": "x"}}), "Policy has an invalid condition key"),
        (
            says("s3:GetObject", Condition={"StringEquals": {"s3:prefix": "x"}}),
            "Conditions do not apply to combination of actions and resources in statement",
        ),
    ],
)
def test_a_policy_is_good_for_its_bucket_or_refused_in_the_words_of_s3(statement: Any, message: str) -> None:
    text = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    if not message:
        bucket_policy.check(text, "b")
        return
    with pytest.raises(CloudError) as caught:
        bucket_policy.check(text, "b")
    assert (caught.value.code, caught.value.message) == ("MalformedPolicy", message)


def test_a_policy_has_at_most_20_kib() -> None:
    text = json.dumps({"Version": "2012-10-17", "Statement": [says("s3:GetObject")]})
    bucket_policy.check(text + " " * (bucket_policy.MAX_BYTES - len(text)), "b")
    with pytest.raises(CloudError) as caught:
        bucket_policy.check(text + " " * (bucket_policy.MAX_BYTES - len(text) + 1), "b")
    assert caught.value.code == "PolicyTooLarge"


@pytest.mark.parametrize(
    ("statement", "public"),
    [
        (says("s3:GetObject"), True),
        (says("s3:GetObject", principal={"AWS": "*"}), True),
        (says("s3:GetObject", principal={"AWS": "222222222222"}), False),
        (says("s3:GetObject", effect="Deny"), False),
        (says("s3:GetObject", Condition={"IpAddress": {"aws:SourceIp": ["198.18.0.0/15", "2001:db8::/32"]}}), False),
        (says("s3:GetObject", Condition={"IpAddress": {"aws:SourceIp": ["198.18.0.0/15", "0.0.0.0/1"]}}), True),
        (says("s3:GetObject", Condition={"NotIpAddress": {"aws:SourceIp": "198.18.0.0/15"}}), True),
        (says("s3:GetObject", Condition={"StringEquals": {"aws:PrincipalAccount": "222222222222"}}), False),
        (says("s3:GetObject", Condition={"StringEqualsIfExists": {"aws:PrincipalAccount": "222222222222"}}), True),
        (says("s3:GetObject", Condition={"ForAllValues:StringEquals": {"aws:PrincipalAccount": "2"}}), True),
        (says("s3:GetObject", Condition={"StringLike": {"aws:PrincipalArn": "arn:aws:iam::2*"}}), True),
        (says("s3:GetObject", Condition={"StringEquals": {"aws:PrincipalAccount": "${aws:userid}"}}), True),
        (says("s3:GetObject", Condition={"StringEquals": {"aws:Referer": "http://x/"}}), True),
    ],
)
def test_which_policies_are_public(statement: Any, public: bool) -> None:
    body = json.dumps({"Version": "2012-10-17", "Statement": [statement]}).encode()
    assert bucket_policy.is_public(bucket_policy.read(body)) is public

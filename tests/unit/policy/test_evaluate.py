"""Policies read and evaluated: what applies to whom, and what denies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from common.errors import InvalidArgument
from common.policy.document import parse
from common.policy.evaluate import Request, Verdict, evaluate
from common.policy.principal import Identity

ANN = Identity(account_id="111111111111", arn="arn:aws:iam::111111111111:root", canonical_user_id="a" * 64)
BOB = Identity(
    account_id="222222222222",
    arn="arn:aws:iam::222222222222:user/bob",
    user_id="AIDAQWERTZUIOPASDFGHJ",
    canonical_user_id="b" * 64,
)
NOBODY = Identity()
LOGS = Identity(service="logging.s3.amazonaws.com")
KEY = "arn:aws:s3:::bucket/a/b"


BAD_PRINCIPALS: list[Any] = [
    "111111111111",
    [],
    {},
    {"AWS": []},
    {"AWS": 5},
    {"AWS": "arn:aws:iam::111111111111:*"},
    {"AWS": "arn:aws:iam::1:root"},
    {"AWS": "*11"},
    {"User": "*"},
    {"CanonicalUser": "xyz"},
    {"CanonicalUser": "*"},
    {"Service": "*"},
    {"Federated": ""},
]


def statement(**elements: Any) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": "arn:aws:s3:::bucket/*",
    } | elements


def without(name: str, **elements: Any) -> dict[str, Any]:
    return {key: value for key, value in statement(**elements).items() if key != name}


def said(*statements: Any, who: Identity = BOB, keys: Mapping[str, str] = MappingProxyType({})) -> Verdict:
    """Of GetObject of KEY."""
    policy = parse(json.dumps({"Version": "2012-10-17", "Statement": list(statements)}))
    values = {f"aws:{name}": (value,) for name, value in keys.items()}
    return evaluate(policy, Request(who=who, action="s3:GetObject", resource=KEY, context=lambda key: values.get(key)))


@pytest.mark.parametrize(
    ("principal", "included"),
    [
        ("*", (ANN, BOB, NOBODY, LOGS)),
        ({"AWS": "*"}, (ANN, BOB, NOBODY, LOGS)),
        ({"AWS": "111111111111"}, (ANN,)),
        ({"AWS": "arn:aws:iam::222222222222:root"}, (BOB,)),
        ({"AWS": ["arn:aws:iam::222222222222:user/bob"]}, (BOB,)),
        ({"AWS": ["arn:aws:iam::222222222222:user/rob"]}, ()),
        ({"AWS": "AIDAQWERTZUIOPASDFGHJ"}, (BOB,)),
        ({"CanonicalUser": "a" * 64}, (ANN,)),
        ({"CanonicalUser": ["a" * 64, "b" * 64]}, (ANN, BOB)),
        ({"Service": "logging.s3.amazonaws.com"}, (LOGS,)),
        ({"Federated": "cognito-identity.amazonaws.com"}, ()),
        ({"AWS": "111111111111", "CanonicalUser": "b" * 64}, (ANN, BOB)),
    ],
)
def test_a_statement_speaks_of_its_principals_and_a_denial_of_all_others(
    principal: Any, included: tuple[Identity, ...]
) -> None:
    others = without("Principal", NotPrincipal=principal, Effect="Deny")
    for who in (ANN, BOB, NOBODY, LOGS):
        assert (said(statement(Principal=principal), who=who) is Verdict.ALLOWED) is (who in included)
        assert (said(others, who=who) is Verdict.DENIED) is (who not in included)


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("s3:GetObject", True),
        ("S3:getobject", True),
        ("s3:Get*", True),
        ("*", True),
        ("s3:GetObjec?", True),
        ("s3:GetObjectAcl", False),
    ],
)
def test_actions_match_without_case_and_notaction_is_all_others(pattern: str, matching: bool) -> None:
    assert (said(statement(Action=pattern)) is Verdict.ALLOWED) is matching
    assert (said(statement(Action=["s3:PutObject", pattern])) is Verdict.ALLOWED) is matching
    assert (said(without("Action", NotAction=pattern)) is Verdict.ALLOWED) is not matching


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("arn:aws:s3:::bucket/a/b", True),
        ("arn:aws:s3:::bucket/*", True),
        ("arn:aws:s3:::bucket/a/?", True),
        ("arn:aws:s3:::bucket/${aws:username}/*", True),
        ("arn:aws:s3:::bucket/${aws:none}*", False),
        ("arn:aws:s3:::bucket/A/b", False),
        ("arn:aws:s3:::bucket", False),
    ],
)
def test_resources_match_with_case_and_notresource_is_all_others(pattern: str, matching: bool) -> None:
    assert (said(statement(Resource=pattern), keys={"username": "a"}) is Verdict.ALLOWED) is matching
    others = without("Resource", NotResource=pattern, Effect="Deny")
    assert (said(others, keys={"username": "a"}) is Verdict.DENIED) is not matching


def test_others_than_an_unknown_resource_are_denied_but_never_allowed() -> None:
    unknown = "arn:aws:s3:::bucket/${aws:none}/*"
    assert said(without("Resource", NotResource=unknown)) is Verdict.SILENT
    assert said(without("Resource", NotResource=unknown, Effect="Deny")) is Verdict.DENIED


def test_a_denial_wins_wherever_it_stands() -> None:
    deny = statement(Effect="Deny", Action="s3:*")
    assert said(statement()) is Verdict.ALLOWED
    assert said(statement(), deny) is Verdict.DENIED
    assert said(deny, statement()) is Verdict.DENIED
    assert said(statement(Action="s3:PutObject")) is Verdict.SILENT


def test_every_line_of_a_condition_must_hold() -> None:
    block = {"StringEquals": {"aws:a": "1", "aws:b": "2"}, "Bool": {"aws:c": "true"}}
    assert said(statement(Condition=block), keys={"a": "1", "b": "2", "c": "true"}) is Verdict.ALLOWED
    for name in "abc":
        keys = {"a": "1", "b": "2", "c": "true", name: "no"}
        assert said(statement(Condition=block), keys=keys) is Verdict.SILENT


def test_numbers_and_booleans_in_a_condition_need_no_quotes() -> None:
    block = {"NumericLessThan": {"aws:n": 10}, "Bool": {"aws:b": [True]}}
    assert said(statement(Condition=block), keys={"n": "9", "b": "true"}) is Verdict.ALLOWED


def test_the_older_version_and_a_single_statement_are_read() -> None:
    for version in ({}, {"Version": "2008-10-17"}):
        policy = parse(
            json.dumps({"Id": "x", "Statement": statement(Resource="arn:aws:s3:::bucket/${aws:x}"), **version})
        )
        request = Request(
            who=BOB, action="s3:GetObject", resource="arn:aws:s3:::bucket/${aws:x}", context=lambda _: None
        )
        assert evaluate(policy, request) is Verdict.ALLOWED


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (without("Effect"), "Missing required field Effect"),
        (without("Principal"), "Missing required field Principal"),
        (without("Action"), "Missing required field Action"),
        (without("Resource"), "Missing required field Resource"),
        (statement(Effect="allow"), "Invalid effect: allow"),
        (statement(Effect=["Allow"]), "Invalid effect: ['Allow']"),
        (statement(NotAction="s3:*"), "Invalid policy syntax."),
        (statement(NotPrincipal="*"), "Invalid policy syntax."),
        (statement(Sid=5), "Invalid policy syntax."),
        (statement(Condition=[]), "Invalid policy syntax."),
        (statement(Condition={"Bool": "x"}), "Invalid policy syntax."),
        (statement(Condition={"StringEquals": {"aws:a": []}}), "Invalid policy syntax."),
        (statement(Condition={"StringEquals": {"aws:a": {}}}), "Invalid policy syntax."),
        (statement(Condition={"StringIs": {"aws:a": "x"}}), "Invalid Condition type : StringIs"),
        (statement(Nothing=1), "Unknown field Nothing"),
        (statement(Action=[]), "Policy has invalid action"),
        (statement(Action=5), "Policy has invalid action"),
        (statement(Resource=""), "Policy has invalid resource"),
        (statement(Resource={}), "Policy has invalid resource"),
        (without("Principal", NotPrincipal="*"), "Allow with NotPrincipal is not allowed."),
        ("x", "Invalid policy syntax."),
    ]
    + [(statement(Principal=principal), "Invalid principal in policy") for principal in BAD_PRINCIPALS],
)
def test_a_wrong_statement_is_refused_in_the_words_of_s3(element: Any, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(json.dumps({"Version": "2012-10-17", "Statement": [element]}))
    assert (caught.value.code, caught.value.message) == ("MalformedPolicy", message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Policies must be valid JSON and the first byte must be '{'"),
        (' {"Statement": []}', "Policies must be valid JSON and the first byte must be '{'"),
        ("[]", "Policies must be valid JSON and the first byte must be '{'"),
        ("{", "This policy contains invalid Json"),
        ('{"Statement": ' + "[" * 19_000, "This policy contains invalid Json"),
        ('{"Id": "a", "Id": "b", "Statement": []}', "This policy contains invalid Json"),
        ('{"Version": "2012-10-17"}', "Missing required field Statement"),
        ('{"Version": "2012-10-17", "Statement": []}', "Could not parse the policy: Statement is empty!"),
        ('{"Version": "2020-01-01", "Statement": []}', "The policy must contain a valid version string"),
        ('{"Version": ["2012-10-17"], "Statement": []}', "The policy must contain a valid version string"),
        ('{"Id": {}, "Statement": []}', "Invalid policy syntax."),
        ('{"Statements": []}', "Unknown field Statements"),
    ],
)
def test_a_wrong_document_is_refused_in_the_words_of_s3(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(text)
    assert (caught.value.code, caught.value.message) == ("MalformedPolicy", message)


def test_two_statements_of_one_sid_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="must be unique"):
        said(statement(Sid="a"), statement(Sid="a"))
    assert said(statement(Sid="a"), statement(Sid="b"), statement(), statement()) is Verdict.ALLOWED

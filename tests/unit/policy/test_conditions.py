"""Condition operators, over what a request may have for a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from common.errors import InvalidArgument
from common.policy.condition import condition
from common.policy.operators import OPERATORS
from common.policy.pattern import Context, folded


def context_of(values: Mapping[str, Sequence[str]]) -> Context:
    return {folded(key): tuple(found) for key, found in values.items()}.get


def holds(operator: str, wanted: str | list[str], *found: str, absent: bool = False) -> bool:
    values = [wanted] if isinstance(wanted, str) else wanted
    context = context_of({} if absent else {"k": found} | {"aws:username": ["ann"], "s3:many": ["x", "y"]})
    return condition(operator, "K", values, variables=True).holds(context)


CASES = [
    ("StringEquals", "a", "a", "A"),
    ("StringEquals", "a*", "a*", "ab"),
    ("StringEquals", "${aws:username}", "ann", "${aws:username}"),
    ("StringEquals", "${*}${?}${$}", "*?$", "abc"),
    ("StringEquals", "${aws:none, 'x y'}", "x y", ""),
    ("StringEqualsIgnoreCase", "AbÉ", "aBé", "b"),
    ("StringLike", "a*c?", "abbbcd", "abc"),
    ("StringLike", "*", "", None),
    ("StringLike", "home/${aws:username}/*", "home/ann/x", "home/bob/x"),
    ("StringLike", "a${*}b", "a*b", "axb"),
    ("StringLike", "a\nb*", "a\nb\nc", "ab"),
    ("NumericEquals", "10", "10.0", "11"),
    ("NumericLessThan", "10", "9.5", "10"),
    ("NumericLessThanEquals", "10", "10", "10.01"),
    ("NumericGreaterThan", "-1", "0", "-1"),
    ("NumericGreaterThanEquals", "10", "10", "ten"),
    ("DateEquals", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", "2026-01-01T00:00:01Z"),
    ("DateEquals", "2026", "2026-01-01", "2026-01-02"),
    ("DateEquals", "1767225600", "2026-01", "2025-12"),
    ("DateLessThan", "2026-01-01", "2025-12-31T23:59:59Z", "2026-01-01T00:00:00Z"),
    ("DateLessThanEquals", "2026-01-01", "2026-01-01", "soon"),
    ("DateGreaterThan", "2026-01-01", "2026-01-01T00:00:00.001Z", "2026-01-01"),
    ("DateGreaterThanEquals", "2026-01-01", "2026-01-01", "2025-12-31"),
    ("Bool", "true", "True", "false"),
    ("Bool", "false", "false", "maybe"),
    ("BinaryEquals", "aGk=", "aGk=", "aGo="),
    ("IpAddress", "198.18.0.0/15", "198.19.255.255", "198.20.0.0"),
    ("IpAddress", "198.18.0.1", "::ffff:198.18.0.1", "198.18.0.2"),
    ("IpAddress", "2001:db8::/32", "2001:db8:1::5", "198.18.0.1"),
    ("IpAddress", "0.0.0.0/0", "1.2.3.4", "nowhere"),
    (
        "ArnEquals",
        "arn:aws:iam::111111111111:*",
        "arn:aws:iam::111111111111:user/x:y",
        "arn:aws:iam::222222222222:root",
    ),
    (
        "ArnLike",
        "arn:aws:*::111111111111:role/?",
        "arn:aws:iam::111111111111:role/r",
        "arn:aws:iam:x:111111111111:role/r",
    ),
    ("ArnLike", "arn:*:root", None, "arn:aws:iam::111111111111:root"),
    ("ArnLike", "arn:aws:iam::1:user/${aws:username}", "arn:aws:iam::1:user/ann", "arn:aws:iam::1:user/bob"),
]
OPPOSITES = {
    "StringEquals": "StringNotEquals",
    "StringEqualsIgnoreCase": "StringNotEqualsIgnoreCase",
    "StringLike": "StringNotLike",
    "NumericEquals": "NumericNotEquals",
    "DateEquals": "DateNotEquals",
    "IpAddress": "NotIpAddress",
    "ArnEquals": "ArnNotEquals",
    "ArnLike": "ArnNotLike",
}


@pytest.mark.parametrize(("operator", "wanted", "match", "other"), CASES)
def test_an_operator_holds_for_its_values_alone_and_its_opposite_for_all_others(
    operator: str, wanted: str, match: str | None, other: str | None
) -> None:
    for value, expected in ((match, True), (other, False)):
        if value is None:
            continue
        assert holds(operator, wanted, value) is expected
        if opposite := OPPOSITES.get(operator):
            assert holds(opposite, wanted, value) is not expected


def test_every_operator_has_a_case() -> None:
    assert {case[0] for case in CASES} | set(OPPOSITES.values()) == set(OPERATORS)


def test_several_wanted_values_are_alternatives() -> None:
    assert holds("StringEquals", ["a", "b"], "b")
    assert not holds("StringEquals", ["a", "b"], "c")
    assert not holds("StringNotEquals", ["a", "b"], "b")
    assert holds("StringNotEquals", ["a", "b"], "c")


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("StringEquals", False),
        ("StringEqualsIfExists", True),
        ("StringNotEquals", True),
        ("StringNotEqualsIfExists", True),
        ("Bool", False),
        ("BoolIfExists", True),
        ("NotIpAddress", True),
        ("ForAllValues:StringEquals", True),
        ("ForAllValues:StringNotEquals", True),
        ("ForAnyValue:StringEquals", False),
        ("ForAnyValue:StringNotEquals", False),
        ("ForAnyValue:StringEqualsIfExists", True),
    ],
)
def test_what_holds_for_a_request_without_the_key(operator: str, expected: bool) -> None:
    wanted = {"B": "true", "N": "198.18.0.0/15"}.get(operator[0], "a")
    assert holds(operator, wanted, absent=True) is expected


@pytest.mark.parametrize(
    ("operator", "found", "expected"),
    [
        ("ForAllValues:StringEquals", ("a", "b"), True),
        ("ForAllValues:StringEquals", ("a", "c"), False),
        ("ForAnyValue:StringEquals", ("c", "a"), True),
        ("ForAnyValue:StringEquals", ("c", "d"), False),
        ("ForAllValues:StringNotEquals", ("c", "d"), True),
        ("ForAllValues:StringNotEquals", ("c", "a"), False),
        ("ForAnyValue:StringNotEquals", ("c", "a"), True),
        ("ForAnyValue:StringNotEquals", ("a", "b"), False),
        ("StringEquals", ("c", "a"), True),
        ("StringNotEquals", ("c", "a"), False),
    ],
)
def test_quantifiers_over_several_values(operator: str, found: tuple[str, ...], expected: bool) -> None:
    assert holds(operator, ["a", "b"], *found) is expected


def test_null_asks_whether_the_key_is_there() -> None:
    assert holds("Null", "true", absent=True)
    assert not holds("Null", "true", "x")
    assert holds("Null", "false", "x")
    assert not holds("Null", "false", absent=True)


def test_a_variable_without_one_value_matches_nothing() -> None:
    assert not holds("StringLike", "${aws:none}*", "")
    assert not holds("StringEquals", "${s3:many}", "x")
    assert holds("StringNotEquals", "${aws:none}", "x")


def test_variables_are_unknown_in_the_older_version() -> None:
    old = condition("StringEquals", "k", ["${aws:username}"], variables=False)
    assert old.holds(context_of({"k": ["${aws:username}"], "aws:username": ["ann"]}))
    assert not old.holds(context_of({"k": ["ann"], "aws:username": ["ann"]}))


def test_names_of_keys_have_no_case_but_tags_do() -> None:
    one = condition("StringEquals", "S3:ExistingObjectTag/Team", ["x"], variables=True)
    assert one.holds(context_of({"s3:existingobjecttag/Team": ["x"]}))
    assert not one.holds(context_of({"s3:existingobjecttag/team": ["x"]}))


@pytest.mark.parametrize(
    ("operator", "wanted", "message"),
    [
        ("Equals", "a", "Invalid Condition type : Equals"),
        ("NullIfExists", "true", "Invalid Condition type : NullIfExists"),
        ("ForAllValues:Null", "true", "Invalid Condition type : ForAllValues:Null"),
        ("ForEveryValue:StringEquals", "a", "Invalid Condition type : ForEveryValue:StringEquals"),
        ("IpAddress", "300.1.1.1", "Invalid IP address in Conditions"),
        ("NumericEquals", "ten", "Invalid policy syntax."),
        ("NumericEquals", "NaN", "Invalid policy syntax."),
        ("DateEquals", "2026-13-01", "Invalid policy syntax."),
        ("Bool", "yes", "Invalid policy syntax."),
        ("Null", "0", "Invalid policy syntax."),
        ("BinaryEquals", "?", "Invalid policy syntax."),
    ],
)
def test_a_wrong_operator_or_value_is_refused(operator: str, wanted: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match="^" + message.replace(".", r"\.") + "$") as caught:
        condition(operator, "k", [wanted], variables=True)
    assert caught.value.code == "MalformedPolicy"


def test_a_pattern_of_many_wildcards_costs_no_more_than_its_length_times_the_value() -> None:
    one = condition("StringLike", "k", ["*a" * 200 + "b"], variables=False)
    assert not one.holds(context_of({"k": ["a" * 5000]}))

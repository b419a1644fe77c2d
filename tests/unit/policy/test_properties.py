"""What holds for every policy and every request."""

from __future__ import annotations

import contextlib
import json
from fnmatch import fnmatchcase
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InvalidArgument
from common.policy.document import parse
from common.policy.evaluate import Request, Verdict, evaluate
from common.policy.operators import OPERATORS
from common.policy.pattern import pattern
from common.policy.principal import Identity

PRINCIPALS = st.sampled_from(["*", {"AWS": "111111111111"}, {"AWS": ["222222222222"]}, {"CanonicalUser": "a" * 64}])
ACTIONS = st.sampled_from(["s3:*", "s3:Get*", "s3:GetObject", "s3:PutObject", ["s3:PutObject", "s3:Get?bject"]])
RESOURCES = st.sampled_from(["*", "k", "${aws:x}", "${aws:x, 'k'}"]).map("arn:aws:s3:::b/{}".format)
WORDS = st.sampled_from(
    ["*", "x", "k", "true", "5", "2026-01-01", "198.18.0.0/15", "198.18.0.1", "aGk=", "arn:aws:s3:::b"]
) | st.just("")
OPERATOR = st.builds(
    lambda quantifier, name, suffix: quantifier + name + suffix,
    st.sampled_from(["", "", "ForAllValues:", "ForAnyValue:"]),
    st.sampled_from([*OPERATORS, "Null"]),
    st.sampled_from(["", "", "IfExists"]),
)
KEYS = st.sampled_from(["aws:x", "AWS:Y", "s3:z/T"])
LINES = st.dictionaries(KEYS, WORDS | st.lists(WORDS, max_size=3), max_size=2)
CONDITIONS = st.dictionaries(OPERATOR, LINES, max_size=2)


def nothing(_: str) -> None:
    """A request without any key."""


@st.composite
def statements(draw: st.DrawFn) -> dict[str, Any]:
    effect = draw(st.sampled_from(["Allow", "Deny"]))
    no = st.sampled_from(["", "Not"])
    made = {
        "Effect": effect,
        ("" if effect == "Allow" else draw(no)) + "Principal": draw(PRINCIPALS),
        draw(no) + "Action": draw(ACTIONS),
        draw(no) + "Resource": draw(RESOURCES),
    }
    return made | {"Condition": draw(CONDITIONS)} if draw(st.booleans()) else made


@st.composite
def requests(draw: st.DrawFn) -> Request:
    who = draw(
        st.sampled_from(
            [
                Identity(),
                Identity(account_id="111111111111", arn="arn:aws:iam::111111111111:root", canonical_user_id="a" * 64),
                Identity(account_id="222222222222", arn="arn:aws:iam::222222222222:user/x", canonical_user_id="b" * 64),
            ]
        )
    )
    values = st.lists(WORDS | st.text(max_size=5), max_size=3).map(tuple)
    context = draw(st.dictionaries(st.sampled_from(["aws:x", "aws:y", "s3:z/T"]), values))
    return Request(
        who=who,
        action=draw(st.sampled_from(["s3:GetObject", "s3:PutObject", "s3:ListBucket"])),
        resource=draw(st.sampled_from(["arn:aws:s3:::b", "arn:aws:s3:::b/k", "arn:aws:s3:::b/x"])),
        context=context.get,
    )


def verdict(written: list[dict[str, Any]], request: Request) -> Verdict | None:
    """None: no policy, as one of the values is no good for its operator."""
    if not written:
        return Verdict.SILENT
    try:
        policy = parse(json.dumps({"Version": "2012-10-17", "Statement": written}))
    except InvalidArgument:
        return None
    return evaluate(policy, request)


@settings(max_examples=150, deadline=None)
@given(st.lists(statements(), max_size=4), requests(), st.randoms(use_true_random=False))
def test_a_denial_wins_an_allowance_takes_nothing_and_order_means_nothing(
    written: list[dict[str, Any]], request: Request, random: Any
) -> None:
    whole = verdict(written, request)
    if whole is None:
        return
    each = [verdict([one], request) for one in written]
    expected = (
        Verdict.DENIED if Verdict.DENIED in each else Verdict.ALLOWED if Verdict.ALLOWED in each else Verdict.SILENT
    )
    assert whole is expected
    shuffled = list(written)
    random.shuffle(shuffled)
    assert verdict(shuffled, request) is whole


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "Version",
                        "Statement",
                        "Effect",
                        "Principal",
                        "Action",
                        "Resource",
                        "Condition",
                        "AWS",
                        "DateEquals",
                    ]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(["Principal", "Action", "Resource", "Condition", "Effect", "Sid", "Statement", "Version"]),
)
def test_no_document_breaks_the_parser(value: Any, place: str) -> None:
    good = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::b"}
    for document in (value, {"Statement": [good | {place: value}]}, {"Statement": good} | {place: value}):
        with contextlib.suppress(InvalidArgument):
            evaluate(parse(json.dumps(document)), Request(who=Identity(), action="s3:X", resource="r", context=nothing))


@settings(max_examples=150, deadline=None)
@given(st.text("ab*?.$", max_size=12), st.text("ab.$", max_size=20))
def test_wildcards_match_as_a_shell_would(glob: str, value: str) -> None:
    assert pattern(glob, variables=False).matches(value, nothing) is fnmatchcase(value, glob)


@settings(max_examples=100, deadline=None)
@given(st.text("ab*?${}:', ", max_size=16), st.text("ab*?$", max_size=8))
def test_no_pattern_breaks_and_the_escaped_one_is_itself(text: str, value: str) -> None:
    pattern(text, variables=True).matches(value, nothing)
    escaped = "".join(f"${{{one}}}" if one in "*?$" else one for one in value)
    assert pattern(escaped, variables=True).matches(value, nothing)
    assert not pattern(escaped, variables=True).matches(value + "x", nothing)

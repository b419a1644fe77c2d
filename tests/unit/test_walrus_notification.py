"""Which notifications there may be, and which event concerns whom."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CloudError
from mallee.s3.v1.notification_pb2 import NotificationConfiguration
from services.walrus.notification import EVENTS, Rule, checked, rules_of

ARN = "arn:aws:sqs:us-east-1:123456789012:hook"
TARGETS = {"hook", "other"}


def queue(*events: str, arn: str = ARN, id_: str = "", **filters: str) -> dict[str, Any]:
    rules = [{"name": name, "value": value} for name, value in filters.items()]
    return {"id": id_, "queue_arn": arn, "events": events, "filter": {"key": {"filter_rules": rules}}}


def configured(*queues: dict[str, Any], **others: Any) -> NotificationConfiguration:
    return ParseDict({"queue_configurations": list(queues), **others}, NotificationConfiguration())


def test_all_three_kinds_of_targets_are_names_of_the_operators() -> None:
    given = configured(
        queue("s3:ObjectCreated:Put", prefix="a"),
        topic_configurations=[
            {"topic_arn": "arn:aws:sns:us-east-1:123456789012:other", "events": ["s3:ObjectRemoved:*"], "id": "t"}
        ],
        lambda_function_configurations=[
            {
                "lambda_function_arn": "arn:aws:lambda:us-east-1:123456789012:function:hook",
                "events": ["s3:ObjectTagging:*"],
            }
        ],
    )
    found = list(rules_of(checked(given, TARGETS)))
    assert [rule.target for rule in found] == ["other", "hook", "hook"]
    assert found[0].id == "t"
    assert all(rule.id for rule in found)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (queue("s3:ObjectCreated:Eat"), "not supported"),
        (queue("s3:ReducedRedundancyLostObject"), "not supported"),
        (queue("s3:ObjectCreated:Put", arn="hook"), "not well formed"),
        (queue("s3:ObjectCreated:Put", arn="arn:aws:sqs:us-east-1:123456789012:unknown"), "Unable to validate"),
        (queue("s3:ObjectCreated:Put", infix="x"), "either prefix or suffix"),
        (queue("s3:ObjectCreated:Put", prefix="x", Prefix="y"), "more than one"),
        (queue("s3:ObjectCreated:Put", prefix="x" * 1025), "cannot exceed"),
    ],
)
def test_what_cannot_be_told_is_refused(part: dict[str, Any], words: str) -> None:
    with pytest.raises(CloudError, match=words) as refused:
        checked(configured(part), TARGETS)
    assert refused.value.code == "InvalidArgument"


def test_no_event_of_a_key_is_told_twice() -> None:
    for one, two in (
        (queue("s3:ObjectCreated:*"), queue("s3:ObjectCreated:Put")),
        (queue("s3:ObjectCreated:Put", prefix="a/"), queue("s3:ObjectCreated:Put", prefix="a/b/")),
        (queue("s3:ObjectCreated:Put", suffix=".jpg"), queue("s3:ObjectCreated:Put", prefix="a/")),
    ):
        with pytest.raises(CloudError, match="ambiguously"):
            checked(configured(one, two), TARGETS)
    for one, two in (
        (queue("s3:ObjectCreated:*"), queue("s3:ObjectRemoved:*")),
        (queue("s3:ObjectCreated:*", prefix="a/"), queue("s3:ObjectCreated:*", prefix="b/")),
        (queue("s3:ObjectCreated:*", suffix=".a"), queue("s3:ObjectCreated:*", suffix=".b")),
    ):
        checked(configured(one, two), TARGETS)
    same = [queue("s3:ObjectCreated:*", id_="x"), queue("s3:ObjectRemoved:*", id_="x")]
    with pytest.raises(CloudError, match="Same ID"):
        checked(configured(*same), TARGETS)


_RULES = st.builds(
    Rule,
    id=st.just("r"),
    target=st.just("t"),
    events=st.sets(st.sampled_from([*sorted(EVENTS), "s3:ObjectCreated:*"]), min_size=1, max_size=2).map(frozenset),
    prefix=st.text("ab", max_size=2),
    suffix=st.text("ab", max_size=2),
)


@given(_RULES, _RULES, st.sampled_from(sorted(EVENTS)), st.text("ab", max_size=4))
def test_two_rules_that_concern_one_event_overlap(one: Rule, two: Rule, event: str, key: str) -> None:
    if one.concerns(event, key) and two.concerns(event, key):
        assert one.overlaps(two)

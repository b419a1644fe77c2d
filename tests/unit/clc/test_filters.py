"""EC2's filters: and between filters, or between values, wildcards, and no unknown ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidArgument
from mallee.ec2.v1.filter_pb2 import Filter
from services.clc.filters import FilterTable


@dataclass
class Thing:
    name: str = ""
    number: int = 0
    good: bool = False
    groups: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


TABLE = FilterTable[Thing](
    "test.DescribeThings",
    {"name": lambda t: t.name, "number": lambda t: t.number, "good": lambda t: t.good, "group": lambda t: t.groups},
    tags=lambda t: t.tags,
)


def matches(thing: Thing, **filters: list[str]) -> bool:
    return TABLE.matcher([Filter(name=n.replace("_", ":"), values=v) for n, v in filters.items()])(thing)


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("web-*", "web-1", True),
        ("web-?", "web-12", False),
        ("*", "", True),
        (r"a\*b", "a*b", True),
        (r"a\*b", "axb", False),
        ("Web-*", "web-1", False),
        ("a.c", "abc", False),
        ("a[b]", "a[b]", True),
    ],
)
def test_wildcards(pattern: str, value: str, expected: bool) -> None:
    assert matches(Thing(name=value), name=[pattern]) is expected


def test_values_are_alternatives_and_filters_all_hold() -> None:
    thing = Thing(name="a", number=3, good=True, groups=["x", "y"])
    assert matches(thing, name=["b", "a"], number=["3"], good=["true"], group=["y"])
    assert not matches(thing, name=["b", "a"], number=["4"])
    assert not matches(thing, name=[])


def test_tags_by_key_by_value_and_by_both() -> None:
    thing = Thing(tags={"Role": "web", "Stage": "prod"})
    assert matches(thing, tag_Role=["web"])
    assert not matches(thing, tag_Role=["prod"])
    assert TABLE.matcher([Filter(name="tag-key", values=["Stage"])])(thing)
    assert TABLE.matcher([Filter(name="tag-value", values=["prod"])])(thing)


def test_an_unknown_filter_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="The filter 'colour' is invalid"):
        matches(Thing(), colour=["red"])


@given(st.text(), st.text())
def test_a_value_without_wildcards_matches_itself_alone(wanted: str, value: str) -> None:
    if not any(c in wanted for c in "*?\\"):
        assert matches(Thing(name=value), name=[wanted]) is (wanted == value)


@given(wanted=st.text("ab*?\\", max_size=8), value=st.text("ab*?\\", max_size=8))
def test_wildcards_match_as_trying_every_way_does(wanted: str, value: str) -> None:
    thing = Thing(name=value)
    assert matches(thing, name=[wanted]) == _every_way(wanted, value)


def _every_way(wanted: str, value: str) -> bool:
    if not wanted:
        return not value
    match wanted[0], wanted[1:]:
        case "*", rest:
            return any(_every_way(rest, value[at:]) for at in range(len(value) + 1))
        case "?", rest:
            return bool(value) and _every_way(rest, value[1:])
        case "\\", escaped if escaped:
            return value[:1] == escaped[0] and _every_way(escaped[1:], value[1:])
        case plain, rest:
            return value[:1] == plain and _every_way(rest, value[1:])


@pytest.mark.timeout(5)
def test_a_value_made_to_backtrack_is_matched_at_once() -> None:
    assert not matches(Thing(name="a" * 256), name=["*a" * 100 + "b"])

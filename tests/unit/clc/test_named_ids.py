"""Which instances the filters of DescribeInstances leave to look at."""

from __future__ import annotations

import pytest

from mallee.ec2.v1.filter_pb2 import Filter
from services.clc.instance.filters import named_ids


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({}, None),
        ({"instance-type": ["i-1"]}, None),
        ({"instance-id": ["i-1", "i-2"]}, {"i-1", "i-2"}),
        ({"instance-id": ["i-1"], "tag:Name": ["web"]}, {"i-1"}),
        # A pattern may match any; an exact one beside it does not narrow it.
        ({"instance-id": ["i-*", "i-1"]}, None),
        ({"instance-id": ["i-?"]}, None),
        ({"instance-id": []}, set()),
    ],
)
def test_exact_ids_alone_name_the_instances(filters: dict[str, list[str]], left: set[str] | None) -> None:
    assert named_ids([Filter(name=name, values=values) for name, values in filters.items()]) == left


def test_of_two_filters_both_must_match() -> None:
    filters = [Filter(name="instance-id", values=["i-1", "i-2"]), Filter(name="instance-id", values=["i-2", "i-3"])]
    assert named_ids(filters) == {"i-2"}

"""Pages: whole, in order, and none larger than one answer holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidArgument
from mallee.ec2.v1.instance_pb2 import DescribeInstancesRequest
from mallee.ec2.v1.tag_pb2 import DescribeTagsRequest
from services.clc.paging import MOST_BYTES, page, refuse_pages_of_named

THIRD = MOST_BYTES // 3


def read(sizes: list[int], max_results: int | None) -> list[list[str]]:
    """All pages of items that are named by their place."""
    items = [f"{place:03}" for place in range(len(sizes))]
    pages: list[list[str]] = []
    token: str | None = None
    while token is not None or not pages:
        request = DescribeInstancesRequest(next_token=token)
        shown, token = page(
            items, key=str, request=request, max_results=max_results, size_bytes=lambda item: sizes[int(item)]
        )
        pages.append(shown)
    return pages


@given(st.lists(st.integers(0, 2 * MOST_BYTES), max_size=40), st.none() | st.integers(1, 10))
def test_every_item_is_shown_once_in_its_place(sizes: list[int], max_results: int | None) -> None:
    pages = read(sizes, max_results)
    assert [item for shown in pages for item in shown] == [f"{place:03}" for place in range(len(sizes))]
    for shown in pages:
        assert max_results is None or len(shown) <= max_results
        # One that is larger than a page by itself stands alone.
        assert len(shown) <= 1 or sum(sizes[int(item)] for item in shown) <= MOST_BYTES


def test_without_a_limit_one_answer_holds_all_that_fits() -> None:
    assert read([1] * 40, None) == [[f"{place:03}" for place in range(40)]]
    assert [len(shown) for shown in read([THIRD] * 7, None)] == [3, 3, 1]


_, TOKEN = page("ab", key=str, request=DescribeInstancesRequest(), max_results=1)


@pytest.mark.parametrize(
    "request_",
    [
        DescribeInstancesRequest(next_token="not ours"),
        DescribeTagsRequest(next_token=TOKEN),
        DescribeInstancesRequest(next_token=TOKEN, instance_ids=["i-1"]),
    ],
)
def test_a_token_of_somebody_elses_is_refused(request_: Any) -> None:
    with pytest.raises(InvalidArgument) as refused:
        page("ab", key=str, request=request_, max_results=5)
    assert refused.value.code == "InvalidNextToken"


def test_what_is_named_is_in_one_answer_unless_it_is_too_large() -> None:
    names = ["i-1", "i-2"]
    asked = DescribeInstancesRequest(instance_ids=names)
    _, rest = page(names, key=str, request=asked, max_results=None, size_bytes=lambda _: MOST_BYTES)
    asked.next_token = rest or ""
    refuse_pages_of_named(asked, names, "instancesSet")
    assert page(names, key=str, request=asked, max_results=None) == (["i-2"], None)
    for more in ({"next_token": TOKEN}, {"max_results": 5}):
        with pytest.raises(InvalidArgument) as refused:
            refuse_pages_of_named(DescribeInstancesRequest(instance_ids=names, **more), names, "instancesSet")
        assert refused.value.code == "InvalidParameterCombination"

"""Listings of the embedded engines, page by page, against what a plain sorted list says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mallee.s3.v1 import listing_pb2
from services.walrus import listing
from services.walrus.store import Store
from tests.walrus_store import ALICE, make_bucket, opened_store, put_bytes, refused

KEYS = [
    "a",
    "a/",
    "a/1",
    "a/2/x",
    "a/2/y",
    "a0",
    "b//",
    "b//c",
    "b/c",
    "ä",
    "z",
    "\U0001f600",
    *(f"m/{n:03}" for n in range(40)),
]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path / "walrus") as store:
        await make_bucket(store)
        for key in KEYS:
            await put_bytes(store, key, b"")
        yield store


def expected(prefix: str, delimiter: str) -> list[str]:
    """Entries in byte order; common prefixes among them."""
    names: dict[bytes, None] = {}
    for key in sorted(key.encode() for key in KEYS if key.startswith(prefix)):
        at = key.find(delimiter.encode(), len(prefix.encode())) if delimiter else -1
        names[key[: at + len(delimiter.encode())] if at >= 0 else key] = None
    return [name.decode() for name in names]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("delimiter", ["", "/", "/c"])
@pytest.mark.parametrize("prefix", ["", "a", "a/", "b/", "m/", "nothing"])
async def test_pages_make_up_the_whole(store: Store, prefix: str, delimiter: str, size: int) -> None:
    wanted = expected(prefix, delimiter)
    assert await _all_v1(store, prefix, delimiter, size) == wanted
    assert await _all_v2(store, prefix, delimiter, size) == wanted


async def _all_v2(store: Store, prefix: str, delimiter: str, size: int) -> list[str]:
    seen: list[str] = []
    request = listing_pb2.ListObjectsV2Request(bucket="bucket", prefix=prefix, delimiter=delimiter, max_keys=size)
    while True:
        page = await listing.list_objects_v2(store, request, ALICE)
        seen += _entries(page)
        assert page.key_count == len(page.contents) + len(page.common_prefixes) <= size
        if not page.is_truncated:
            return seen
        request.continuation_token = page.next_continuation_token


async def _all_v1(store: Store, prefix: str, delimiter: str, size: int) -> list[str]:
    seen: list[str] = []
    request = listing_pb2.ListObjectsRequest(bucket="bucket", prefix=prefix, delimiter=delimiter, max_keys=size)
    while True:
        page = await listing.list_objects(store, request, ALICE)
        seen += _entries(page)
        if not page.is_truncated:
            return seen
        assert bool(delimiter) == page.HasField("next_marker")
        request.marker = page.next_marker or page.contents[-1].key


def _entries(page: listing_pb2.ListObjectsOutput | listing_pb2.ListObjectsV2Output) -> list[str]:
    names = [one.key for one in page.contents] + [one.prefix for one in page.common_prefixes]
    return sorted(names, key=str.encode)


async def test_start_after_is_exclusive_and_yields_to_the_token(store: Store) -> None:
    request = listing_pb2.ListObjectsV2Request(bucket="bucket", start_after="a/2/x", max_keys=2)
    page = await listing.list_objects_v2(store, request, ALICE)
    assert [one.key for one in page.contents] == ["a/2/y", "a0"]
    request.continuation_token = page.next_continuation_token
    page = await listing.list_objects_v2(store, request, ALICE)
    assert [one.key for one in page.contents] == ["b//", "b//c"]


async def test_names_go_out_as_they_are_and_the_wish_for_an_encoding_with_them(store: Store) -> None:
    request = listing_pb2.ListObjectsV2Request(bucket="bucket", encoding_type="url", prefix="ä")
    page = await listing.list_objects_v2(store, request, ALICE)
    assert (page.prefix, page.contents[0].key, page.encoding_type) == ("ä", "ä", "url")


async def test_owners_are_shown_by_v1_and_by_v2_when_asked(store: Store) -> None:
    v1 = await listing.list_objects(store, listing_pb2.ListObjectsRequest(bucket="bucket", max_keys=1), ALICE)
    assert v1.contents[0].owner.id == ALICE.canonical_user_id
    request = listing_pb2.ListObjectsV2Request(bucket="bucket", max_keys=1)
    assert not (await listing.list_objects_v2(store, request, ALICE)).contents[0].HasField("owner")
    request.fetch_owner = True
    assert (await listing.list_objects_v2(store, request, ALICE)).contents[0].owner.id == ALICE.canonical_user_id


async def test_nothing_asked_is_nothing_truncated_and_nonsense_is_refused(store: Store) -> None:
    page = await listing.list_objects_v2(store, listing_pb2.ListObjectsV2Request(bucket="bucket", max_keys=0), ALICE)
    assert (page.is_truncated, page.key_count) == (False, 0)
    for members in ({"max_keys": -1}, {"continuation_token": "?"}, {"encoding_type": "html"}, {"encoding_type": ""}):
        request = listing_pb2.ListObjectsV2Request(bucket="bucket", **members)
        await refused("InvalidArgument", listing.list_objects_v2(store, request, ALICE))

"""What every index engine of Walrus promises about versions (services/walrus/drivers/base.py)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import CloudError
from services.walrus.drivers.base import BlobId, Bucket, Index, Object, Scan, Single, Summary
from services.walrus.drivers.versions import (
    NULL,
    Bypass,
    Deletion,
    Expectation,
    Marker,
    Removal,
    Retention,
)
from tests.contract.test_walrus_index import ENGINES, an_object, an_upload, refused

NOW_MS = 10_000
Shown = list[tuple[bytes, str, bool, bool]]


@pytest.fixture(params=sorted(ENGINES))
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Index]:
    async with ENGINES[request.param](tmp_path)() as index:
        yield index


@pytest.fixture
async def bucket(index: Index) -> Bucket:
    return await index.create_bucket("bucket", account_id="1" * 12, owner_id="a" * 64, created_ms=1000)


def version(key: bytes, version_id: str) -> Object:
    return replace(an_object(key, Single(blob=BlobId.new())), version_id=version_id)


def marker(key: bytes, version_id: str) -> Marker:
    return Marker(key=key, version_id=version_id, modified_ms=5, owner_id="b")


async def do(index: Index, bucket: Bucket, *whats: Removal | Marker, expect: Expectation | None = None) -> list[str]:
    """What went, or the code of the refusal."""
    deletions = [Deletion(what=what, expect=expect or Expectation()) for what in whats]
    outcomes = await index.delete(bucket, deletions, now_ms=NOW_MS)
    return [one.code if isinstance(one, CloudError) else one.name for one in outcomes]


async def stack(index: Index, bucket: Bucket, key: bytes = b"k") -> list[str]:
    """Version ids, newest first; a marker's after an exclamation mark."""
    page = await index.list_versions(bucket, Scan(prefix=key))
    shown = [one for one in page.entries if not isinstance(one, bytes)]
    assert [one.latest for one in shown] == [place == 0 for place in range(len(shown))]
    return [("!" if isinstance(one, Marker) else "") + one.version_id for one in shown]


async def test_each_version_stays_and_the_null_version_is_replaced_wherever_it_stands(
    index: Index, bucket: Bucket
) -> None:
    first = version(b"k", NULL)
    await index.put_object(bucket, first)
    await index.put_object(bucket, version(b"k", "a"))
    assert await index.garbage(9) == []
    assert await stack(index, bucket) == ["a", ""]
    assert await index.find_object(bucket, b"k", NULL) == first
    await index.put_object(bucket, version(b"k", NULL))
    assert await stack(index, bucket) == ["", "a"]
    assert isinstance(first.content, Single)
    assert await index.garbage(9) == [first.content.blob]
    assert await index.named([first.content.blob]) == {first.content.blob}
    newest = await index.find_object(bucket, b"k")
    assert isinstance(newest, Object)
    assert newest.version_id == NULL
    assert (await index.usage()).objects == 2


async def test_a_blob_of_an_older_version_is_named(index: Index, bucket: Bucket) -> None:
    old = version(b"k", "a")
    await index.put_object(bucket, old)
    await index.put_object(bucket, version(b"k", "b"))
    assert isinstance(old.content, Single)
    assert await index.named([old.content.blob]) == {old.content.blob}


async def test_a_marker_hides_the_object_until_it_is_removed(index: Index, bucket: Bucket) -> None:
    one = version(b"k", "a")
    await index.put_object(bucket, one)
    assert await do(index, bucket, marker(b"k", "m")) == ["MARKER"]
    assert await index.find_object(bucket, b"k") == marker(b"k", "m")
    assert await index.find_object(bucket, b"k", "a") == one
    assert (await index.list_objects(bucket, Scan())).entries == []
    await refused("BucketNotEmpty", index.delete_bucket(bucket))
    assert await stack(index, bucket) == ["!m", "a"]
    assert await do(index, bucket, Removal(key=b"k", version_id="m")) == ["MARKER"]
    assert await index.find_object(bucket, b"k") == one
    assert await do(index, bucket, Removal(key=b"k", version_id="a"), Removal(key=b"k", version_id="a")) == [
        "OBJECT",
        "NOTHING",
    ]
    usage = await index.usage()
    assert (usage.objects, usage.size) == (0, 0)
    await index.delete_bucket(bucket)


async def test_the_newest_that_is_left_takes_the_place_of_the_newest(index: Index, bucket: Bucket) -> None:
    for name in "abc":
        await index.put_object(bucket, version(b"k", name))
    await do(index, bucket, marker(b"k", NULL))
    await do(index, bucket, marker(b"k", NULL))
    assert await stack(index, bucket) == ["!", "c", "b", "a"]
    await do(index, bucket, Removal(key=b"k", version_id="b"), Removal(key=b"k"))
    assert await stack(index, bucket) == ["c", "a"]
    page = await index.list_objects(bucket, Scan())
    assert [one.version_id for one in page.entries if isinstance(one, Summary)] == ["c"]
    await do(index, bucket, Removal(key=b"k", version_id="c"))
    assert await stack(index, bucket) == ["a"]
    await index.put_object(bucket, version(b"k", "d"))
    assert await stack(index, bucket) == ["d", "a"]


async def test_expectations_are_about_the_newest_object(index: Index, bucket: Bucket) -> None:
    absent = Expectation(absent=True)
    await index.put_object(bucket, version(b"k", "a"))
    await refused("PreconditionFailed", index.put_object(bucket, version(b"k", "b"), absent))
    assert await do(index, bucket, marker(b"k", "m"), expect=Expectation(if_match="other")) == ["PreconditionFailed"]
    assert await do(index, bucket, marker(b"k", "m"), expect=Expectation(if_match="e", size=3)) == ["MARKER"]
    assert await do(index, bucket, marker(b"k", "n"), expect=Expectation(if_match="e")) == ["NoSuchKey"]
    await index.put_object(bucket, version(b"k", "b"), absent)
    wrong = [Expectation(size=4), Expectation(modified_s=2)]
    for expect in wrong:
        assert await do(index, bucket, Removal(key=b"k", version_id="a"), expect=expect) == ["PreconditionFailed"]
    right = Expectation(size=3, modified_s=1)
    assert await do(index, bucket, Removal(key=b"k", version_id="a"), expect=right) == ["OBJECT"]


async def test_writers_side_by_side_end_in_one_order(index: Index, bucket: Bucket) -> None:
    async def write(number: int) -> None:
        await index.put_object(bucket, version(b"k", f"v{number:02}"))
        if number % 3 == 0:
            await do(index, bucket, marker(b"k", f"m{number:02}"))
        if number % 4 == 0:
            assert await do(index, bucket, Removal(key=b"k", version_id=f"v{number:02}")) == ["OBJECT"]

    await asyncio.gather(*(write(number) for number in range(24)))
    names = await stack(index, bucket)
    gone = {f"v{number:02}" for number in range(0, 24, 4)}
    assert set(names) == {f"v{n:02}" for n in range(24)} - gone | {f"!m{n:02}" for n in range(0, 24, 3)}
    assert len(names) == len(set(names)) == (await index.usage()).objects
    newest = await index.find_object(bucket, b"k")
    assert newest is not None
    assert newest.version_id == names[0].removeprefix("!")
    assert await stack(index, bucket) == names


async def test_a_locked_version_stays(index: Index, bucket: Bucket) -> None:
    until = {"past": NOW_MS, "future": NOW_MS + 1}
    for mode in ("GOVERNANCE", "COMPLIANCE"):
        for when, until_ms in until.items():
            retention = Retention(mode=mode, until_ms=until_ms)
            await index.put_object(bucket, replace(version(b"k", f"{mode} {when}"), retention=retention))
    await index.put_object(bucket, replace(version(b"k", "held"), legal_hold=True))
    await index.put_object(bucket, replace(version(b"k", "free"), legal_hold=False))

    async def remove(bypass: Bypass) -> list[str]:
        """The versions that stayed."""
        names = [name.removeprefix("!") for name in await stack(index, bucket)]
        await do(index, bucket, *(Removal(key=b"k", version_id=name, bypass=bypass) for name in names))
        return await stack(index, bucket)

    assert await remove(Bypass.NONE) == ["held", "COMPLIANCE future", "GOVERNANCE future"]
    assert await remove(Bypass.GOVERNANCE) == ["held", "COMPLIANCE future"]
    assert await remove(Bypass.ALL) == []


async def test_a_locked_null_version_is_not_replaced(index: Index, bucket: Bucket) -> None:
    retention = Retention(mode="GOVERNANCE", until_ms=NOW_MS)
    locked = replace(version(b"k", NULL), retention=retention)
    await index.put_object(bucket, locked)
    again = replace(version(b"k", NULL), modified_ms=NOW_MS - 1)
    await refused("AccessDenied", index.put_object(bucket, again))
    assert await do(index, bucket, replace(marker(b"k", NULL), modified_ms=NOW_MS - 1)) == ["AccessDenied"]
    await index.put_object(bucket, version(b"k", "a"))
    await refused("AccessDenied", index.put_object(bucket, again))
    assert await index.find_object(bucket, b"k", NULL) == locked
    await index.put_object(bucket, replace(again, modified_ms=NOW_MS))
    assert await stack(index, bucket) == [NULL, "a"]


async def test_extras_change_and_nothing_else(index: Index, bucket: Bucket) -> None:
    old, new = version(b"k", "a"), version(b"k", "b")
    await index.put_object(bucket, old)
    await index.put_object(bucket, new)
    extras = {
        "tags": {"ключ": "значение"},
        "acl": b"\0acl",
        "retention": Retention(mode="COMPLIANCE", until_ms=7),
        "legal_hold": False,
        "encryption": b"\xff",
    }
    for version_id, before in ((None, new), ("a", old)):
        changed = await index.change_object(bucket, b"k", version_id, lambda one: replace(one, **extras))  # type: ignore[arg-type]
        assert changed == replace(before, **extras)  # type: ignore[arg-type]
        assert await index.find_object(bucket, b"k", version_id) == changed

    def refuse(_: Object) -> Object:
        raise CloudError("no", code="Refused")

    await refused("Refused", index.change_object(bucket, b"k", None, refuse))
    await refused("NoSuchVersion", index.change_object(bucket, b"k", "c", refuse))
    await refused("NoSuchKey", index.change_object(bucket, b"none", None, refuse))
    await do(index, bucket, marker(b"k", "m"))
    for version_id in (None, "m"):
        await refused("MethodNotAllowed", index.change_object(bucket, b"k", version_id, refuse))


async def test_an_upload_keeps_the_extras_of_its_object_and_its_completion_the_version(
    index: Index, bucket: Bucket
) -> None:
    upload = replace(an_upload(bucket), tags={"a": "b"}, owner_id="o", legal_hold=True, acl=b"x")
    await index.create_upload(upload)
    assert await index.find_upload(bucket, b"k", "u1") == upload
    await index.put_object(bucket, version(b"k", "old"))
    await index.complete_upload(bucket, upload, [], version(b"k", "new"), Expectation())
    done = await index.find_completion(bucket, b"k", "u1")
    assert done is not None
    assert done.version_id == "new"
    assert await stack(index, bucket) == ["new", "old"]


async def pages(index: Index, bucket: Bucket, scan: Scan) -> list[Shown | list[bytes]]:
    """Of all pages, each going on where the last one ended."""
    found: list[Shown | list[bytes]] = []
    while True:
        page = await index.list_versions(bucket, scan)
        for one in page.entries:
            if isinstance(one, bytes):
                found.append([one])
            else:
                found.append([(one.key, one.version_id, isinstance(one, Marker), one.latest)])
        if not page.truncated:
            return found
        last = page.entries[-1]
        after = last if isinstance(last, bytes) else last.key
        after_id = "" if isinstance(last, bytes) else last.version_id or "null"
        scan = replace(scan, after=after, after_id=after_id)


async def test_a_marker_that_is_gone_repeats_its_key(index: Index, bucket: Bucket) -> None:
    for name in "abc":
        await index.put_object(bucket, version(b"k", name))
    page = await index.list_versions(bucket, Scan(after=b"k", after_id="b"))
    assert [one.version_id for one in page.entries if not isinstance(one, bytes)] == ["a"]
    await do(index, bucket, Removal(key=b"k", version_id="b"))
    page = await index.list_versions(bucket, Scan(after=b"k", after_id="b"))
    assert [one.version_id for one in page.entries if not isinstance(one, bytes)] == ["c", "a"]


async def test_engines_agree_on_random_histories(tmp_path: Path) -> None:
    """The fake one is the plain model of the other."""
    dice = random.Random(5)
    async with ENGINES["embedded"](tmp_path)() as real, ENGINES["fake"](tmp_path)() as model:
        engines = [real, model]
        buckets = [await one.create_bucket("b", account_id="1", owner_id="o", created_ms=1) for one in engines]
        for number in range(300):
            key = dice.choice([b"a", b"a/b", b"a/c", b"b", b"\xff"])
            version_id = dice.choice([NULL, NULL, f"v{number}"])
            known = f"v{dice.randrange(number + 1)}"
            what = dice.choice(["put", "put", "marker", "remove", "remove known"])
            outcomes = []
            one, late = version(key, version_id), marker(key, version_id)
            for engine, bucket in zip(engines, buckets, strict=True):
                if what == "put":
                    await engine.put_object(bucket, one)
                    continue
                removal = Removal(key=key, version_id=NULL if what == "remove" else known)
                outcomes.append(await do(engine, bucket, late if what == "marker" else removal))
            assert outcomes in ([], [outcomes[0]] * 2 if outcomes else [])
            assert await real.usage() == await model.usage()
            for scan in (Scan(), Scan(delimiter=b"/", limit=1), Scan(prefix=b"a", limit=2)):
                if number % 7 == 0:
                    shown = [await pages(engine, bucket, scan) for engine, bucket in zip(engines, buckets, strict=True)]
                    assert shown[0] == shown[1]
                    listed = [await engine.list_objects(b, scan) for engine, b in zip(engines, buckets, strict=True)]
                    assert listed[0] == listed[1]
        assert await real.garbage(1000) == await model.garbage(1000)


async def test_a_condition_of_an_upload_holds_if_nobody_changed_what_it_speaks_of_since(
    index: Index, bucket: Bucket
) -> None:
    same = Expectation(if_match="e", since_ms=1234)
    await index.put_object(bucket, version(b"k", "a"))
    await index.put_object(bucket, version(b"k", "b"), same)
    await refused(
        "ConditionalRequestConflict", index.put_object(bucket, version(b"k", "c"), replace(same, since_ms=1233))
    )
    await refused("PreconditionFailed", index.put_object(bucket, version(b"k", "c"), replace(same, if_match="f")))
    absent = Expectation(absent=True, since_ms=1)
    await index.put_object(bucket, version(b"new", "a"), absent)
    await do(index, bucket, marker(b"k", "m"))
    (marked,) = [one for one in [await index.find_object(bucket, b"k")] if isinstance(one, Marker)]
    await refused("ConditionalRequestConflict", index.put_object(bucket, version(b"k", "c"), absent))
    await index.put_object(bucket, version(b"k", "c"), replace(absent, since_ms=marked.modified_ms))

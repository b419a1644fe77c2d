"""A bit that flipped on the disk: an error that names the object, and never wrong bytes."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from common.errors import CloudError
from mallee.s3.v1 import bucket_pb2, multipart_pb2, object_pb2, versioning_pb2
from services.walrus import buckets, get, multipart, settings
from services.walrus.drivers.base import Pin
from services.walrus.drivers.quotas import Quota
from services.walrus.store import Store
from tests.contract.test_walrus_blobs import drain
from tests.walrus_store import (
    ALICE,
    begin_upload,
    complete,
    files_of,
    get_bytes,
    make_bucket,
    opened_store,
    put_bytes,
    refused,
    upload_part,
)

MIB = 1 << 20
BODY = bytes(n % 251 for n in range(3 * MIB))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path / "walrus") as store:
        await make_bucket(store)
        yield store


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def damaged_reads() -> float:
    return REGISTRY.get_sample_value("mallee_walrus_damaged_reads_total") or 0.0


async def test_damage_in_the_first_bytes_is_an_answer_and_further_on_an_end(store: Store, tmp_path: Path) -> None:
    await put_bytes(store, "k", BODY)
    (path,) = files_of(tmp_path / "walrus")
    flip(path, 2 * MIB)
    before = damaged_reads()
    request = object_pb2.GetObjectRequest(bucket="bucket", key="k")
    seen = bytearray()
    with capture_logs() as said:
        async with get.opened_object(store, request, ALICE) as (_, chunks):
            await refused("InternalError", drain(chunks, seen))
    assert [(line["bucket"], line["key"], line["version"]) for line in said] == [("bucket", "k", "null")]
    assert path.stem in said[0]["why"]
    assert BODY.startswith(seen)
    assert await get_bytes(store, "k", range="bytes=5-9") == BODY[5:10]
    flip(path, 0)
    with pytest.raises(CloudError, match="damaged"):
        await get.opened_object(store, request, ALICE).__aenter__()
    assert damaged_reads() == before + 2


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
async def test_a_damaged_part_is_an_error_for_what_lies_in_it_alone(store: Store, tmp_path: Path, harm: str) -> None:
    upload = await begin_upload(store, "k")
    first, second = b"1" * 200, b"2" * 200
    parts = {n: await upload_part(store, "k", upload, n, body) for n, body in ((1, first), (2, second))}
    await complete(store, "k", upload, parts)
    path = next(path for path in files_of(tmp_path / "walrus") if path.read_bytes().startswith(second))
    match harm:
        case "flipped":
            flip(path, 199)
        case "cut":
            # As long as the part, and without its checksums.
            path.write_bytes(second)
        case "gone":
            path.unlink()
    await refused("InternalError", get_bytes(store, "k", part_number=2))
    assert await get_bytes(store, "k", part_number=1) == first


async def test_a_damaged_body_in_the_index_is_an_error_until_it_is_replaced(store: Store, tmp_path: Path) -> None:
    await put_bytes(store, "k", b"small")
    await put_bytes(store, "fine", b"other")
    with closing(sqlite3.connect(tmp_path / "walrus" / "index.sqlite")) as db:
        db.execute("UPDATE bodies SET body = ? WHERE body = ?", (b"smalk", b"small"))
        db.commit()
    before = damaged_reads()
    await refused("InternalError", get_bytes(store, "k"))
    assert damaged_reads() == before + 1
    assert await get_bytes(store, "fine") == b"other"
    await put_bytes(store, "k", b"again")
    assert await get_bytes(store, "k") == b"again"


@pytest.mark.parametrize(
    "harm", ["size = size - 1", "body = body + 1", "attributes = ' ' || attributes", "acl = x'01'"]
)
async def test_a_damaged_row_of_the_index_is_an_error_until_it_is_replaced(
    store: Store, tmp_path: Path, harm: str
) -> None:
    for key in ("k", "other"):
        await put_bytes(store, key, f"body of {key}".encode())
    with closing(sqlite3.connect(tmp_path / "walrus" / "index.sqlite")) as db:
        db.execute(f"UPDATE objects SET {harm} WHERE key = ?", (b"k",))
        db.commit()
    await refused("InternalError", get_bytes(store, "k"))
    assert await get_bytes(store, "other") == b"body of other"
    rows = await store.index.inspection.rows(start="", limit=10)
    assert list(rows.damaged) == ["bucket/k"]
    await put_bytes(store, "k", b"again")
    assert await get_bytes(store, "k") == b"again"


async def test_what_a_row_says_later_is_what_its_checksum_is_of(store: Store) -> None:
    await put_bytes(store, "k", b"first")
    bucket = await store.index.find_bucket("bucket")
    assert bucket
    for change in ({"tags": {"ключ": "значение"}}, {"legal_hold": True}, {"legal_hold": False, "acl": b"x"}):
        await store.index.change_object(bucket, b"k", None, partial(replace, **change))
        assert await get_bytes(store, "k") == b"first"
    seen, start = 0, ""
    await put_bytes(store, "l", b"second")
    while True:
        rows = await store.index.inspection.rows(start=start, limit=1)
        seen, start = seen + rows.count, rows.next
        assert list(rows.damaged) == []
        if not start:
            break
    # The bucket says what it is, and what it holds.
    assert seen == 4


async def damaged(store: Store) -> list[str]:
    """Whose rows the scrub finds damaged, looking at two rows at a time."""
    found: list[str] = []
    start: str | None = ""
    while start is not None:
        rows = await store.index.inspection.rows(start=start, limit=2)
        found += rows.damaged
        start = rows.next or None
    return found


def harm(root: Path, statement: str) -> None:
    with closing(sqlite3.connect(root / "index.sqlite")) as db:
        assert db.execute(statement).rowcount == 1
        db.commit()


@pytest.mark.parametrize(
    ("statement", "whose"),
    [
        ("UPDATE uploads SET attributes = ' ' || attributes", "upload {upload} of bucket/k"),
        ("UPDATE uploads SET owner = 'b'", "upload {upload} of bucket/k"),
        ("UPDATE parts SET size = size + 1 WHERE number = 1", "upload {upload} of bucket/k part 1"),
        ("UPDATE parts SET etag = 'b' || etag WHERE number = 2", "upload {upload} of bucket/k part 2"),
    ],
)
async def test_a_damaged_row_of_an_upload_is_an_error_and_names_it(
    store: Store, tmp_path: Path, statement: str, whose: str
) -> None:
    upload = await begin_upload(store, "k")
    parts = {n: await upload_part(store, "k", upload, n, b"x" * 200) for n in (1, 2)}
    assert await damaged(store) == []
    harm(tmp_path / "walrus", statement)
    before = damaged_reads()
    listing = multipart_pb2.ListPartsRequest(bucket="bucket", key="k", upload_id=upload)
    await refused("InternalError", multipart.list_parts(store, listing, ALICE))
    completion = multipart_pb2.CompleteMultipartUploadRequest(bucket="bucket", key="k", upload_id=upload)
    for number, etag in parts.items():
        completion.multipart_upload.parts.add(part_number=number, e_tag=etag)
    await refused("InternalError", multipart.complete_upload(store, completion, ALICE))
    assert damaged_reads() == before + 2
    assert await damaged(store) == [whose.format(upload=upload)]


async def test_a_damaged_part_of_an_object_is_never_read_as_if_it_stood_elsewhere(store: Store, tmp_path: Path) -> None:
    upload = await begin_upload(store, "k")
    parts = {n: await upload_part(store, "k", upload, n, bytes([n]) * 200) for n in (1, 2, 3)}
    await complete(store, "k", upload, parts)
    assert await damaged(store) == []
    harm(tmp_path / "walrus", "UPDATE parts SET start = 0 WHERE number = 2")
    await refused("InternalError", get_bytes(store, "k"))
    assert await get_bytes(store, "k", range="bytes=0-9") == bytes([1]) * 10
    assert await damaged(store) == ["bucket/k part 2"]
    harm(tmp_path / "walrus", "UPDATE completions SET etag = 'b' || etag")
    bucket = await store.index.find_bucket("bucket")
    assert bucket
    await refused("InternalError", store.index.find_completion(bucket, b"k", upload))
    assert await damaged(store) == ["bucket/k part 2", f"upload {upload} of bucket/k"]


@pytest.mark.parametrize(
    ("statement", "whose"),
    [
        ("UPDATE buckets SET owner_id = 'b' WHERE name = 'bucket'", "bucket bucket"),
        ("UPDATE bucket_configs SET body = x''", "VersioningConfiguration of bucket bucket"),
    ],
)
async def test_a_damaged_bucket_lets_nobody_in_and_others_serve_on(tmp_path: Path, statement: str, whose: str) -> None:
    root = tmp_path / "walrus"
    async with opened_store(root) as store:
        for name in ("bucket", "other"):
            await make_bucket(store, name)
            await put_bytes(store, "k", b"body", bucket=name)
        request = versioning_pb2.PutBucketVersioningRequest(bucket="bucket")
        request.versioning_configuration.status = "Enabled"
        await settings.put_bucket_versioning(store, request, ALICE)
    harm(root, statement)
    async with opened_store(root) as store:
        before = damaged_reads()
        await refused("InternalError", get_bytes(store, "k"))
        again = bucket_pb2.CreateBucketRequest(bucket="bucket")
        await refused("InternalError", buckets.create_bucket(store, again, ALICE))
        assert damaged_reads() >= before + 2
        assert await get_bytes(store, "k", bucket="other") == b"body"
        assert [whose] == await damaged(store)


async def test_figures_that_were_damaged_stop_writes_until_they_are_counted_anew(tmp_path: Path) -> None:
    root = tmp_path / "walrus"
    async with opened_store(root) as store:
        await make_bucket(store)
        await put_bytes(store, "k", b"body")
        upload = await begin_upload(store, "parts")
        await upload_part(store, "parts", upload, 1, b"x" * 200)
        harm(root, "UPDATE buckets SET bytes = bytes + 1")
        await refused("InternalError", put_bytes(store, "more", b"body"))
        await refused("InternalError", store.index.quotas.accounts())
        await refused("InternalError", store.index.usage())
        assert await damaged(store) == ["bucket bucket"]
    async with opened_store(root) as store:
        await put_bytes(store, "more", b"body")
        (held,) = await store.index.quotas.accounts()
        assert (held.objects, held.size, held.part_bytes) == (2, 8, 200)
        assert await damaged(store) == []


async def test_damaged_quotas_and_pins_are_errors(store: Store, tmp_path: Path) -> None:
    await store.index.quotas.put_account(ALICE.account_id, Quota(size=10))
    pin = Pin(image_id="i", sha256="ab", size=3, format="raw", virtual_size=3, account_id="1", source="machine b/k")
    await store.index.put_pin(pin)
    assert await store.index.find_pin("i") == pin
    harm(tmp_path / "walrus", "UPDATE quotas SET bytes = 1000000")
    harm(tmp_path / "walrus", "UPDATE pins SET format = 'qcow2'")
    await refused("InternalError", put_bytes(store, "k", b"body"))
    await refused("InternalError", store.index.find_pin("i"))
    assert await damaged(store) == ["image i", f"quota of account {ALICE.account_id}"]

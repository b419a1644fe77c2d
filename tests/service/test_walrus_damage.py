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

from common.errors import CloudError
from mallee.s3.v1 import object_pb2
from services.walrus import delete, get
from services.walrus.drivers.base import BlobId
from services.walrus.drivers.embedded.blobs import FileBlobs
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


async def test_damage_in_the_first_bytes_is_an_answer_and_further_on_an_end(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await put_bytes(store, "k", BODY)
    (path,) = files_of(tmp_path / "walrus")
    flip(path, 2 * MIB)
    before = damaged_reads()
    request = object_pb2.GetObjectRequest(bucket="bucket", key="k")
    seen = bytearray()
    async with get.opened_object(store, request, ALICE) as (_, chunks):
        await refused("InternalError", drain(chunks, seen))
    assert BODY.startswith(seen)
    assert await get_bytes(store, "k", range="bytes=5-9") == BODY[5:10]
    flip(path, 0)
    with pytest.raises(CloudError, match="damaged"):
        await get.opened_object(store, request, ALICE).__aenter__()
    assert damaged_reads() == before + 2
    said = capsys.readouterr()
    assert all(word in said.out + said.err for word in ("bucket=bucket", "key=k", "version=null", path.stem))


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
        assert (rows.unchecked, list(rows.damaged)) == (0, [])
        if not start:
            break
    assert seen == 2


async def test_blobs_and_bodies_older_than_checksums_are_read_as_they_are(store: Store, tmp_path: Path) -> None:
    await put_bytes(store, "large", BODY)
    await put_bytes(store, "small", b"small")
    (path,) = files_of(tmp_path / "walrus")
    path.unlink()
    blob = BlobId(path.stem)
    path.with_suffix("").write_bytes(BODY)
    with closing(sqlite3.connect(tmp_path / "walrus" / "index.sqlite")) as db:
        db.execute("UPDATE bodies SET crc = NULL")
        db.execute("UPDATE objects SET crc = NULL")
        db.commit()
    assert await get_bytes(store, "large") == BODY
    assert await get_bytes(store, "small") == b"small"
    assert isinstance(store.blobs, FileBlobs)
    async with store.blobs.opened(blob) as file:
        assert not file.checked
    await delete.delete_object(store, object_pb2.DeleteObjectRequest(bucket="bucket", key="large"), ALICE)
    assert await store.blobs.delete([blob]) == len(BODY)
    assert files_of(tmp_path / "walrus") == []

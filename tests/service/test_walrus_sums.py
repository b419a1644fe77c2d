"""Every byte of every row of the embedded index has a checksum, and what is damaged does no harm by itself."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
import pytest_asyncio

from common.errors import CloudError
from services.walrus.drivers.base import Assembled, BlobId, Object, Pin, Single
from services.walrus.drivers.embedded import sums
from services.walrus.drivers.embedded.index import SqliteIndex
from services.walrus.drivers.embedded.inspect import SqliteInspection
from services.walrus.drivers.embedded.schema import migrate
from services.walrus.drivers.events import Event
from services.walrus.drivers.inspection import Inspection
from services.walrus.drivers.quotas import Elsewhere, Quota
from services.walrus.drivers.versions import ANYTHING, Deletion, Marker, Removal, Retention
from tests.contract.test_walrus_blocks import content, digest, made, packed
from tests.contract.test_walrus_index import a_part, an_object, an_upload, refused

Result = TypeVar("Result")

ACCOUNT = "1" * 12
# A place in a queue says nothing: what it is lost for is done in another order.
UNSAID: Final = {("garbage", "id")}


def tables() -> list[str]:
    """Of a new index, whoever made them."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        migrate(db)
        found = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        return sorted(name for (name,) in found)


async def fill(index: SqliteIndex) -> None:
    """Something in each table."""
    bucket = await index.create_bucket(
        "bucket", account_id=ACCOUNT, owner_id="a" * 64, created_ms=1000, configs={"Some": b"body"}
    )
    await index.quotas.put_account(ACCOUNT, Quota(size=10_000, objects=100))
    await index.quotas.put_elsewhere({ACCOUNT: Elsewhere(objects=1, size=2)})
    await index.put_object(bucket, an_object(b"inline"), events=[Event(target="t", body=b"{}")])
    for name in ("v1", "v2"):
        one = an_object(b"versions", Single(blob=BlobId.new()))
        await index.put_object(bucket, replace(one, version_id=name))
    marker = Marker(key=b"marker", version_id="m", modified_ms=5, owner_id="a" * 64)
    await index.delete(bucket, [Deletion(what=marker)], now_ms=5)
    for _ in range(2):
        await index.put_object(bucket, an_object(b"blob", Single(blob=BlobId.new())))
    for key, upload_id in ((b"open", "u1"), (b"whole", "u2")):
        upload, part = an_upload(bucket, key, upload_id), a_part(1)
        await index.create_upload(upload)
        await index.put_part(upload, part)
    whole = an_object(b"whole", Assembled(upload_id="u2", part_count=1), size=part.size)
    await index.complete_upload(bucket, upload, [part], whole, ANYTHING)
    pin = Pin(image_id="i", sha256="ab", size=3, format="raw", virtual_size=3, account_id="1", source="machine b/k")
    await index.put_pin(pin)
    await index.inspection.put_note("n", "text")
    await made(index.blocks, "snap-1", "ab")
    await index.blocks.claim("snap-2", [digest("a")], now_ms=2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    path = tmp_path_factory.mktemp("sums") / "index.sqlite"
    index = SqliteIndex(path)
    await index.open()
    await fill(index)
    await index.close()
    yield path


async def told(db: sqlite3.Connection, path: Path) -> list[str]:
    """What a scrub says of the index."""

    async def run(step: Callable[[sqlite3.Connection], Result]) -> Result:
        return sums.told(db, step)

    inspection = SqliteInspection(run, run, path)
    bodies = await inspection.bodies(start=0, limit=100)
    damaged = [f"body {body}" for body in bodies.damaged]
    return [*await inspection.unsound(), *await rows_damaged(inspection), *damaged]


def flipped(value: Any) -> Any:
    """One bit of it, or of what stands where nothing stood."""
    match value:
        case None:
            return 1
        case int():
            return value ^ (1 << 40)
        case bytes():
            return bytes([value[0] ^ 1]) + value[1:] if value else b"\1"
        case _:
            # What it makes is no UTF-8.
            return bytes([value.encode()[0] ^ 0x80]) + value.encode()[1:] if value else b"\x80"


@contextmanager
def harmed(path: Path, table: str, column: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        info = db.execute(f"PRAGMA table_info({table})").fetchall()
        key = ", ".join(name for _, name, *_, place in info if place)
        row = db.execute(f"SELECT {column}, {key} FROM {table} LIMIT 1").fetchone()
        assert row is not None, f"nothing stands in {table}"
        db.execute("BEGIN")
        marks = ", ".join("?" * (len(row) - 1))
        new = "CAST(? AS TEXT)" if isinstance(row[0], str) else "?"
        db.execute(f"UPDATE {table} SET {column} = {new} WHERE ({key}) = ({marks})", (flipped(row[0]), *row[1:]))
        yield db
        db.execute("ROLLBACK")


@pytest.mark.parametrize("table", tables())
async def test_a_bit_that_flips_in_any_column_of_any_table_is_found(filled: Path, table: str) -> None:
    with closing(sqlite3.connect(filled)) as db:
        columns = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})").fetchall()]
        assert await told(db, filled) == []
    unseen = []
    for column in columns:
        with harmed(filled, table, column) as db:
            if not await told(db, filled):
                unseen.append((table, column))
    assert set(unseen) <= UNSAID


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[SqliteIndex]:
    index = SqliteIndex(tmp_path / "index.sqlite")
    await index.open()
    yield index
    await index.close()


def harm(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "index.sqlite", isolation_level=None)) as db:
        for statement in statements:
            assert db.execute(statement).rowcount > 0


async def rows_damaged(inspection: Inspection) -> list[str]:
    found: list[str] = []
    start: str | None = ""
    while start is not None:
        rows = await inspection.rows(start=start, limit=3)
        found += rows.damaged
        start = rows.next or None
    return found


async def test_a_note_that_is_damaged_says_nothing_until_it_is_written_anew(index: SqliteIndex, tmp_path: Path) -> None:
    await index.inspection.put_note("n", "text")
    harm(tmp_path, "UPDATE notes SET text = 'texu'")
    assert await index.inspection.note("n") == ""
    await index.inspection.put_note("n", "more")
    assert await index.inspection.note("n") == "more"


async def test_a_notification_that_is_damaged_is_not_sent_and_goes_with_the_next(
    index: SqliteIndex, tmp_path: Path
) -> None:
    bucket = await index.create_bucket("bucket", account_id=ACCOUNT, owner_id="a" * 64, created_ms=1)
    events = [Event(target="t", body=body) for body in (b"1", b"2", b"3")]
    await index.put_object(bucket, an_object(b"k"), events=events)
    harm(tmp_path, "UPDATE events SET body = x'39' WHERE body = x'32'")
    first, last = await index.events.next("t", 2)
    assert (first.event.body, last.event.body) == (b"1", b"3")
    await index.events.forget("t", last.id)
    assert await index.events.lengths() == {}


async def test_what_garbage_names_by_mistake_is_not_deleted(index: SqliteIndex, tmp_path: Path) -> None:
    bucket = await index.create_bucket("bucket", account_id=ACCOUNT, owner_id="a" * 64, created_ms=1)
    blobs = [BlobId.new() for _ in range(3)]
    for blob in blobs:
        await index.put_object(bucket, an_object(b"k", Single(blob=blob)))
    harm(tmp_path, f"UPDATE garbage SET blob = x'{blobs[2]}' WHERE blob = x'{blobs[0]}'")
    assert await index.garbage(1) == [blobs[1]]
    await index.close()
    # Nobody names the first one's file any more: it is found as such.
    again = SqliteIndex(tmp_path / "index.sqlite")
    await again.open()
    assert await again.inspection.garbage_count() == 1
    assert await again.named(blobs) == {blobs[1], blobs[2]}
    await again.close()


@pytest.mark.parametrize(
    "statement",
    [
        # As if it had been an upload, for a long time.
        "UPDATE snapshots SET state = 0",
        "UPDATE snapshots SET state = 2, draining = 1",
        "UPDATE pages SET refs = 0",
        "UPDATE blocks SET refs = 0",
        "UPDATE packs SET live = 0",
        "UPDATE claims SET digest = digest || x'00'",
        "UPDATE claims SET digest = CAST(digest || x'00' AS BLOB)",
    ],
)
async def test_snapshots_are_not_forgotten_because_of_what_nobody_said(
    index: SqliteIndex, tmp_path: Path, statement: str
) -> None:
    blocks = index.blocks
    await made(blocks, "snap-1", "ab")
    harm(tmp_path, statement)
    assert await rows_damaged(index.inspection)
    await blocks.forget_idle(1 << 40)
    while await blocks.drain(100):
        pass
    # A flipped bit is turned back.
    undo = {"snapshots": "state = 1, draining = 0", "pages": "refs = 1", "blocks": "refs = 1", "packs": "live = 200"}
    table = statement.split()[1]
    if table in undo:
        harm(tmp_path, f"UPDATE {table} SET {undo[table]}")
    assert await content(blocks, "snap-1", "ab") == "ab"


async def test_a_block_whose_row_is_damaged_comes_again_and_stays(index: SqliteIndex, tmp_path: Path) -> None:
    blocks = index.blocks
    await made(blocks, "snap-1", "ab")
    harm(tmp_path, f"UPDATE blocks SET refs = 1, start = start + 1 WHERE digest = x'{digest('a').hex()}'")
    await refused("InternalError", blocks.find([digest("a")]))
    assert await blocks.claim("snap-2", [digest("a"), digest("b")], now_ms=2) == {digest("a")}
    await blocks.add("snap-2", packed("a"), now_ms=2)
    assert await rows_damaged(index.inspection) == []
    assert await content(blocks, "snap-1", "ab") == "ab"
    await blocks.forget("snap-2")
    while await blocks.drain(100):
        pass
    assert await content(blocks, "snap-1", "ab") == "ab"


async def test_what_is_damaged_stays_so_whatever_is_written_beside_it(index: SqliteIndex, tmp_path: Path) -> None:
    blocks = index.blocks
    await made(blocks, "snap-1", "ab")
    harm(tmp_path, "UPDATE snapshots SET size = size + 1", "UPDATE packs SET length = 1", "UPDATE pages SET refs = 9")
    before = sorted(await rows_damaged(index.inspection))
    assert before == ["snapshot snap-1"] * 3
    await blocks.doubt(digest("a"))
    await blocks.forget("snap-1")
    while await blocks.drain(100):
        pass
    assert sorted(await rows_damaged(index.inspection)) == before


async def test_text_that_is_none_any_more_is_found_damaged_and_harms_nobody_else(
    index: SqliteIndex, tmp_path: Path
) -> None:
    bucket = await index.create_bucket("bucket", account_id=ACCOUNT, owner_id="a" * 64, created_ms=1)
    await index.create_bucket("other", account_id=ACCOUNT, owner_id="a" * 64, created_ms=1)
    for key in (b"k", b"l"):
        await index.put_object(bucket, an_object(key))
    harm(
        tmp_path,
        "UPDATE objects SET etag = CAST(x'e5' AS TEXT) WHERE key = x'6b'",
        "UPDATE buckets SET owner_id = CAST(x'e5' AS TEXT) WHERE name = 'other'",
    )
    await refused("InternalError", index.find_object(bucket, b"k"))
    changes = [
        index.change_object(bucket, key, None, lambda now: replace(now, tags={"a": "b"})) for key in (b"k", b"l")
    ]
    first, second = await asyncio.gather(*changes, return_exceptions=True)
    assert isinstance(first, CloudError)
    assert isinstance(second, Object)
    assert sorted(await rows_damaged(index.inspection)) == ["bucket other", "bucket/k"]
    await index.close()
    again = SqliteIndex(tmp_path / "index.sqlite")
    await again.open()
    await refused("InternalError", again.find_bucket("other"))
    assert isinstance(await again.find_object(bucket, b"l"), Object)
    await again.close()


async def test_a_damaged_version_takes_nothing_of_others_along_and_is_locked_for_all_one_knows(
    index: SqliteIndex, tmp_path: Path
) -> None:
    kind, config = "ObjectLockConfiguration", b""
    bucket = await index.create_bucket("bucket", account_id=ACCOUNT, owner_id="a" * 64, created_ms=1)
    for key in (b"k", b"l"):
        await index.put_object(
            bucket, replace(an_object(key), retention=Retention(mode="COMPLIANCE", until_ms=1 << 50))
        )
    harm(tmp_path, "UPDATE objects SET body = body + 1, retention = '' WHERE key = x'6b'")
    await index.put_config(bucket, kind, config)
    locking = await index.find_bucket("bucket")
    assert locking
    for removed in (b"k", b"l"):
        (outcome,) = await index.delete(locking, [Deletion(what=Removal(key=removed))], now_ms=5)
        assert isinstance(outcome, CloudError)
    await index.put_config(bucket, kind, None)
    await index.delete(bucket, [Deletion(what=Removal(key=b"k"))], now_ms=5)
    assert await index.find_object(bucket, b"k") is None
    assert (await index.find_object(bucket, b"l")) is not None

"""A store that an earlier Walrus wrote is used as it is, and one of a later Walrus is left alone."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from services.walrus.drivers.base import Inline, Object, StoreTooNew
from services.walrus.drivers.embedded import sums
from services.walrus.drivers.embedded.index import SqliteIndex
from services.walrus.drivers.embedded.schema import MIGRATIONS
from tests.contract.test_walrus_blocks import content, made
from tests.service.test_walrus_sums import rows_damaged

# From here on rows of objects, buckets and uploads have checksums.
_SUMMED = 11


def write_at_version(path: Path, version: int) -> None:
    with sqlite3.connect(path) as db:
        sums.know_sums(db)
        for script in MIGRATIONS[:version]:
            db.executescript(script)
        db.execute("INSERT INTO buckets (name, account_id, owner_id, created_ms) VALUES ('old', '1', '2', 3)")
        db.execute("INSERT INTO bodies (id, body) VALUES (7, x'616263')")
        db.executemany(
            "INSERT INTO objects (bucket, key, size, etag, modified_ms, algorithm, composite, checksum, "
            "storage_class, body, part_count, attributes) "
            """VALUES (1, ?, 3, 'e', 4, '', 0, '', 'STANDARD', 7, 0, '{"h":{},"m":{}}')""",
            [(b"a",), (b"b",)],
        )
        db.execute(
            "INSERT INTO uploads (bucket, key, id, initiator_id, initiator_name, started_ms, algorithm, composite, "
            """algorithm_chosen, attributes) VALUES (1, x'61', 'u', 'i', 'n', 5, 'CRC32', 0, 1, '{"h":{},"m":{}}')"""
        )
        db.execute(
            "INSERT INTO parts (upload, number, size, etag, modified_ms, algorithm, checksum, blob, start) "
            "VALUES ('u', 1, 11, 'e', 6, 'CRC32', 'c', x'0123456789abcdef0123456789abcdef', 0)"
        )
        db.execute(f"PRAGMA user_version = {version}")
    db.close()


@pytest.mark.parametrize("version", range(1, _SUMMED))
async def test_an_older_index_keeps_what_it_has_with_checksums_and_takes_snapshots(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "index.sqlite"
    write_at_version(path, version)
    for _ in range(2):
        index = SqliteIndex(path)
        await index.open()
        bucket = await index.find_bucket("old")
        assert bucket is not None
        found = await index.find_object(bucket, b"a")
        assert isinstance(found, Object)
        assert found.content == Inline(body=b"abc")
        assert await index.find_upload(bucket, b"a", "u") is not None
        assert [part.size for part in await index.list_parts("u", limit=9)] == [11]
        (held,) = await index.quotas.accounts()
        assert (held.objects, held.size, held.part_bytes) == (2, 6, 11)
        rows = await index.inspection.rows(start="", limit=100)
        while rows.next:
            assert list(rows.damaged) == []
            rows = await index.inspection.rows(start=rows.next, limit=100)
        if await index.blocks.sealed("one") is None:
            await made(index.blocks, "one", "ab")
        assert await content(index.blocks, "one", "ab") == "ab"
        await index.close()


# The first version whose rows of snapshots have checksums.
_SNAPSHOTS_SUMMED = next(number for number, script in enumerate(MIGRATIONS, 1) if "UPDATE snapshots SET crc" in script)


@pytest.mark.parametrize("version", range(2, _SNAPSHOTS_SUMMED))
async def test_snapshots_of_an_older_index_are_read_and_have_checksums(tmp_path: Path, version: int) -> None:
    path = tmp_path / "index.sqlite"
    digests = bytes(range(32)) + bytes(255 * 32)
    with sqlite3.connect(path) as db:
        sums.know_sums(db)
        for script in MIGRATIONS[:version]:
            db.executescript(script)
        db.execute(
            "INSERT INTO snapshots (id, name, account_id, size, full_bytes, state, touched_ms) "
            "VALUES (3, 'snap-old', '1', 524288, 524288, 1, 5)"
        )
        db.execute("INSERT INTO pages (id, refs, blocks, digests) VALUES (4, 1, 1, ?)", (digests,))
        db.execute("INSERT INTO manifests (snapshot, number, page) VALUES (3, 0, 4)")
        db.execute(f"PRAGMA user_version = {version}")
    db.close()
    index = SqliteIndex(path)
    await index.open()
    assert await index.blocks.pages("snap-old", after=-1, limit=9) == [(0, digests)]
    sealed = await index.blocks.sealed("snap-old")
    assert sealed
    assert (sealed.account_id, sealed.size) == ("1", 524288)
    await index.close()


async def test_a_newer_index_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    write_at_version(path, len(MIGRATIONS))
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(StoreTooNew):
        await SqliteIndex(path).open()


def length_of(path: str) -> int:
    return os.stat(path).st_size


async def test_a_log_that_was_made_long_holds_what_is_committed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    for name in ("first", "second"):
        index = SqliteIndex(path, log_bytes=1 << 20)
        await index.open()
        assert length_of(f"{path}-wal") == 1 << 20
        await index.create_bucket(name, account_id="1" * 12, owner_id="a" * 64, created_ms=1)
        # As a process that is killed leaves both.
        copy = tmp_path / f"{name}.sqlite"
        shutil.copy(path, copy)
        shutil.copy(f"{path}-wal", f"{copy}-wal")
        await index.close()
        left = SqliteIndex(copy, log_bytes=1 << 20)
        await left.open()
        assert await left.find_bucket(name) is not None
        await left.close()


# The first version in which every row has a checksum, of all that it says.
_ALL_SUMMED = next(number for number, script in enumerate(MIGRATIONS, 1) if "UPDATE claims SET crc" in script)
_SAID = (
    "key, size, etag, modified_ms, algorithm, composite, checksum, body, blob, upload, part_count, attributes, version"
)


async def test_what_had_no_checksum_gets_one_and_what_was_damaged_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    with sqlite3.connect(path) as db:
        sums.know_sums(db)
        for script in MIGRATIONS[: _ALL_SUMMED - 1]:
            db.executescript(script)
        for name in ("good", "bad"):
            db.execute("INSERT INTO snapshots (name, state, touched_ms) VALUES (?, 1, 5)", (name,))
            db.execute(
                "INSERT INTO objects (bucket, key, size, etag, modified_ms, algorithm, composite, checksum, "
                "storage_class, part_count, attributes) VALUES (1, ?, 0, 'e', 4, '', 0, '', 'STANDARD', 0, '{}')",
                (name.encode(),),
            )
        db.execute("UPDATE snapshots SET crc = row_crc(id, name, account_id, size, full_bytes)")
        db.execute(f"UPDATE objects SET crc = row_crc({_SAID}, owner, tags, acl, retention, legal_hold, encryption)")
        db.execute("UPDATE snapshots SET size = 1 WHERE name = 'bad'")
        db.execute("UPDATE objects SET size = 1 WHERE key = ?", (b"bad",))
        db.execute("INSERT INTO events (target, body) VALUES ('t', x'7b7d')")
        db.execute("INSERT INTO notes VALUES ('n', 'text')")
        db.execute("INSERT INTO garbage (blob) VALUES (x'0123456789abcdef0123456789abcdef')")
        db.execute("INSERT INTO elsewhere VALUES ('1', 2, 3)")
        db.execute("INSERT INTO packs (blob, length, live) VALUES (randomblob(16), 9, 9)")
        db.execute("INSERT INTO blocks VALUES (x'aa', 1, 0, 9, 9, 0, 1, 0)")
        db.execute("INSERT INTO claims VALUES (1, x'aa')")
        db.execute("INSERT INTO pages (refs, blocks, digests) VALUES (1, 1, x'aa')")
        db.execute("UPDATE pages SET crc = row_crc(blocks, digests)")
        db.execute(f"PRAGMA user_version = {_ALL_SUMMED - 1}")
    db.close()
    index = SqliteIndex(path)
    await index.open()
    assert sorted(await rows_damaged(index.inspection)) == ["1/bad", "snapshot bad"]
    assert await index.inspection.note("n") == "text"
    assert [one.event.body for one in await index.events.next("t", 9)] == [b"{}"]
    assert len(await index.garbage(9)) == 1
    assert [block.digest for block in await index.blocks.find([b"\xaa"])] == [b"\xaa"]
    await index.close()

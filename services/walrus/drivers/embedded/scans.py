"""Pages of names out of the embedded index by skip-scan.

The cursor is stepped row by row; at a common prefix it jumps behind it by a new seek. So a page costs O(entries), be a
prefix's subtree ever so large.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from services.walrus.drivers.base import Bucket, Page, Scan, Summary, Upload
from services.walrus.drivers.embedded import rows, versions
from services.walrus.drivers.embedded.sums import Row
from services.walrus.drivers.versions import NULL, NULL_SHOWN, Marker

Entry = TypeVar("Entry")

# How many rows of one common prefix are stepped over before seeking behind it: a seek costs about as much.
_STEPS_BEFORE_SEEK = 8
# Less than every rank.
_BEFORE_ALL = -(1 << 63)


def list_objects(db: sqlite3.Connection, bucket: Bucket, scan: Scan) -> Page[Summary]:
    def seek(start: bytes, end: bytes | None, _id: str) -> sqlite3.Cursor:
        if end is None:
            query = f"SELECT {rows.SUMMARY} FROM objects WHERE bucket = ? AND key >= ? ORDER BY key"
            return db.execute(query, (bucket.id, start))
        query = f"SELECT {rows.SUMMARY} FROM objects WHERE bucket = ? AND key >= ? AND key < ? ORDER BY key"
        return db.execute(query, (bucket.id, start, end))

    return _page(db, scan, seek, rows.summary, key_column=0)


def list_versions(db: sqlite3.Connection, bucket: Bucket, scan: Scan) -> Page[Summary | Marker]:
    """Both tables are walked beside each other (SQLite merges them: each is in this order already)."""
    one = (
        "SELECT {columns}, rank, {marker} FROM {table} WHERE bucket = ?1 AND (key, rank) > (?2, ?3) "
        "AND (?4 IS NULL OR key < ?4)"
    )
    newest = one.format(columns=rows.SUMMARY, marker="0", table="objects")
    others = one.format(columns=rows.SUMMARY, marker="marker", table="versions")
    query = f"{newest} UNION ALL {others} ORDER BY key, rank"

    # The key of the last row, or of the one that the page goes on from.
    seen: bytes | None = None

    def seek(start: bytes, end: bytes | None, after_id: str) -> sqlite3.Cursor:
        rank = versions.rank_of(db, bucket, start, NULL if after_id == NULL_SHOWN else after_id) if after_id else None
        nonlocal seen
        seen = start if rank is not None else None
        return db.execute(query, (bucket.id, start, _BEFORE_ALL if rank is None else rank, end))

    def entry(row: Row) -> Summary | Marker:
        nonlocal seen
        latest, seen = row[0] != seen, row[0]
        if row[-1]:
            return Marker(key=row[0], version_id=row[7], modified_ms=row[3], owner_id=row[8], latest=latest)
        return rows.summary(row, latest=latest)

    return _page(db, scan, seek, entry, key_column=0)


def list_uploads(db: sqlite3.Connection, bucket: Bucket, scan: Scan) -> Page[Upload]:
    def seek(start: bytes, end: bytes | None, after_id: str) -> sqlite3.Cursor:
        query = (
            f"SELECT {rows.UPLOAD} FROM uploads WHERE bucket = ? AND (key, id) > (?, ?) AND (? IS NULL OR key < ?) "
            "ORDER BY key, id"
        )
        return db.execute(query, (bucket.id, start, after_id, end, end))

    return _page(db, scan, seek, rows.upload, key_column=1)


def _page(
    db: sqlite3.Connection,
    scan: Scan,
    seek: Callable[[bytes, bytes | None, str], sqlite3.Cursor],
    entry_of: Callable[[Row], Entry],
    *,
    key_column: int,
) -> Page[Entry]:
    # One snapshot for all seeks of a page.
    db.execute("BEGIN")
    try:
        return _collect(scan, seek, entry_of, key_column)
    finally:
        db.execute("COMMIT")


def _collect(
    scan: Scan,
    seek: Callable[[bytes, bytes | None, str], sqlite3.Cursor],
    entry_of: Callable[[Row], Entry],
    key_column: int,
) -> Page[Entry]:
    entries: list[Entry | bytes] = []
    end = after_all(scan.prefix)
    position: bytes | None = _first(scan)
    after_id = scan.after_id
    while position is not None:
        # One that is left open keeps its connection at this moment of the index.
        with closing(seek(position, end, after_id)) as cursor:
            position, after_id = None, ""
            common = b""
            steps = 0
            for row in cursor:
                key: bytes = row[key_column]
                if common and key.startswith(common):
                    steps += 1
                    if steps < _STEPS_BEFORE_SEEK:
                        continue
                    position = after_all(common)
                    break
                if len(entries) >= scan.limit:
                    return Page(entries, True)
                common = common_prefix(key, scan.prefix, scan.delimiter) if scan.delimiter else b""
                steps = 0
                entries.append(common or entry_of(row))
    return Page(entries, False)


def _first(scan: Scan) -> bytes | None:
    """The least name that may be on the page, inclusive."""
    if scan.after is None or scan.after < scan.prefix:
        return scan.prefix
    if common := common_prefix(scan.after, scan.prefix, scan.delimiter):
        # A common prefix sorts before the names under it: with one of them as marker the entry has passed.
        return after_all(common)
    if scan.after_id:
        return scan.after
    return scan.after + b"\0"


def common_prefix(key: bytes, prefix: bytes, delimiter: bytes) -> bytes:
    """Up to and with the first delimiter behind the prefix; empty if there is none."""
    if not delimiter or not key.startswith(prefix):
        return b""
    found = key.find(delimiter, len(prefix))
    return key[: found + len(delimiter)] if found >= 0 else b""


def after_all(prefix: bytes) -> bytes | None:
    """The least byte string that sorts after everything that begins with the prefix; None: there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None

"""Statements of the embedded index about garbage and pinned images. Those that write run as steps of the writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from itertools import islice

from services.walrus.drivers.base import BlobId, Pin
from services.walrus.drivers.embedded import rows, sums


def let_go(db: sqlite3.Connection, blob: bytes) -> None:
    db.execute("INSERT INTO garbage (blob, crc) VALUES (?, ?)", sums.sealed(blob))


def garbage(db: sqlite3.Connection, limit: int) -> list[BlobId]:
    """What a damaged row names is not deleted."""
    with closing(db.execute(f"SELECT {sums.GARBAGE}, crc FROM garbage ORDER BY id")) as found:
        return [BlobId(row[0].hex()) for row in islice((row for row in found if not sums.is_damaged(row)), limit)]


def mend(db: sqlite3.Connection) -> None:
    """Forgets damaged rows of garbage: a file that nobody names is found and deleted without them."""
    for number, *row in db.execute(f"SELECT id, {sums.GARBAGE}, crc FROM garbage").fetchall():
        if sums.is_damaged(tuple(row)):
            db.execute("DELETE FROM garbage WHERE id = ?", (number,))


def forget_garbage(db: sqlite3.Connection, blobs: Sequence[BlobId]) -> None:
    db.executemany("DELETE FROM garbage WHERE blob = ?", [(bytes.fromhex(blob),) for blob in blobs])


def named(db: sqlite3.Connection, blobs: Sequence[BlobId]) -> set[BlobId]:
    query = (
        "SELECT EXISTS (SELECT 1 FROM objects WHERE blob = ?1) OR EXISTS (SELECT 1 FROM parts WHERE blob = ?1) "
        "OR EXISTS (SELECT 1 FROM versions WHERE blob = ?1) "
        "OR EXISTS (SELECT 1 FROM packs WHERE blob = ?1) OR EXISTS (SELECT 1 FROM garbage WHERE blob = ?1)"
    )
    return {blob for blob in blobs if db.execute(query, (bytes.fromhex(blob),)).fetchone()[0]}


def put_pin(db: sqlite3.Connection, pin: Pin) -> None:
    db.execute(
        f"INSERT OR REPLACE INTO pins ({rows.PIN}) VALUES ({rows.marks(rows.PIN)})",
        rows.pin_values(pin),
    )


def find_pin(db: sqlite3.Connection, image_id: str) -> Pin | None:
    row = db.execute(f"SELECT {rows.PIN} FROM pins WHERE image_id = ?", (image_id,)).fetchone()
    return rows.pin(row) if row else None


def delete_pin(db: sqlite3.Connection, image_id: str) -> None:
    db.execute("DELETE FROM pins WHERE image_id = ?", (image_id,))


def pinned_contents(db: sqlite3.Connection) -> set[str]:
    return {sha256 for (sha256,) in db.execute("SELECT DISTINCT sha256 FROM pins")}

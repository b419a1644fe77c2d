"""Statements of the embedded index about garbage and pinned images. Those that write run as steps of the writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from services.walrus.drivers.base import BlobId, Pin
from services.walrus.drivers.embedded import rows


def garbage(db: sqlite3.Connection, limit: int) -> list[BlobId]:
    return [BlobId(blob.hex()) for (blob,) in db.execute("SELECT blob FROM garbage ORDER BY id LIMIT ?", (limit,))]


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

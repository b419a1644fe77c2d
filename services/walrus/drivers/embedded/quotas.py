"""The part of the embedded index that counts what buckets hold, and says when it is too much: drivers/quotas.py Quotas.

Whoever changes what a bucket holds calls `count` in the same step.
"""

from __future__ import annotations

import sqlite3

from services.walrus import errors
from services.walrus.drivers.embedded.block_index import Run
from services.walrus.drivers.quotas import UNLIMITED, Held, Quota

_SUMS = "coalesce(sum(b.objects), 0), coalesce(sum(b.bytes), 0), coalesce(sum(b.part_bytes), 0)"


class SqliteQuotas:
    """`change` runs a step in the writer, `read` a query in a reader."""

    def __init__(self, change: Run, read: Run) -> None:
        self._change = change
        self._read = read

    async def put_account(self, account_id: str, quota: Quota) -> None:
        await self._change(lambda db: _put(db, account_id, 0, quota))

    async def put_bucket(self, name: str, quota: Quota) -> None:
        await self._change(lambda db: _put_bucket(db, name, quota))

    async def accounts(self) -> list[Held]:
        return await self._read(_accounts)

    async def buckets(self, account_id: str) -> list[Held]:
        return await self._read(lambda db: _buckets(db, account_id))


def count(db: sqlite3.Connection, bucket: int, *, objects: int = 0, size: int = 0, part_bytes: int = 0) -> bool:
    """So much more, or less. False: there is no such bucket. Raises Denied (QuotaExceeded)."""
    if size + part_bytes > 0 or objects > 0:
        _check(db, bucket, size + part_bytes, objects)
    counted = db.execute(
        "UPDATE buckets SET objects = objects + ?, bytes = bytes + ?, part_bytes = part_bytes + ? WHERE id = ?",
        (objects, size, part_bytes, bucket),
    )
    return counted.rowcount > 0


def release(db: sqlite3.Connection, bucket: int, upload: str) -> None:
    """The parts of an upload that is open no more."""
    db.execute(
        "UPDATE buckets SET part_bytes = part_bytes - (SELECT coalesce(sum(size), 0) FROM parts WHERE upload = ?) "
        "WHERE id = ?",
        (upload, bucket),
    )


def forget_bucket(db: sqlite3.Connection, bucket: int) -> None:
    db.execute("DELETE FROM quotas WHERE bucket = ?", (bucket,))


def _check(db: sqlite3.Connection, bucket: int, size: int, objects: int) -> None:
    found = db.execute(
        "SELECT q.account_id, q.bucket, q.bytes, q.objects FROM buckets AS b JOIN quotas AS q "
        "ON q.account_id = b.account_id AND q.bucket IN (0, b.id) WHERE b.id = ?",
        (bucket,),
    ).fetchall()
    for account_id, of, most_bytes, most_objects in found:
        quota = Quota(size=most_bytes, objects=most_objects)
        held = _held_of(db, account_id, of, quota)
        if too_much := quota.exceeded(held, size=size, objects=objects):
            raise errors.quota_exceeded("bucket" if of else "account", too_much)


def _held_of(db: sqlite3.Connection, account_id: str, bucket: int, quota: Quota) -> Held:
    which, value = ("id = ?", bucket) if bucket else ("account_id = ?", account_id)
    row = db.execute(f"SELECT {_SUMS} FROM buckets AS b WHERE b.{which}", (value,)).fetchone()
    return Held(account_id=account_id, bucket="", objects=row[0], size=row[1], part_bytes=row[2], quota=quota)


def _put_bucket(db: sqlite3.Connection, name: str, quota: Quota) -> None:
    row = db.execute("SELECT id, account_id FROM buckets WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise errors.no_such_bucket(name)
    _put(db, row[1], row[0], quota)


def _put(db: sqlite3.Connection, account_id: str, bucket: int, quota: Quota) -> None:
    db.execute("DELETE FROM quotas WHERE account_id = ? AND bucket = ?", (account_id, bucket))
    if quota != UNLIMITED:
        db.execute(
            "INSERT INTO quotas (account_id, bucket, bytes, objects) VALUES (?, ?, ?, ?)",
            (account_id, bucket, quota.size, quota.objects),
        )


def _accounts(db: sqlite3.Connection) -> list[Held]:
    found = db.execute(
        f"SELECT a.account_id, '', {_SUMS}, q.bytes, q.objects "
        "FROM (SELECT account_id FROM buckets UNION SELECT account_id FROM quotas WHERE bucket = 0) AS a "
        "LEFT JOIN buckets AS b ON b.account_id = a.account_id "
        "LEFT JOIN quotas AS q ON q.account_id = a.account_id AND q.bucket = 0 GROUP BY a.account_id"
    )
    return [_held(row) for row in found]


def _buckets(db: sqlite3.Connection, account_id: str) -> list[Held]:
    found = db.execute(
        "SELECT b.account_id, b.name, b.objects, b.bytes, b.part_bytes, q.bytes, q.objects FROM buckets AS b "
        "LEFT JOIN quotas AS q ON q.account_id = b.account_id AND q.bucket = b.id "
        "WHERE b.account_id = ? ORDER BY b.name",
        (account_id,),
    )
    return [_held(row) for row in found]


def _held(row: tuple[str, str, int, int, int, int | None, int | None]) -> Held:
    account_id, bucket, objects, size, part_bytes, most_bytes, most_objects = row
    return Held(
        account_id=account_id,
        bucket=bucket,
        objects=objects,
        size=size,
        part_bytes=part_bytes,
        quota=Quota(size=most_bytes, objects=most_objects),
    )

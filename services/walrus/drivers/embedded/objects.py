"""Statements of the embedded index about buckets and objects. Those that write run as steps of the writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace

from common.errors import CloudError
from services.walrus import errors
from services.walrus.drivers.base import Bucket, Inline, Object, Usage
from services.walrus.drivers.embedded import quotas, rows, sums, versions
from services.walrus.drivers.embedded.sums import Row
from services.walrus.drivers.versions import Expectation, Marker


def create_bucket(
    db: sqlite3.Connection, name: str, account_id: str, owner_id: str, created_ms: int, configs: Mapping[str, bytes]
) -> Bucket:
    made = db.execute(
        "INSERT OR IGNORE INTO buckets (name, account_id, owner_id, created_ms) VALUES (?, ?, ?, ?)",
        (name, account_id, owner_id, created_ms),
    )
    if made.rowcount:
        said = sums.sealed(made.lastrowid, name, account_id, owner_id, created_ms)
        held = sums.sealed(made.lastrowid, 0, 0, 0)
        db.execute("UPDATE buckets SET crc = ?, held_crc = ? WHERE id = ?", (said[-1], held[-1], made.lastrowid))
        for kind, body in configs.items():
            _insert_config(db, made.lastrowid, kind, body)
    found = find_bucket(db, name)
    assert found is not None
    return found


def put_config(db: sqlite3.Connection, bucket: Bucket, kind: str, body: bytes | None) -> None:
    if not db.execute("SELECT 1 FROM buckets WHERE id = ?", (bucket.id,)).fetchone():
        raise errors.no_such_bucket(bucket.name)
    db.execute("DELETE FROM bucket_configs WHERE bucket = ? AND kind = ?", (bucket.id, kind))
    if body is not None:
        _insert_config(db, bucket.id, kind, body)


def _insert_config(db: sqlite3.Connection, bucket: int | None, kind: str, body: bytes) -> None:
    statement = f"INSERT INTO bucket_configs ({rows.CONFIG}) VALUES ({rows.marks(rows.CONFIG)})"
    db.execute(statement, sums.sealed(bucket, kind, body))


def find_bucket(db: sqlite3.Connection, name: str) -> Bucket | None:
    """Raises an InternalError if it or one of its configurations is damaged: who knows then who may do what in it."""
    row = db.execute(f"SELECT {rows.BUCKET} FROM buckets WHERE name = ?", (name,)).fetchone()
    return _configured(db, rows.bucket(row)) if row else None


def all_buckets(db: sqlite3.Connection) -> dict[str, Bucket | CloudError | None]:
    """By name; the error of one that is damaged."""
    return {row[1]: _standing(db, row) for row in db.execute(f"SELECT {rows.BUCKET} FROM buckets").fetchall()}


def standing(db: sqlite3.Connection, name: str) -> Bucket | CloudError | None:
    try:
        return find_bucket(db, name)
    except CloudError as error:
        return error


def _standing(db: sqlite3.Connection, row: Row) -> Bucket | CloudError:
    try:
        return _configured(db, rows.bucket(row))
    except CloudError as error:
        return error


def _configured(db: sqlite3.Connection, bucket: Bucket) -> Bucket:
    found = db.execute(f"SELECT {rows.CONFIG} FROM bucket_configs WHERE bucket = ?", (bucket.id,)).fetchall()
    said = [sums.whole(row, f"the {row[1]} of bucket {bucket.name}") for row in found]
    return replace(bucket, configs={kind: body for _, kind, body in said})


def list_buckets(db: sqlite3.Connection, account_id: str, prefix: str, after: str, limit: int) -> list[Bucket]:
    found = db.execute(
        f"SELECT {rows.BUCKET} FROM buckets WHERE account_id = ? AND name > ? AND name >= ? AND name < ? "
        "ORDER BY name LIMIT ?",
        # Bucket names are ASCII: nothing sorts after prefix and this.
        (account_id, after, prefix, prefix + "\U0010ffff", limit),
    ).fetchall()
    return [rows.bucket(row) for row in found]


def delete_bucket(db: sqlite3.Connection, bucket: Bucket) -> None:
    if db.execute("SELECT 1 FROM objects WHERE bucket = ? LIMIT 1", (bucket.id,)).fetchone():
        raise errors.bucket_not_empty(bucket.name)
    if db.execute("SELECT 1 FROM versions WHERE bucket = ? LIMIT 1", (bucket.id,)).fetchone():
        raise errors.bucket_has_versions(bucket.name)
    uploads = db.execute("SELECT id FROM uploads WHERE bucket = ?", (bucket.id,)).fetchall()
    for (upload,) in uploads:
        versions.discard_parts(db, upload)
    db.execute("DELETE FROM uploads WHERE bucket = ?", (bucket.id,))
    db.execute("DELETE FROM completions WHERE bucket = ?", (bucket.id,))
    db.execute("DELETE FROM bucket_configs WHERE bucket = ?", (bucket.id,))
    quotas.forget_bucket(db, bucket.id)
    if db.execute("DELETE FROM buckets WHERE id = ?", (bucket.id,)).rowcount == 0:
        raise errors.no_such_bucket(bucket.name)


def find_object(db: sqlite3.Connection, bucket: Bucket, key: bytes, version_id: str | None) -> Object | Marker | None:
    return versions.found(db, bucket, key, version_id)[1]


def put_object(db: sqlite3.Connection, bucket: Bucket, new: Object, expect: Expectation) -> None:
    now = versions.newest(db, bucket, new.key)
    versions.check(expect, new.key, now)
    rank, count, size = versions.make_room(db, bucket, new.key, new.version_id, now, new.modified_ms)
    if not quotas.count(db, bucket.id, objects=1 - count, size=new.size - size):
        raise errors.no_such_bucket(bucket.name)
    body: int | None = None
    if isinstance(new.content, Inline) and new.content.body:
        content = new.content.body
        body = db.execute("INSERT INTO bodies (body, crc) VALUES (?, ?)", (content, sums.crc_of(content))).lastrowid
    db.execute(
        f"INSERT INTO objects ({rows.OBJECT}) VALUES ({rows.marks(rows.OBJECT)})",
        rows.object_values(bucket.id, new, rank, body),
    )


def change_object(
    db: sqlite3.Connection,
    bucket: Bucket,
    key: bytes,
    version_id: str | None,
    change: Callable[[Object], Object],
) -> Object:
    table, now = versions.found(db, bucket, key, version_id)
    if now is None:
        raise errors.no_such_key(key) if version_id is None else errors.no_such_version(key, version_id)
    if isinstance(now, Marker):
        raise errors.is_marker(now.version_id, now.modified_ms)
    changed = change(now)
    which = "bucket = ? AND key = ? AND version = ?"
    db.execute(
        f"UPDATE {table} SET ({sums.EXTRAS}) = ({rows.marks(sums.EXTRAS)}) WHERE {which}",
        (*rows.extras_values(changed), bucket.id, key, now.version_id),
    )
    place = (bucket.id, key, now.version_id)
    row = db.execute(f"SELECT {rows.OBJECT} FROM {table} WHERE {which}", place).fetchone()
    db.execute(f"UPDATE {table} SET crc = ? WHERE {which}", (sums.row_crc(row[:-1]), *place))
    return changed


def usage(db: sqlite3.Connection, account_id: str) -> Usage:
    held = quotas.held_by(db, "?1 = '' OR account_id = ?1", account_id)
    (pins,) = db.execute("SELECT count(*) FROM pins WHERE ?1 = '' OR account_id = ?1", (account_id,)).fetchone()
    return Usage(
        buckets=len(held), objects=sum(one.objects for one in held), size=sum(one.size for one in held), pins=pins
    )

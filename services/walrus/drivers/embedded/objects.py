"""Statements of the embedded index about buckets and objects. Those that write run as steps of the writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace

from services.walrus import damage, errors
from services.walrus.drivers.base import (
    Assembled,
    BodyDamaged,
    Bucket,
    Checksum,
    Expectation,
    Inline,
    Object,
    Single,
    Usage,
)
from services.walrus.drivers.embedded import rows

_NO_CHECKSUM = Checksum(algorithm="", value="")


def create_bucket(
    db: sqlite3.Connection, name: str, account_id: str, owner_id: str, created_ms: int, configs: Mapping[str, bytes]
) -> Bucket:
    made = db.execute(
        "INSERT OR IGNORE INTO buckets (name, account_id, owner_id, created_ms) VALUES (?, ?, ?, ?)",
        (name, account_id, owner_id, created_ms),
    )
    if made.rowcount:
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
    db.execute("INSERT INTO bucket_configs (bucket, kind, body) VALUES (?, ?, ?)", (bucket, kind, body))


def find_bucket(db: sqlite3.Connection, name: str) -> Bucket | None:
    row = db.execute(f"SELECT {rows.BUCKET} FROM buckets WHERE name = ?", (name,)).fetchone()
    return _configured(db, rows.bucket(row)) if row else None


def all_buckets(db: sqlite3.Connection) -> list[Bucket]:
    return [_configured(db, rows.bucket(row)) for row in db.execute(f"SELECT {rows.BUCKET} FROM buckets")]


def _configured(db: sqlite3.Connection, bucket: Bucket) -> Bucket:
    found = db.execute("SELECT kind, body FROM bucket_configs WHERE bucket = ?", (bucket.id,))
    return replace(bucket, configs=dict(found))


def list_buckets(db: sqlite3.Connection, account_id: str, prefix: str, after: str, limit: int) -> list[Bucket]:
    found = db.execute(
        f"SELECT {rows.BUCKET} FROM buckets WHERE account_id = ? AND name > ? AND name >= ? AND name < ? "
        "ORDER BY name LIMIT ?",
        # Bucket names are ASCII: nothing sorts after prefix and this.
        (account_id, after, prefix, prefix + "\U0010ffff", limit),
    )
    return [rows.bucket(row) for row in found]


def delete_bucket(db: sqlite3.Connection, bucket: Bucket) -> None:
    if db.execute("SELECT 1 FROM objects WHERE bucket = ? LIMIT 1", (bucket.id,)).fetchone():
        raise errors.bucket_not_empty(bucket.name)
    uploads = db.execute("SELECT id FROM uploads WHERE bucket = ?", (bucket.id,)).fetchall()
    for (upload,) in uploads:
        discard_parts(db, upload)
    db.execute("DELETE FROM uploads WHERE bucket = ?", (bucket.id,))
    db.execute("DELETE FROM completions WHERE bucket = ?", (bucket.id,))
    db.execute("DELETE FROM bucket_configs WHERE bucket = ?", (bucket.id,))
    if db.execute("DELETE FROM buckets WHERE id = ?", (bucket.id,)).rowcount == 0:
        raise errors.no_such_bucket(bucket.name)


def find_object(db: sqlite3.Connection, bucket: Bucket, key: bytes) -> Object | None:
    # The row and its body are one snapshot: between two statements of their own a writer could replace both.
    db.execute("BEGIN")
    try:
        row = db.execute(f"SELECT {rows.OBJECT} FROM objects WHERE bucket = ? AND key = ?", (bucket.id, key)).fetchone()
        return rows.object_of(db, row) if row else None
    except BodyDamaged as error:
        raise damage.found(bucket, key, error) from error
    finally:
        db.execute("COMMIT")


def put_object(db: sqlite3.Connection, bucket: Bucket, new: Object, expect: Expectation) -> None:
    had_bytes, had = _discard(db, bucket, new.key, expect)
    counted = db.execute(
        "UPDATE buckets SET objects = objects + ?, bytes = bytes + ? WHERE id = ?",
        (1 - had, new.size - had_bytes, bucket.id),
    )
    if counted.rowcount == 0:
        raise errors.no_such_bucket(bucket.name)
    body: int | None = None
    blob: bytes | None = None
    upload: str | None = None
    part_count = 0
    match new.content:
        case Inline(body=b""):
            pass
        case Inline(body=content):
            sums = (content, rows.crc_of(content))
            body = db.execute("INSERT INTO bodies (body, crc) VALUES (?, ?)", sums).lastrowid
        case Single(blob=name):
            blob = bytes.fromhex(name)
        case Assembled(upload_id=upload, part_count=part_count):
            pass
    checksum = new.checksum or _NO_CHECKSUM
    db.execute(
        "INSERT INTO objects (bucket, key, size, etag, modified_ms, algorithm, composite, checksum, storage_class, "
        "body, blob, upload, part_count, attributes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            bucket.id,
            new.key,
            new.size,
            new.etag,
            new.modified_ms,
            checksum.algorithm,
            checksum.composite,
            checksum.value,
            new.attributes.headers.get("StorageClass", "STANDARD"),
            body,
            blob,
            upload,
            part_count,
            rows.attributes_text(new.attributes),
        ),
    )


def delete_objects(db: sqlite3.Connection, bucket: Bucket, keys: Sequence[bytes], expect: Expectation) -> None:
    objects = size = 0
    for key in keys:
        had_bytes, had = _discard(db, bucket, key, expect)
        objects += had
        size += had_bytes
    if objects:
        db.execute(
            "UPDATE buckets SET objects = objects - ?, bytes = bytes - ? WHERE id = ?", (objects, size, bucket.id)
        )


def _discard(db: sqlite3.Connection, bucket: Bucket, key: bytes, expect: Expectation) -> tuple[int, int]:
    """Takes out what stands under a key; its size and 1, or zeros."""
    row = db.execute(
        "SELECT etag, size, body, blob, upload FROM objects WHERE bucket = ? AND key = ?", (bucket.id, key)
    ).fetchone()
    expect.check(key, row[0] if row else None)
    if row is None:
        return 0, 0
    _, size, body, blob, upload = row
    db.execute("DELETE FROM objects WHERE bucket = ? AND key = ?", (bucket.id, key))
    if body is not None:
        db.execute("DELETE FROM bodies WHERE id = ?", (body,))
    if blob is not None:
        db.execute("INSERT INTO garbage (blob) VALUES (?)", (blob,))
    if upload is not None:
        discard_parts(db, upload)
    return size, 1


def discard_parts(db: sqlite3.Connection, upload: str) -> None:
    db.execute("INSERT INTO garbage (blob) SELECT blob FROM parts WHERE upload = ?", (upload,))
    db.execute("DELETE FROM parts WHERE upload = ?", (upload,))


def usage(db: sqlite3.Connection, account_id: str) -> Usage:
    buckets, objects, size = db.execute(
        "SELECT count(*), coalesce(sum(objects), 0), coalesce(sum(bytes), 0) FROM buckets "
        "WHERE ?1 = '' OR account_id = ?1",
        (account_id,),
    ).fetchone()
    (pins,) = db.execute("SELECT count(*) FROM pins WHERE ?1 = '' OR account_id = ?1", (account_id,)).fetchone()
    return Usage(buckets=buckets, objects=objects, size=size, pins=pins)

"""Statements of the embedded index about multipart uploads. Those that write run as steps of the writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Final

from common.errors import Stale
from services.walrus import errors
from services.walrus.drivers.base import Assembled, Bucket, Completion, Object, Part, Upload
from services.walrus.drivers.embedded import objects, quotas, rows, sums, upkeep, versions
from services.walrus.drivers.versions import Expectation
from services.walrus.object import PART_COUNT

# So many are read faster than looked for.
_FEW_PARTS: Final = 64
_COMPLETION: Final = f"{sums.COMPLETION}, crc"


def create_upload(db: sqlite3.Connection, upload: Upload) -> None:
    if not db.execute("SELECT 1 FROM buckets WHERE id = ?", (upload.bucket_id,)).fetchone():
        raise errors.no_such_bucket("")
    db.execute(
        f"INSERT INTO uploads ({rows.UPLOAD}) VALUES ({rows.marks(rows.UPLOAD)})",
        rows.upload_values(upload),
    )


def find_upload(db: sqlite3.Connection, bucket: Bucket, key: bytes, upload_id: str) -> Upload | None:
    row = db.execute(
        f"SELECT {rows.UPLOAD} FROM uploads WHERE bucket = ? AND key = ? AND id = ?", (bucket.id, key, upload_id)
    ).fetchone()
    return rows.upload(row) if row else None


def put_part(db: sqlite3.Connection, upload: Upload, part: Part) -> None:
    _check_open(db, upload)
    which = (upload.id, part.number)
    old = db.execute("SELECT blob, size FROM parts WHERE upload = ? AND number = ?", which).fetchone()
    if old:
        upkeep.let_go(db, old[0])
    quotas.count(db, upload.bucket_id, part_bytes=part.size - (old[1] if old else 0))
    db.execute(
        f"INSERT OR REPLACE INTO parts ({rows.PART}) VALUES ({rows.marks(rows.PART)})",
        rows.part_values(upload.id, part, 0),
    )


def list_parts(db: sqlite3.Connection, upload_id: str, after: int, limit: int) -> list[Part]:
    found = db.execute(
        f"SELECT {rows.PART} FROM parts WHERE upload = ? AND number > ? ORDER BY number LIMIT ?",
        (upload_id, after, limit),
    ).fetchall()
    return [rows.part(row) for row in found]


def parts_of(db: sqlite3.Connection, content: Assembled, start: int, end: int) -> list[Part]:
    found: list[Part] = []
    query = f"SELECT {rows.PART} FROM parts WHERE upload = ? AND number >= ? ORDER BY number"
    # One that is left open keeps its connection at this moment of the index.
    with closing(db.execute(query, (content.upload_id, _part_before(db, content, start)))) as cursor:
        for row in cursor:
            part = rows.part(row)
            if part.start + part.size > start:
                found.append(part)
            if part.start + part.size >= end:
                break
    return found


def _part_before(db: sqlite3.Connection, content: Assembled, start: int) -> int:
    """A number at or shortly before the part that holds this byte: of 10,000 parts nobody reads all for one byte."""
    low, high = 1, PART_COUNT
    while content.part_count > _FEW_PARTS and high - low > _FEW_PARTS:
        middle = (low + high) // 2
        row = db.execute(
            f"SELECT {rows.PART} FROM parts WHERE upload = ? AND number >= ? ORDER BY number LIMIT 1",
            (content.upload_id, middle),
        ).fetchone()
        if row is not None and rows.part(row).start <= start:
            low = middle
        else:
            high = middle
    return low


def part_at(db: sqlite3.Connection, content: Assembled, number: int) -> Part | None:
    row = db.execute(
        f"SELECT {rows.PART} FROM parts WHERE upload = ? ORDER BY number LIMIT 1 OFFSET ?",
        (content.upload_id, number - 1),
    ).fetchone()
    return rows.part(row) if row else None


def complete_upload(
    db: sqlite3.Connection, bucket: Bucket, upload: Upload, parts: Sequence[Part], new: Object, expect: Expectation
) -> None:
    _check_open(db, upload)
    # They are the object's now.
    quotas.release(db, bucket.id, upload.id)
    stored = dict(db.execute("SELECT number, blob FROM parts WHERE upload = ?", (upload.id,)))
    start = 0
    for part in parts:
        if stored.pop(part.number, None) != bytes.fromhex(part.blob):
            raise Stale(f"part {part.number} was replaced while the upload was being completed")
        db.execute(
            "UPDATE parts SET start = ?, crc = ? WHERE upload = ? AND number = ?",
            (*rows.part_values(upload.id, part, start)[-2:], upload.id, part.number),
        )
        start += part.size
    for number, blob in stored.items():
        upkeep.let_go(db, blob)
        db.execute("DELETE FROM parts WHERE upload = ? AND number = ?", (upload.id, number))
    objects.put_object(db, bucket, new, expect)
    _forget_upload(db, upload)
    checksum = new.checksum
    assert checksum is not None
    db.execute(
        f"INSERT INTO completions ({_COMPLETION}) VALUES ({rows.marks(_COMPLETION)})",
        sums.sealed(
            bucket.id,
            upload.key,
            upload.id,
            new.etag,
            checksum.algorithm,
            checksum.value,
            int(checksum.composite),
            new.modified_ms,
            new.version_id,
        ),
    )


def find_completion(db: sqlite3.Connection, bucket: Bucket, key: bytes, upload_id: str) -> Completion | None:
    row = db.execute(
        f"SELECT {_COMPLETION} FROM completions WHERE bucket = ? AND key = ? AND upload = ?",
        (bucket.id, key, upload_id),
    ).fetchone()
    if row is None:
        return None
    _, _, _, etag, algorithm, checksum, composite, completed_ms, version = sums.whole(row, f"upload {upload_id}")
    return Completion(
        upload_id=upload_id,
        etag=etag,
        checksum=rows.checksum_of(algorithm, checksum, composite),
        completed_ms=completed_ms,
        version_id=version,
    )


def forget_completions(db: sqlite3.Connection, before_ms: int) -> None:
    db.execute("DELETE FROM completions WHERE completed_ms < ?", (before_ms,))


def abort_upload(db: sqlite3.Connection, upload: Upload) -> None:
    _check_open(db, upload)
    quotas.release(db, upload.bucket_id, upload.id)
    versions.discard_parts(db, upload.id)
    _forget_upload(db, upload)


def _check_open(db: sqlite3.Connection, upload: Upload) -> None:
    row = db.execute(
        "SELECT 1 FROM uploads WHERE bucket = ? AND key = ? AND id = ?", (upload.bucket_id, upload.key, upload.id)
    ).fetchone()
    if row is None:
        raise errors.no_such_upload(upload.id)


def _forget_upload(db: sqlite3.Connection, upload: Upload) -> None:
    db.execute("DELETE FROM uploads WHERE bucket = ? AND key = ? AND id = ?", (upload.bucket_id, upload.key, upload.id))

"""Statements of the embedded index about versions: which one is the newest, and what takes their places.

A key has a row in `objects` exactly if its newest version is no marker; all its other versions stand in `versions`.
Ranks follow the order of commits, and each key has its own. All but `found` run as steps of the writer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import CloudError
from services.walrus import damage, errors, lock
from services.walrus.drivers.base import Attributes, BodyDamaged, Bucket, Inline, Object
from services.walrus.drivers.embedded import quotas, rows, upkeep
from services.walrus.drivers.embedded.sums import Row, is_damaged
from services.walrus.drivers.versions import (
    NULL,
    Bypass,
    Deletion,
    Expectation,
    Gone,
    Marker,
    Removal,
    Still,
    check_unlocked,
)

# A row and its body in one statement: between two of their own a writer could replace both.
_FOUND = ", ".join(f"o.{column}" for column in rows.OBJECT.split(", ")) + ", b.body, b.crc"
_NEWEST = f"SELECT {_FOUND} FROM objects AS o LEFT JOIN bodies AS b ON b.id = o.body WHERE o.bucket = ? AND o.key = ?"
_OTHER = f"SELECT {_FOUND} FROM versions AS o LEFT JOIN bodies AS b ON b.id = o.body WHERE o.bucket = ? AND o.key = ?"


@dataclass(frozen=True, slots=True)
class Standing:
    """What a step must know of a version that stands."""

    table: str
    marker: bool
    version_id: str
    rank: int
    etag: str
    size: int
    modified_ms: int
    retention: str
    legal_hold: int | None
    body: int | None
    blob: bytes | None
    upload: str | None
    # What it says may be anything.
    damaged: bool

    @classmethod
    def of(cls, table: str, row: Row) -> Standing:
        """Of OBJECT."""
        _, size, etag, modified_ms, *_ = row
        body, blob, upload = row[7:10]
        version_id, _, _, rank, marker = row[12:17]
        retention, legal_hold = row[20:22]
        return cls(
            table=table,
            marker=bool(marker),
            version_id=version_id,
            rank=rank,
            etag=etag,
            size=size,
            modified_ms=modified_ms,
            retention=retention,
            legal_hold=legal_hold,
            body=body,
            blob=blob,
            upload=upload,
            damaged=is_damaged(row),
        )


def found(
    db: sqlite3.Connection, bucket: Bucket, key: bytes, version_id: str | None
) -> tuple[str, Object | Marker | None]:
    """That version or the newest, and the table it stands in. Raises an InternalError if its body is damaged."""
    try:
        return _found(db, bucket, key, version_id)
    except BodyDamaged as error:
        raise damage.found(bucket, key, version_id, error) from error


def _found(
    db: sqlite3.Connection, bucket: Bucket, key: bytes, version_id: str | None
) -> tuple[str, Object | Marker | None]:
    row = db.execute(_NEWEST, (bucket.id, key)).fetchone()
    if row is not None and version_id in (None, row[12]):
        return "objects", rows.object_of(row)
    if version_id is None:
        row = db.execute(f"{_OTHER} ORDER BY o.rank LIMIT 1", (bucket.id, key)).fetchone()
    else:
        row = db.execute(f"{_OTHER} AND o.version = ?", (bucket.id, key, version_id)).fetchone()
    return "versions", rows.object_of(row) if row else None


def rank_of(db: sqlite3.Connection, bucket: Bucket, key: bytes, version_id: str) -> int | None:
    standing = _version(db, bucket, key, version_id)
    return standing.rank if standing else None


def newest(db: sqlite3.Connection, bucket: Bucket, key: bytes) -> Standing | None:
    row = db.execute(f"SELECT {rows.OBJECT} FROM objects WHERE bucket = ? AND key = ?", (bucket.id, key)).fetchone()
    if row is not None:
        return Standing.of("objects", row)
    row = db.execute(
        f"SELECT {rows.OBJECT} FROM versions WHERE bucket = ? AND key = ? ORDER BY rank LIMIT 1", (bucket.id, key)
    ).fetchone()
    return Standing.of("versions", row) if row else None


def check(expect: Expectation, key: bytes, standing: Standing | None) -> None:
    if standing is None or standing.marker:
        expect.check(key, None, modified_ms=standing.modified_ms if standing else 0)
    else:
        expect.check(key, standing.etag, standing.size, standing.modified_ms)


def make_room(
    db: sqlite3.Connection, bucket: Bucket, key: bytes, version_id: str, now: Standing | None, now_ms: int
) -> tuple[int, int, int]:
    """Before all other versions for one more: its rank; how many versions and bytes went.

    Raises Denied (AccessDenied) for one that is locked.
    """
    if now is None:
        return 0, 0, 0
    gone: Standing | None = None
    if version_id == NULL:
        gone = now if now.version_id == NULL else _version(db, bucket, key, NULL)
        if gone is not None:
            _check_unlocked(bucket, gone, now_ms, Bypass.NONE)
            _discard(db, bucket, key, gone)
    if now.table == "objects" and gone is not now:
        _move(db, bucket, key, now.rank, source="objects", target="versions")
    return now.rank - 1, int(gone is not None), gone.size if gone else 0


def delete(
    db: sqlite3.Connection, bucket: Bucket, deletions: Sequence[Deletion], now_ms: int
) -> list[Gone | CloudError]:
    outcomes: list[Gone | CloudError] = []
    count = size = 0
    for one in deletions:
        try:
            if isinstance(one.what, Marker):
                outcome, versions, freed = _put_marker(db, bucket, one.what, one.expect)
            else:
                outcome, versions, freed = _remove(db, bucket, one.what, one.expect, now_ms)
        except CloudError as refusal:
            outcomes.append(refusal)
            continue
        outcomes.append(outcome)
        count += versions
        size += freed
    changed = any(isinstance(one, Gone) and one is not Gone.NOTHING for one in outcomes)
    if changed and not quotas.add(db, bucket.id, objects=-count, size=-size):
        raise errors.no_such_bucket(bucket.name)
    return outcomes


def discard_parts(db: sqlite3.Connection, upload: str) -> None:
    db.execute("INSERT INTO garbage (blob, crc) SELECT blob, row_crc(blob) FROM parts WHERE upload = ?", (upload,))
    db.execute("DELETE FROM parts WHERE upload = ?", (upload,))


def _put_marker(db: sqlite3.Connection, bucket: Bucket, marker: Marker, expect: Expectation) -> tuple[Gone, int, int]:
    now = newest(db, bucket, marker.key)
    check(expect, marker.key, now)
    rank, count, size = make_room(db, bucket, marker.key, marker.version_id, now, marker.modified_ms)
    row = Object(
        key=marker.key,
        size=0,
        etag="",
        modified_ms=marker.modified_ms,
        checksum=None,
        attributes=Attributes(),
        content=Inline(body=b""),
        version_id=marker.version_id,
        owner_id=marker.owner_id,
    )
    db.execute(
        f"INSERT INTO versions ({rows.OBJECT}) VALUES ({rows.marks(rows.OBJECT)})",
        rows.object_values(bucket.id, row, rank, marker=True),
    )
    return Gone.MARKER, count - 1, size


def _remove(
    db: sqlite3.Connection, bucket: Bucket, removal: Removal, expect: Expectation, now_ms: int
) -> tuple[Gone, int, int]:
    standing = _version(db, bucket, removal.key, removal.version_id)
    check(expect, removal.key, standing)
    if standing is None:
        return Gone.NOTHING, 0, 0
    if removal.still is not Still.ANYTHING:
        first = newest(db, bucket, removal.key)
        removal.still.check(newest=first is not None and first.rank == standing.rank, marker=standing.marker)
    _check_unlocked(bucket, standing, now_ms, removal.bypass)
    _discard(db, bucket, removal.key, standing)
    following = newest(db, bucket, removal.key)
    if following is not None and following.table == "versions" and not following.marker:
        _move(db, bucket, removal.key, following.rank, source="versions", target="objects")
    return (Gone.MARKER if standing.marker else Gone.OBJECT), 1, standing.size


def _check_unlocked(bucket: Bucket, standing: Standing, now_ms: int, bypass: Bypass) -> None:
    if standing.damaged and lock.is_locking(bucket):
        # Whether it is locked nobody knows.
        raise damage.found_row(f"a version in bucket {bucket.name}")
    check_unlocked(rows.retention_of(standing.retention), bool(standing.legal_hold), now_ms, bypass)


def _version(db: sqlite3.Connection, bucket: Bucket, key: bytes, version_id: str) -> Standing | None:
    row = db.execute(f"SELECT {rows.OBJECT} FROM objects WHERE bucket = ? AND key = ?", (bucket.id, key)).fetchone()
    if row is not None and row[12] == version_id:
        return Standing.of("objects", row)
    row = db.execute(
        f"SELECT {rows.OBJECT} FROM versions WHERE bucket = ? AND key = ? AND version = ?",
        (bucket.id, key, version_id),
    ).fetchone()
    return Standing.of("versions", row) if row else None


def _discard(db: sqlite3.Connection, bucket: Bucket, key: bytes, gone: Standing) -> None:
    db.execute(f"DELETE FROM {gone.table} WHERE bucket = ? AND key = ? AND rank = ?", (bucket.id, key, gone.rank))
    if gone.damaged:
        # What it names may be another's. A file that is nobody's is found and deleted without it.
        return
    if gone.body is not None:
        db.execute("DELETE FROM bodies WHERE id = ?", (gone.body,))
    if gone.blob is not None:
        upkeep.let_go(db, gone.blob)
    if gone.upload is not None:
        discard_parts(db, gone.upload)


def _move(db: sqlite3.Connection, bucket: Bucket, key: bytes, rank: int, *, source: str, target: str) -> None:
    place = (bucket.id, key, rank)
    which = "WHERE bucket = ? AND key = ? AND rank = ?"
    db.execute(f"INSERT INTO {target} ({rows.OBJECT}) SELECT {rows.OBJECT} FROM {source} {which}", place)
    db.execute(f"DELETE FROM {source} {which}", place)

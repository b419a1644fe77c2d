"""Rows of the embedded index as values of drivers/base.py, and back."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from services.walrus.drivers.base import (
    Assembled,
    Attributes,
    BlobId,
    BodyDamaged,
    Bucket,
    Checksum,
    Content,
    Inline,
    Object,
    Part,
    Pin,
    Single,
    Summary,
    Upload,
)
from services.walrus.drivers.embedded import pieces

Row = tuple[Any, ...]

BUCKET = "id, name, account_id, owner_id, created_ms"
SUMMARY = "key, size, etag, modified_ms, algorithm, composite, storage_class"
OBJECT = "key, size, etag, modified_ms, algorithm, composite, checksum, body, blob, upload, part_count, attributes"
UPLOAD = "bucket, key, id, initiator_id, initiator_name, started_ms, algorithm, composite, algorithm_chosen, attributes"
PART = "number, size, etag, modified_ms, algorithm, checksum, blob, start"
PIN = "image_id, sha256, size, format, virtual_size, account_id, source"


def bucket(row: Row) -> Bucket:
    return Bucket(id=row[0], name=row[1], account_id=row[2], owner_id=row[3], created_ms=row[4])


def summary(row: Row) -> Summary:
    return Summary(
        key=row[0],
        size=row[1],
        etag=row[2],
        modified_ms=row[3],
        algorithm=row[4],
        composite=bool(row[5]),
        storage_class=row[6],
    )


def object_of(db: sqlite3.Connection, row: Row) -> Object:
    key, size, etag, modified_ms, algorithm, composite, checksum, body, blob, upload, part_count, attributes = row
    content: Content
    if blob is not None:
        content = Single(blob=BlobId(blob.hex()))
    elif upload is not None:
        content = Assembled(upload_id=upload, part_count=part_count)
    elif body is not None:
        content = _inline(db, body)
    else:
        content = Inline(body=b"")
    return Object(
        key=key,
        size=size,
        etag=etag,
        modified_ms=modified_ms,
        checksum=checksum_of(algorithm, checksum, composite),
        attributes=attributes_of(attributes),
        content=content,
    )


def _inline(db: sqlite3.Connection, row: int) -> Inline:
    body, crc = db.execute("SELECT body, crc FROM bodies WHERE id = ?", (row,)).fetchone()
    if crc is not None and crc != crc_of(body):
        raise BodyDamaged(f"body {row} of the index is not what was written")
    return Inline(body=body)


def crc_of(body: bytes) -> int:
    """As SQLite keeps it: signed."""
    crc = pieces.crc(body)
    return crc - (1 << 64) if crc >> 63 else crc


def upload(row: Row) -> Upload:
    return Upload(
        bucket_id=row[0],
        key=row[1],
        id=row[2],
        initiator_id=row[3],
        initiator_name=row[4],
        started_ms=row[5],
        algorithm=row[6],
        composite=bool(row[7]),
        algorithm_chosen=bool(row[8]),
        attributes=attributes_of(row[9]),
    )


def part(row: Row) -> Part:
    return Part(
        number=row[0],
        size=row[1],
        etag=row[2],
        modified_ms=row[3],
        checksum=Checksum(algorithm=row[4], value=row[5]),
        blob=BlobId(row[6].hex()),
        start=row[7],
    )


def pin(row: Row) -> Pin:
    return Pin(
        image_id=row[0],
        sha256=row[1],
        size=row[2],
        format=row[3],
        virtual_size=row[4],
        account_id=row[5],
        source=row[6],
    )


def checksum_of(algorithm: str, value: str, composite: int) -> Checksum | None:
    return Checksum(algorithm=algorithm, value=value, composite=bool(composite)) if algorithm else None


def attributes_of(text: str) -> Attributes:
    stored = json.loads(text)
    return Attributes(headers=stored["h"], metadata=stored["m"])


def attributes_text(attributes: Attributes) -> str:
    return json.dumps(
        {"h": dict(attributes.headers), "m": dict(attributes.metadata)}, separators=(",", ":"), ensure_ascii=False
    )

"""Rows of the embedded index as values of drivers/base.py, and back."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Final

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
from services.walrus.drivers.embedded import sums
from services.walrus.drivers.embedded.sums import Row
from services.walrus.drivers.versions import Extras, Marker, Retention

_NO_CHECKSUM = Checksum(algorithm="", value="")

SUMMARY = "key, size, etag, modified_ms, algorithm, composite, storage_class, version, owner"
OBJECT = f"{sums.OBJECT}, crc"
BUCKET = f"{sums.BUCKET}, crc"
CONFIG = f"{sums.CONFIG}, crc"
UPLOAD = f"{sums.UPLOAD}, crc"
PART = f"{sums.PART}, crc"
PIN = f"{sums.PIN}, crc"


def bucket(row: Row) -> Bucket:
    """Each of these raises an InternalError if the row is not what was written."""
    row = sums.whole(row, f"bucket {row[1]}")
    return Bucket(id=row[0], name=row[1], account_id=row[2], owner_id=row[3], created_ms=row[4])


def summary(row: Row, *, latest: bool = True) -> Summary:
    """SUMMARY has its columns in this order, but for `latest`."""
    key, size, etag, modified_ms, algorithm, composite, storage_class, version_id, owner_id = row[:9]
    return Summary(
        key, size, etag, modified_ms, algorithm, bool(composite), storage_class, version_id, owner_id, latest
    )


def object_of(found: Row) -> Object | Marker:
    """Of OBJECT, with `body` and `crc` of its body behind it.

    Raises BodyDamaged, also if the row itself is not what was written.
    """
    row = found[:-2]
    if sums.is_damaged(row):
        raise BodyDamaged("its row in the index is not what was written")
    key, size, etag, modified_ms, algorithm, composite, checksum, body, blob, upload, part_count, attributes = row[:12]
    *_, marker = row[12:17]
    if marker:
        return Marker(key=key, version_id=row[12], modified_ms=modified_ms, owner_id=row[17])
    content: Content
    if blob is not None:
        content = Single(blob=BlobId(blob.hex()))
    elif upload is not None:
        content = Assembled(upload_id=upload, part_count=part_count)
    elif body is not None:
        content = _inline(body, *found[-2:])
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
        version_id=row[12],
        **_extras_of(row[17:]),
    )


def _inline(row: int, body: bytes | None, crc: int | None) -> Inline:
    if body is None:
        raise BodyDamaged(f"body {row} of the index is not there")
    if crc != sums.crc_of(body):
        raise BodyDamaged(f"body {row} of the index is not what was written")
    return Inline(body=body)


def object_values(bucket_id: int, new: Object, rank: int, body: int | None = None, *, marker: bool = False) -> Row:
    """For OBJECT. `body`: of an inline one that is not empty."""
    blob: bytes | None = None
    upload: str | None = None
    part_count = 0
    match new.content:
        case Single(blob=name):
            blob = bytes.fromhex(name)
        case Assembled(upload_id=upload, part_count=part_count):
            pass
    checksum = new.checksum or _NO_CHECKSUM
    return sums.sealed(
        new.key,
        new.size,
        new.etag,
        new.modified_ms,
        checksum.algorithm,
        int(checksum.composite),
        checksum.value,
        body,
        blob,
        upload,
        part_count,
        attributes_text(new.attributes),
        new.version_id,
        bucket_id,
        new.attributes.headers.get("StorageClass", "STANDARD"),
        rank,
        int(marker),
        *extras_values(new),
    )


def extras_values(extras: Extras) -> Row:
    kept = extras.retention
    return (
        extras.owner_id,
        json.dumps(dict(extras.tags), separators=(",", ":"), ensure_ascii=False) if extras.tags else "",
        extras.acl,
        f"{kept.mode} {kept.until_ms}" if kept else "",
        None if extras.legal_hold is None else int(extras.legal_hold),
        extras.encryption,
    )


def retention_of(text: str) -> Retention | None:
    mode, _, until_ms = text.partition(" ")
    return Retention(mode=mode, until_ms=int(until_ms)) if mode else None


def _extras_of(row: Row) -> dict[str, Any]:
    return {
        "owner_id": row[0],
        "tags": json.loads(row[1]) if row[1] else {},
        "acl": row[2],
        "retention": retention_of(row[3]),
        "legal_hold": None if row[4] is None else bool(row[4]),
        "encryption": row[5],
    }


def marks(columns: str) -> str:
    """As many question marks."""
    return ", ".join("?" * (columns.count(",") + 1))


def upload(row: Row) -> Upload:
    row = sums.whole(row, f"upload {row[2]}")
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
        **_extras_of(row[10:]),
    )


def upload_values(new: Upload) -> Row:
    """For UPLOAD."""
    return sums.sealed(
        new.bucket_id,
        new.key,
        new.id,
        new.initiator_id,
        new.initiator_name,
        new.started_ms,
        new.algorithm,
        int(new.composite),
        int(new.algorithm_chosen),
        attributes_text(new.attributes),
        *extras_values(new),
    )


def part(row: Row) -> Part:
    row = sums.whole(row, f"part {row[1]} of upload {row[0]}")
    return Part(
        number=row[1],
        size=row[2],
        etag=row[3],
        modified_ms=row[4],
        checksum=Checksum(algorithm=row[5], value=row[6]),
        blob=BlobId(row[7].hex()),
        start=row[8],
    )


def part_values(upload_id: str, new: Part, start: int) -> Row:
    """For PART."""
    return sums.sealed(
        upload_id,
        new.number,
        new.size,
        new.etag,
        new.modified_ms,
        new.checksum.algorithm,
        new.checksum.value,
        bytes.fromhex(new.blob),
        start,
    )


def pin(row: Row) -> Pin:
    row = sums.whole(row, f"image {row[0]}")
    return Pin(
        image_id=row[0],
        sha256=row[1],
        size=row[2],
        format=row[3],
        virtual_size=row[4],
        account_id=row[5],
        source=row[6],
    )


def pin_values(new: Pin) -> Row:
    """For PIN."""
    return sums.sealed(new.image_id, new.sha256, new.size, new.format, new.virtual_size, new.account_id, new.source)


def checksum_of(algorithm: str, value: str, composite: int) -> Checksum | None:
    return Checksum(algorithm=algorithm, value=value, composite=bool(composite)) if algorithm else None


def attributes_of(text: str) -> Attributes:
    return _usual_attributes(text) if len(text) <= _USUAL_CHARACTERS else _attributes(text)


def _attributes(text: str) -> Attributes:
    stored = json.loads(text)
    return Attributes(headers=stored["h"], metadata=stored["m"])


# Most objects of a bucket have the same.
_USUAL_CHARACTERS: Final = 256
_usual_attributes = lru_cache(maxsize=1024)(_attributes)


def attributes_text(attributes: Attributes) -> str:
    return json.dumps(
        {"h": dict(attributes.headers), "m": dict(attributes.metadata)}, separators=(",", ":"), ensure_ascii=False
    )

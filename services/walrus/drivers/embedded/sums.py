"""The checksums of the index's rows: what they are of, how they are compared, and all of them looked at.

Each row ends with the CRC64NVME of what it says, as SQLite keeps numbers: signed. What changes often has one of its own
beside what is long. Bytes of bodies have theirs beside them, blocks of snapshots are named by their content.
"""

from __future__ import annotations

import ast
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from common.errors import CloudError
from services.walrus import damage
from services.walrus.drivers.embedded import pieces

Row = tuple[Any, ...]
Result = TypeVar("Result")

EXTRAS: Final = "owner, tags, acl, retention, legal_hold, encryption"
OBJECT: Final = (
    "key, size, etag, modified_ms, algorithm, composite, checksum, body, blob, upload, part_count, attributes, "
    f"version, bucket, storage_class, rank, marker, {EXTRAS}"
)
BUCKET: Final = "id, name, account_id, owner_id, created_ms"
HELD: Final = "id, objects, bytes, part_bytes"
CONFIG: Final = "bucket, kind, body"
UPLOAD: Final = (
    "bucket, key, id, initiator_id, initiator_name, started_ms, algorithm, composite, algorithm_chosen, attributes, "
    f"{EXTRAS}"
)
PART: Final = "upload, number, size, etag, modified_ms, algorithm, checksum, blob, start"
COMPLETION: Final = "bucket, key, upload, etag, algorithm, checksum, composite, completed_ms, version"
PIN: Final = "image_id, sha256, size, format, virtual_size, account_id, source"
QUOTA: Final = "account_id, bucket, bytes, objects"
ELSEWHERE: Final = "account_id, objects, bytes"
EVENT: Final = "id, target, body"
NOTE: Final = "name, text"
# Its id is a place in a queue, and says nothing.
GARBAGE: Final = "blob"
SNAPSHOT: Final = "id, name, account_id, size, full_bytes, state, draining, touched_ms"
MANIFEST: Final = "snapshot, number, page"
PAGE: Final = "blocks, digests"
SHARED: Final = "id, refs"
PACK: Final = "id, blob, length, live"
BLOCK: Final = "digest, pack, start, length, size, compressed, refs, damaged"
CLAIM: Final = "snapshot, digest"


@dataclass(frozen=True, slots=True)
class Summed:
    """Rows of `table` in the order of `key`, each with the checksum of its `columns` in the column `crc`."""

    table: str
    key: str
    columns: str
    crc: str = "crc"

    def change(self, **changes: str) -> str:
        """What an UPDATE sets, by column. The checksum of a damaged row stays wrong: damage is never sealed."""
        new = ", ".join(changes.get(column, column) for column in self.columns.split(", "))
        setting = ", ".join(f"{column} = {value}" for column, value in changes.items())
        crc = f"CASE {self.crc} WHEN row_crc({self.columns}) THEN row_crc({new}) ELSE {self.crc} END"
        return f"{setting}, {self.crc} = {crc}"


SNAPSHOTS: Final = Summed("snapshots", "id", SNAPSHOT)
PAGES_SHARED: Final = Summed("pages", "id", SHARED, "refs_crc")
PACKS: Final = Summed("packs", "id", PACK)
BLOCKS: Final = Summed("blocks", "digest", BLOCK)

TABLES: Final = (
    Summed("objects", "bucket, key, rank", OBJECT),
    Summed("versions", "bucket, key, rank", OBJECT),
    Summed("buckets", "id", BUCKET),
    Summed("buckets", "id", HELD, "held_crc"),
    Summed("bucket_configs", "bucket, kind", CONFIG),
    Summed("uploads", "bucket, key, id", UPLOAD),
    Summed("parts", "upload, number", PART),
    Summed("completions", "bucket, key, upload", COMPLETION),
    Summed("pins", "image_id", PIN),
    Summed("quotas", "account_id, bucket", QUOTA),
    Summed("elsewhere", "account_id", ELSEWHERE),
    Summed("events", "id", EVENT),
    Summed("notes", "name", NOTE),
    Summed("garbage", "id", GARBAGE),
    SNAPSHOTS,
    Summed("manifests", "snapshot, number", MANIFEST),
    Summed("pages", "id", PAGE),
    PAGES_SHARED,
    PACKS,
    BLOCKS,
    Summed("claims", "snapshot, digest", CLAIM),
)


def crc_of(body: bytes) -> int:
    """As SQLite keeps it: signed."""
    crc = pieces.crc(body)
    return crc - (1 << 64) if crc >> 63 else crc


def row_crc(values: Row) -> int:
    # Not repr: what it escapes changes with Unicode.
    return crc_of(ascii(values).encode())


def sealed(*values: Any) -> Row:
    """With its checksum behind it. The values are those that SQLite gives back: a number, no truth value."""
    return (*values, row_crc(values))


def is_damaged(row: Row) -> bool:
    """Of one that its checksum stands behind."""
    return bool(row[-1] != row_crc(row[:-1]))


def whole(row: Row, what: str) -> Row:
    """Without its checksum. Raises an InternalError, and tells the operator, if it is not what was written."""
    if is_damaged(row):
        raise unsound(what)
    return row[:-1]


def unsound(what: str) -> CloudError:
    return damage.found_row(what)


def told(db: sqlite3.Connection, query: Callable[[sqlite3.Connection], Result], *, again: str = "SELECT 1") -> Result:
    """What the query gives. Text that flipped bits made none is no error of SQLite's, but comes as some other text: so
    the checksum of its row tells. `again`: run before a second try.
    """
    try:
        return query(db)
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
    db.execute(again)
    db.text_factory = _text
    try:
        return query(db)
    finally:
        db.text_factory = str


def _text(stored: bytes) -> str:
    return stored.decode("utf-8", "replace")


def know_sums(db: sqlite3.Connection) -> None:
    """For statements that compute checksums themselves."""
    db.create_function("row_crc", -1, lambda *values: row_crc(values), deterministic=True)
    db.create_function("body_crc", 1, crc_of, deterministic=True)


@dataclass(frozen=True, slots=True)
class Standing:
    summed: Summed
    key: Row
    # Of the columns, and their checksum.
    values: Row


def some(
    db: sqlite3.Connection, place: str, limit: int, tables: Sequence[Summed] = TABLES
) -> tuple[str, list[Standing]]:
    """Rows behind `place`, which is empty for the first ones; and where to go on, empty: these were the last."""
    number, after = ast.literal_eval(bytes.fromhex(place).decode()) if place else (0, None)
    summed = tables[number]
    width = summed.key.count(",") + 1
    behind = f"WHERE ({summed.key}) > ({', '.join('?' * width)})" if after else ""
    found = db.execute(
        f"SELECT {summed.key}, {summed.columns}, {summed.crc} FROM {summed.table} {behind} "
        f"ORDER BY {summed.key} LIMIT ?",
        (*(after or ()), limit),
    ).fetchall()
    following: tuple[int, Row | None] = (number, found[-1][:width]) if len(found) == limit else (number + 1, None)
    ended = following == (len(tables), None)
    rows = [Standing(summed, row[:width], row[width:]) for row in found]
    return "" if ended else ascii(following).encode().hex(), rows

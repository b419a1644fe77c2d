"""The part of the embedded index that looks at all of it: drivers/inspection.py Inspection."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar

from services.walrus import damage
from services.walrus.drivers.base import BlobId, Pin
from services.walrus.drivers.embedded import copies, rows, sums
from services.walrus.drivers.embedded.block_index import Run
from services.walrus.drivers.inspection import Bodies, Needed, Resealed, Rows, Seal

Result = TypeVar("Result")

# Tables that name blobs by an indexed column, and the column with the least size of one.
NAMING: Final = (("objects", "size"), ("versions", "size"), ("parts", "size"), ("packs", "length"))
_DIGEST_BYTES: Final = 32
_BODY: Final = sums.OBJECT.split(", ").index("body")
_ENCRYPTED: Final = [one for one in sums.TABLES if one.columns.endswith(" encryption")]


class SqliteInspection:
    """`change` runs a step in the writer, `read` a query in a reader; `path` is the index's file."""

    def __init__(self, change: Run, read: Run, path: Path) -> None:
        self._change = change
        self._read = read
        self._path = path

    async def needed(self, *, after: str, limit: int) -> list[Needed]:
        return await self._read(lambda db: needed(db, after, limit))

    async def owners(self, blob: BlobId) -> list[str]:
        return await self._read(lambda db: owners(db, blob))

    async def rows(self, *, start: str, limit: int) -> Rows:
        return await self._read(lambda db: _rows(db, start, limit))

    async def reseal(self, seal: Seal, *, start: str, limit: int) -> Resealed:
        return await self._change(lambda db: _reseal(db, seal, start, limit))

    async def bodies(self, *, start: int, limit: int) -> Bodies:
        return await self._read(lambda db: _bodies(db, start, limit))

    async def owners_of_body(self, body: int) -> list[str]:
        return await self._read(lambda db: _objects(db, "body = ?", body))

    async def owners_of_blocks(self, digests: Sequence[bytes]) -> list[str]:
        return await self._read(lambda db: _snapshots(db, frozenset(digests)))

    async def pins(self) -> list[Pin]:
        return await self._read(lambda db: [rows.pin(row) for row in db.execute(f"SELECT {rows.PIN} FROM pins")])

    async def unsound(self) -> list[str]:
        return await self._read(unsound)

    async def garbage_count(self) -> int:
        query = "SELECT count(*) FROM garbage"
        return await self._read(lambda db: int(db.execute(query).fetchone()[0]))

    async def copy_to(self, path: Path) -> SqliteInspection:
        await asyncio.to_thread(copies.copy_index, self._path, path)

        async def read(step: Callable[[sqlite3.Connection], Result]) -> Result:
            return await asyncio.to_thread(_read_copy, path, step)

        return SqliteInspection(read, read, path)

    async def note(self, name: str) -> str:
        return await self._read(lambda db: _note(db, name))

    async def put_note(self, name: str, text: str) -> None:
        step = f"INSERT OR REPLACE INTO notes ({sums.NOTE}, crc) VALUES (?, ?, ?)"
        await self._change(lambda db: db.execute(step, sums.sealed(name, text)))


def _note(db: sqlite3.Connection, name: str) -> str:
    """Nothing where it is damaged: who notes something can do without it."""
    row = db.execute(f"SELECT {sums.NOTE}, crc FROM notes WHERE name = ?", (name,)).fetchone()
    if row is None:
        return ""
    if sums.is_damaged(row):
        damage.found_row(f"note {name}")
        return ""
    return str(row[1])


def _read_copy(path: Path, step: Callable[[sqlite3.Connection], Result]) -> Result:
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as db:
        return sums.told(db, step)


def needed(db: sqlite3.Connection, after: str, limit: int) -> list[Needed]:
    each = " UNION ALL ".join(
        f"SELECT * FROM (SELECT blob, {size} AS size, '{table}' = 'packs' AS pack FROM {table} "
        "WHERE blob > ?1 ORDER BY blob LIMIT ?2)"
        for table, size in NAMING
    )
    found = db.execute(f"SELECT blob, size, pack FROM ({each}) ORDER BY blob LIMIT ?2", (bytes.fromhex(after), limit))
    return [Needed(blob=BlobId(blob.hex()), size=size, pack=bool(pack)) for blob, size, pack in found]


def owners(db: sqlite3.Connection, blob: BlobId) -> list[str]:
    raw = bytes.fromhex(blob)
    found = _objects(db, "blob = ?", raw)
    for upload, number in db.execute("SELECT upload, number FROM parts WHERE blob = ?", (raw,)):
        found += _owners_of_part(db, upload, number)
    digests = db.execute("SELECT digest FROM blocks WHERE pack IN (SELECT id FROM packs WHERE blob = ?)", (raw,))
    return found + _snapshots(db, frozenset(digest for (digest,) in digests))


def _objects(db: sqlite3.Connection, where: str, value: bytes | str | int) -> list[str]:
    """Those of them by which no index leads there are found by looking at all: damage is rare."""
    return [
        _shown(bucket, key) + (f" version {version}" if version else "")
        for table in ("objects", "versions")
        for bucket, key, version in db.execute(
            f"SELECT b.name, o.key, o.version FROM {table} AS o JOIN buckets AS b ON b.id = o.bucket WHERE o.{where}",
            (value,),
        )
    ]


def _uploads(db: sqlite3.Connection, upload: str) -> list[str]:
    query = "SELECT b.name, u.key FROM uploads AS u JOIN buckets AS b ON b.id = u.bucket WHERE u.id = ?"
    return [f"upload {upload} of {_shown(bucket, key)}" for bucket, key in db.execute(query, (upload,))]


def _snapshots(db: sqlite3.Connection, digests: frozenset[bytes]) -> list[str]:
    if not digests:
        return []
    pages = [page for page, held in db.execute("SELECT id, digests FROM pages") if not digests.isdisjoint(_cut(held))]
    which = "id IN (SELECT snapshot FROM manifests WHERE page = ?)"
    return sorted({name for page in pages for name in _snapshots_where(db, which, page)})


def _snapshots_where(db: sqlite3.Connection, which: str, value: int) -> list[str]:
    found = db.execute(f"SELECT name FROM snapshots WHERE {which} ORDER BY name", (value,))
    return [f"snapshot {name}" for (name,) in found]


def _cut(digests: bytes) -> Iterable[bytes]:
    return (digests[start : start + _DIGEST_BYTES] for start in range(0, len(digests), _DIGEST_BYTES))


def _rows(db: sqlite3.Connection, start: str, limit: int) -> Rows:
    following, found = sums.some(db, start, limit)
    damaged = [name for row in found if _is_damaged(db, row) for name in _owners_of_row(db, row)]
    return Rows(next=following, count=len(found), damaged=damaged)


def _is_damaged(db: sqlite3.Connection, row: sums.Standing) -> bool:
    if sums.is_damaged(row.values):
        return True
    body = row.values[_BODY] if row.summed.columns == sums.OBJECT else None
    return body is not None and not db.execute("SELECT 1 FROM bodies WHERE id = ?", (body,)).fetchone()


def _reseal(db: sqlite3.Connection, seal: Seal, start: str, limit: int) -> Resealed:
    following, found = sums.some(db, start, limit, _ENCRYPTED)
    changed = 0
    unopened: list[str] = []
    for row in found:
        # What an object or an upload says of its encryption stands last. Damaged rows stay as they are.
        *others, record, _ = row.values
        if not record or sums.is_damaged(row.values):
            continue
        new = seal(record)
        if new is None:
            unopened += _owners_of_row(db, row)
        elif new != record:
            summed = row.summed
            where = f"({summed.key}) = ({', '.join('?' * len(row.key))})"
            values = sums.sealed(*others, new)[-2:]
            db.execute(f"UPDATE {summed.table} SET encryption = ?, crc = ? WHERE {where}", (*values, *row.key))
            changed += 1
    return Resealed(next=following, changed=changed, unopened=unopened)


def _owners_of_row(db: sqlite3.Connection, row: sums.Standing) -> list[str]:
    """Never nobody: what is damaged may be whose it is."""
    table, key = row.summed.table, row.key
    named = ", ".join(part.hex() if isinstance(part, bytes) else str(part) for part in key)
    return _owners_of_key(db, table, key) or [f"row {named} of {table}"]


def _owners_of_key(db: sqlite3.Connection, table: str, key: sums.Row) -> list[str]:
    match table, key:
        case (("objects" | "versions"), (bucket, name, _)):
            version = db.execute(f"SELECT version FROM {table} WHERE (bucket, key, rank) = (?, ?, ?)", key).fetchone()
            return [_shown(_bucket(db, bucket), name) + (f" version {version[0]}" if version and version[0] else "")]
        case "buckets", (bucket,):
            return [f"bucket {_bucket(db, bucket)}"]
        case "bucket_configs", (bucket, kind):
            return [f"{kind} of bucket {_bucket(db, bucket)}"]
        case (("uploads" | "completions"), (bucket, name, upload)):
            return [f"upload {upload} of {_shown(_bucket(db, bucket), name)}"]
        case "parts", (upload, number):
            return _owners_of_part(db, upload, number)
        case "pins", (image_id,):
            return [f"image {image_id}"]
        case "quotas", (account_id, _):
            return [f"quota of account {account_id}"]
        case "elsewhere", (account_id,):
            return [f"what account {account_id} holds elsewhere"]
        case "notes", (name,):
            return [f"note {name}"]
        case ("snapshots", (snapshot,)) | (("manifests" | "claims"), (snapshot, _)):
            return _snapshots_where(db, "id = ?", snapshot)
        case "pages", (page,):
            return _snapshots_where(db, "id IN (SELECT snapshot FROM manifests WHERE page = ?)", page)
        case "packs", (pack,):
            digests = db.execute("SELECT digest FROM blocks WHERE pack = ?", (pack,))
            return _snapshots(db, frozenset(digest for (digest,) in digests))
        case "blocks", (digest,):
            return _snapshots(db, frozenset([digest]))
        case _:
            return []


def _owners_of_part(db: sqlite3.Connection, upload: str, number: int) -> list[str]:
    return [f"{name} part {number}" for name in _objects(db, "upload = ?", upload) or _uploads(db, upload)]


def _bucket(db: sqlite3.Connection, bucket: int) -> str:
    row = db.execute("SELECT name FROM buckets WHERE id = ?", (bucket,)).fetchone()
    return str(row[0]) if row else str(bucket)


def _bodies(db: sqlite3.Connection, start: int, limit: int) -> Bodies:
    found = db.execute("SELECT id, body, crc FROM bodies WHERE id >= ? ORDER BY id LIMIT ?", (start, limit)).fetchall()
    return Bodies(
        next=found[-1][0] + 1 if len(found) == limit else None,
        count=len(found),
        size=sum(len(body) for _, body, _ in found),
        damaged=[row for row, body, crc in found if crc != sums.crc_of(body)],
    )


def unsound(db: sqlite3.Connection) -> list[str]:
    try:
        # Not quick_check, which does not compare indices with their tables: by these what nobody names is deleted.
        said = [str(line) for (line,) in db.execute("PRAGMA integrity_check(20)")]
    except sqlite3.DatabaseError as error:
        return [str(error)]
    return [line for line in said if line != "ok"]


def _shown(bucket: str, key: bytes) -> str:
    return f"{bucket}/{key.decode('utf-8', 'replace')}"

"""Statements of the embedded index about blocks and who needs them. Those that write run as steps of the writer.

`blocks.refs` counts places in pages and claims of open uploads: whoever inserts or deletes one of those changes it by
`need` and `unneed` in the same step.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from common.errors import WrongState
from services.walrus.drivers.base import BlobId
from services.walrus.drivers.blocks import BlockUsage, StoredBlock
from services.walrus.drivers.embedded import sums

UPLOADING: Final = 0
SEALED: Final = 1

_STORED = (
    "SELECT b.digest, p.blob, b.start, b.length, b.size, b.compressed FROM blocks AS b JOIN packs AS p ON p.id = b.pack"
)


def begun(db: sqlite3.Connection, name: str, now_ms: int) -> int:
    """The row of an upload: made now, or touched."""
    row = db.execute("SELECT id, state FROM snapshots WHERE name = ? AND state < 2", (name,)).fetchone()
    if row is None:
        made = db.execute("INSERT INTO snapshots (name, state, touched_ms) VALUES (?, 0, ?)", (name, now_ms))
        assert made.lastrowid is not None
        describe(db, made.lastrowid, name, "", 0, 0)
        return made.lastrowid
    if row[1] != UPLOADING:
        raise WrongState(f"{name} is sealed.")
    db.execute("UPDATE snapshots SET touched_ms = ? WHERE id = ?", (now_ms, row[0]))
    return int(row[0])


def describe(db: sqlite3.Connection, row: int, name: str, account_id: str, size: int, full_bytes: int) -> None:
    _, _, *said = sums.sealed(row, name, account_id, size, full_bytes)
    db.execute("UPDATE snapshots SET account_id = ?, size = ?, full_bytes = ?, crc = ? WHERE id = ?", (*said, row))


def claim(db: sqlite3.Connection, name: str, digests: Iterable[bytes], now_ms: int) -> set[bytes]:
    upload = begun(db, name, now_ms)
    missing = set()
    for digest in set(digests):
        if db.execute("SELECT 1 FROM blocks WHERE digest = ? AND NOT damaged", (digest,)).fetchone():
            _claim(db, upload, digest)
        else:
            missing.add(digest)
    return missing


def add(db: sqlite3.Connection, name: str, blocks: Sequence[StoredBlock], now_ms: int) -> bool:
    upload = begun(db, name, now_ms)
    known = {block.digest: row for block in blocks if (row := _known(db, block.digest)) is not None}
    new = [block for block in blocks if block.digest not in known or known[block.digest].damaged]
    if new:
        pack = _add_pack(db, blocks, sum(block.length for block in new))
        for block in new:
            # One that is damaged keeps who needs it.
            db.execute(
                "INSERT INTO blocks (digest, pack, start, length, size, compressed, refs) VALUES (?, ?, ?, ?, ?, ?, 0) "
                "ON CONFLICT DO UPDATE SET pack = excluded.pack, start = excluded.start, length = excluded.length, "
                "compressed = excluded.compressed, damaged = 0",
                (block.digest, pack, block.start, block.length, block.size, block.compressed),
            )
            if block.digest in known:
                _free(db, known[block.digest].pack, known[block.digest].length)
    for block in blocks:
        _claim(db, upload, block.digest)
    return bool(new)


class _Known(NamedTuple):
    pack: int
    length: int
    damaged: int


def _known(db: sqlite3.Connection, digest: bytes) -> _Known | None:
    row = db.execute("SELECT pack, length, damaged FROM blocks WHERE digest = ?", (digest,)).fetchone()
    return _Known(*row) if row else None


def doubt(db: sqlite3.Connection, digest: bytes) -> None:
    db.execute("UPDATE blocks SET damaged = 1 WHERE digest = ?", (digest,))


def _add_pack(db: sqlite3.Connection, blocks: Sequence[StoredBlock], live: int) -> int:
    length = max(block.start + block.length for block in blocks)
    blob = bytes.fromhex(blocks[0].pack)
    made = db.execute("INSERT INTO packs (blob, length, live) VALUES (?, ?, ?)", (blob, length, live))
    assert made.lastrowid is not None
    return made.lastrowid


def _claim(db: sqlite3.Connection, upload: int, digest: bytes) -> None:
    if db.execute("INSERT OR IGNORE INTO claims (snapshot, digest) VALUES (?, ?)", (upload, digest)).rowcount:
        need(db, {digest: 1})


def need(db: sqlite3.Connection, digests: Mapping[bytes, int]) -> None:
    """One place more for each. Raises WrongState (BlockMissing)."""
    for digest, places in digests.items():
        changed = db.execute("UPDATE blocks SET refs = refs + ? WHERE digest = ?", (places, digest))
        if changed.rowcount == 0:
            raise WrongState(f"Block {digest.hex()} is not here.", code="BlockMissing")


def unneed(db: sqlite3.Connection, digests: Mapping[bytes, int]) -> None:
    freed: Counter[int] = Counter()
    for digest, places in digests.items():
        row = db.execute(
            "UPDATE blocks SET refs = refs - ? WHERE digest = ? RETURNING refs, pack, length", (places, digest)
        ).fetchone()
        if row and row[0] <= 0:
            db.execute("DELETE FROM blocks WHERE digest = ?", (digest,))
            freed[row[1]] += row[2]
    for pack, length in freed.items():
        _free(db, pack, length)


def _free(db: sqlite3.Connection, pack: int, length: int) -> None:
    """Of a pack; one that holds no block any more goes."""
    db.execute("UPDATE packs SET live = live - ? WHERE id = ?", (length, pack))
    row = db.execute("DELETE FROM packs WHERE id = ? AND live <= 0 RETURNING blob", (pack,)).fetchone()
    if row:
        db.execute("INSERT INTO garbage (blob) VALUES (?)", row)


def find(db: sqlite3.Connection, digests: Iterable[bytes]) -> list[StoredBlock]:
    rows = (db.execute(f"{_STORED} WHERE b.digest = ?", (digest,)).fetchone() for digest in digests)
    return [_stored(row) for row in rows if row]


def _stored(row: tuple[bytes, bytes, int, int, int, int]) -> StoredBlock:
    digest, pack, start, length, size, compressed = row
    return StoredBlock(
        digest=digest, pack=BlobId(pack.hex()), start=start, length=length, size=size, compressed=bool(compressed)
    )


def drain_claims(db: sqlite3.Connection, limit: int) -> bool:
    """Of uploads that have ended."""
    rows = db.execute(
        "SELECT c.snapshot, c.digest FROM snapshots AS s JOIN claims AS c ON c.snapshot = s.id "
        "WHERE s.draining LIMIT ?",
        (limit,),
    ).fetchall()
    db.executemany("DELETE FROM claims WHERE snapshot = ? AND digest = ?", rows)
    unneed(db, Counter(digest for _, digest in rows))
    return bool(rows)


def sparse(db: sqlite3.Connection, limit: int) -> list[BlobId]:
    # Worded as the partial index is, so that it is used.
    rows = db.execute("SELECT blob FROM packs WHERE live * 4 <= length * 3 ORDER BY id LIMIT ?", (limit,))
    return [BlobId(blob.hex()) for (blob,) in rows]


def blocks_of(db: sqlite3.Connection, pack: BlobId) -> list[StoredBlock]:
    return [_stored(row) for row in db.execute(f"{_STORED} WHERE p.blob = ? ORDER BY b.start", (bytes.fromhex(pack),))]


def move(db: sqlite3.Connection, blocks: Sequence[StoredBlock], old: BlobId) -> bool:
    row = db.execute("SELECT id FROM packs WHERE blob = ?", (bytes.fromhex(old),)).fetchone()
    if row is None or not blocks:
        return False
    live = 0
    new = _add_pack(db, blocks, 0)
    for block in blocks:
        moved = db.execute(
            "UPDATE blocks SET pack = ?, start = ? WHERE digest = ? AND pack = ?",
            (new, block.start, block.digest, row[0]),
        )
        live += block.length * moved.rowcount
    _free(db, row[0], live)
    if not live:
        db.execute("DELETE FROM packs WHERE id = ?", (new,))
        return False
    db.execute("UPDATE packs SET live = ? WHERE id = ?", (live, new))
    return True


def usage(db: sqlite3.Connection) -> BlockUsage:
    states = dict(db.execute("SELECT state, count(*) FROM snapshots GROUP BY state"))
    live, length = db.execute("SELECT coalesce(sum(live), 0), coalesce(sum(length), 0) FROM packs").fetchone()
    return BlockUsage(
        snapshots=states.get(SEALED, 0),
        uploads=states.get(UPLOADING, 0),
        block_bytes=live,
        pack_bytes=length,
    )

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
from services.walrus.drivers.embedded import sums, upkeep

UPLOADING: Final = 0
SEALED: Final = 1

_BLOCK: Final = f"{sums.BLOCK}, crc"
_STORED: Final = (
    ", ".join(f"b.{column}" for column in _BLOCK.split(", "))
    + ", "
    + ", ".join(f"p.{column}" for column in f"{sums.PACK}, crc".split(", "))
)
_FIND: Final = f"SELECT {_STORED} FROM blocks AS b JOIN packs AS p ON p.id = b.pack"
_MORE: Final = sums.BLOCKS.change(refs="refs + ?1")
_BLOCK_COLUMNS: Final = _BLOCK.count(",") + 1
# More places than there are: a block whose count is lost stays for good.
_MANY: Final = 1 << 40


def begun(db: sqlite3.Connection, name: str, now_ms: int) -> int:
    """The row of an upload: made now, or touched."""
    row = db.execute(f"SELECT {sums.SNAPSHOT}, crc FROM snapshots WHERE name = ? AND state < 2", (name,)).fetchone()
    if row is None:
        made = db.execute("INSERT INTO snapshots (name, state, touched_ms) VALUES (?, 0, ?)", (name, now_ms)).lastrowid
        assert made is not None
        db.execute(f"UPDATE snapshots SET crc = row_crc({sums.SNAPSHOT}) WHERE id = ?", (made,))
        return made
    upload, *_, state, _, _ = sums.whole(row, f"snapshot {name}")
    if state != UPLOADING:
        raise WrongState(f"{name} is sealed.")
    db.execute(f"UPDATE snapshots SET {sums.SNAPSHOTS.change(touched_ms='?1')} WHERE id = ?2", (now_ms, upload))
    return int(upload)


def describe(db: sqlite3.Connection, row: int, account_id: str, size: int, full_bytes: int) -> None:
    what = sums.SNAPSHOTS.change(account_id="?1", size="?2", full_bytes="?3")
    db.execute(f"UPDATE snapshots SET {what} WHERE id = ?4", (account_id, size, full_bytes, row))


def whole_snapshots(db: sqlite3.Connection, which: str, *values: int) -> list[int]:
    """Of these the ones that are not damaged: what is done to others by themselves would follow from a wrong word."""
    found = db.execute(f"SELECT {sums.SNAPSHOT}, crc FROM snapshots WHERE {which}", values).fetchall()
    return [row[0] for row in found if not sums.is_damaged(row)]


def claim(db: sqlite3.Connection, name: str, digests: Iterable[bytes], now_ms: int) -> set[bytes]:
    upload = begun(db, name, now_ms)
    missing = set()
    for digest in set(digests):
        if (known := _known(db, digest)) is not None and not known.damaged:
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
            old = known.get(block.digest, _Known(0, 0, 0, 0))
            place = (block.digest, pack, block.start, block.length, block.size, int(block.compressed))
            db.execute(
                f"INSERT OR REPLACE INTO blocks ({_BLOCK}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                sums.sealed(*place, old.refs, 0),
            )
            if old.length:
                _free(db, old.pack, old.length)
    for block in blocks:
        _claim(db, upload, block.digest)
    return bool(new)


class _Known(NamedTuple):
    pack: int
    # 0: nobody knows where it is.
    length: int
    refs: int
    damaged: int


def _known(db: sqlite3.Connection, digest: bytes) -> _Known | None:
    """One whose row is damaged is needed for good, and has to come again."""
    row = db.execute(f"SELECT {_BLOCK} FROM blocks WHERE digest = ?", (digest,)).fetchone()
    if row is None:
        return None
    if sums.is_damaged(row):
        return _Known(0, 0, _MANY, 1)
    _, pack, _, length, _, _, refs, damaged, _ = row
    return _Known(pack, length, refs, damaged)


def doubt(db: sqlite3.Connection, digest: bytes) -> None:
    db.execute(f"UPDATE blocks SET {sums.BLOCKS.change(damaged='1')} WHERE digest = ?", (digest,))


def _add_pack(db: sqlite3.Connection, blocks: Sequence[StoredBlock], live: int) -> int:
    length = max(block.start + block.length for block in blocks)
    blob = bytes.fromhex(blocks[0].pack)
    made = db.execute("INSERT INTO packs (blob, length, live) VALUES (?, ?, ?)", (blob, length, live)).lastrowid
    assert made is not None
    db.execute("UPDATE packs SET crc = ? WHERE id = ?", (sums.row_crc((made, blob, length, live)), made))
    return made


def _claim(db: sqlite3.Connection, upload: int, digest: bytes) -> None:
    row = sums.sealed(upload, digest)
    if db.execute("INSERT OR IGNORE INTO claims (snapshot, digest, crc) VALUES (?, ?, ?)", row).rowcount:
        need(db, {digest: 1})


def need(db: sqlite3.Connection, digests: Mapping[bytes, int]) -> None:
    """One place more for each. Raises WrongState (BlockMissing)."""
    for digest, places in digests.items():
        changed = db.execute(f"UPDATE blocks SET {_MORE} WHERE digest = ?2", (places, digest))
        if changed.rowcount == 0:
            raise WrongState(f"Block {digest.hex()} is not here.", code="BlockMissing")


def unneed(db: sqlite3.Connection, digests: Mapping[bytes, int]) -> None:
    freed: Counter[int] = Counter()
    for digest, places in digests.items():
        db.execute(f"UPDATE blocks SET {_MORE} WHERE digest = ?2", (-places, digest))
        known = _known(db, digest)
        if known and known.refs <= 0:
            db.execute("DELETE FROM blocks WHERE digest = ?", (digest,))
            freed[known.pack] += known.length
    for pack, length in freed.items():
        _free(db, pack, length)


def _free(db: sqlite3.Connection, pack: int, length: int) -> None:
    """Of a pack; one that holds no block any more goes. A damaged one stays."""
    what = sums.PACKS.change(live="live - ?1")
    row = db.execute(f"UPDATE packs SET {what} WHERE id = ?2 RETURNING {sums.PACK}, crc", (length, pack)).fetchone()
    if row and not sums.is_damaged(row) and row[3] <= 0:
        db.execute("DELETE FROM packs WHERE id = ?", (pack,))
        upkeep.let_go(db, row[1])


def find(db: sqlite3.Connection, digests: Iterable[bytes]) -> list[StoredBlock]:
    rows = (db.execute(f"{_FIND} WHERE b.digest = ?", (digest,)).fetchone() for digest in digests)
    return [_stored(row) for row in rows if row]


def _stored(row: sums.Row) -> StoredBlock:
    """Of _STORED. Raises an InternalError if the block's row or its pack's is damaged."""
    what = f"block {row[0].hex()}"
    digest, _, start, length, size, compressed, _, _ = sums.whole(row[:_BLOCK_COLUMNS], what)
    _, pack, _, _ = sums.whole(row[_BLOCK_COLUMNS:], what)
    return StoredBlock(
        digest=digest, pack=BlobId(pack.hex()), start=start, length=length, size=size, compressed=bool(compressed)
    )


def drain_claims(db: sqlite3.Connection, limit: int) -> bool:
    """Of uploads that have ended."""
    rows: list[sums.Row] = []
    for snapshot in whole_snapshots(db, "draining"):
        query = f"SELECT {sums.CLAIM}, crc FROM claims WHERE snapshot = ? LIMIT ?"
        rows += db.execute(query, (snapshot, limit - len(rows))).fetchall()
    dropped = db.executemany("DELETE FROM claims WHERE snapshot = ? AND digest = ?", [row[:2] for row in rows]).rowcount
    # Of a damaged one nobody knows which block it was for.
    unneed(db, Counter(row[1] for row in rows if not sums.is_damaged(row)))
    return dropped > 0


def sparse(db: sqlite3.Connection, limit: int) -> list[BlobId]:
    # Worded as the partial index is, so that it is used.
    query = f"SELECT {sums.PACK}, crc FROM packs WHERE live * 4 <= length * 3 ORDER BY id LIMIT ?"
    return [BlobId(row[1].hex()) for row in db.execute(query, (limit,)) if not sums.is_damaged(row)]


def blocks_of(db: sqlite3.Connection, pack: BlobId) -> list[StoredBlock]:
    return [_stored(row) for row in db.execute(f"{_FIND} WHERE p.blob = ? ORDER BY b.start", (bytes.fromhex(pack),))]


def move(db: sqlite3.Connection, blocks: Sequence[StoredBlock], old: BlobId) -> bool:
    row = db.execute("SELECT id FROM packs WHERE blob = ?", (bytes.fromhex(old),)).fetchone()
    if row is None or not blocks:
        return False
    live = 0
    new = _add_pack(db, blocks, 0)
    for block in blocks:
        moved = db.execute(
            f"UPDATE blocks SET {sums.BLOCKS.change(pack='?1', start='?2')} WHERE digest = ?3 AND pack = ?4",
            (new, block.start, block.digest, row[0]),
        )
        live += block.length * moved.rowcount
    _free(db, row[0], live)
    if not live:
        db.execute("DELETE FROM packs WHERE id = ?", (new,))
        return False
    db.execute(f"UPDATE packs SET {sums.PACKS.change(live='?1')} WHERE id = ?2", (live, new))
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

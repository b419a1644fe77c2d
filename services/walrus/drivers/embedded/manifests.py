"""Statements of the embedded index about snapshots and their pages. Those that write run as steps of the writer.

While a snapshot is uploaded, its rows in `manifests` are drafts: nobody reads them, and one without a page stands for
256 zero blocks. `draining` says that it has claims (once sealed) or pages and claims (once forgotten) to give back.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from common.blocks import BLOCK_BYTES, DIGEST_BYTES
from common.errors import NotFound
from services.walrus.drivers.blocks import Changes, Sealed
from services.walrus.drivers.embedded import blocks, sums

PAGE_BLOCKS: Final = 256
_ZERO: Final = bytes(DIGEST_BYTES)
_SNAPSHOT: Final = f"{sums.SNAPSHOT}, crc"
_ENDED: Final = sums.SNAPSHOTS.change(state="1", draining="1")
_FORGOTTEN: Final = sums.SNAPSHOTS.change(state="2", draining="1")
# Rows of a manifest, each with its page.
_NUMBERED: Final = (
    "m.snapshot, m.number, m.page, m.crc, p.blocks, p.digests, p.crc "
    "FROM manifests AS m LEFT JOIN pages AS p ON p.id = m.page"
)


def undraft(db: sqlite3.Connection, name: str, now_ms: int, limit: int) -> bool:
    """True: there were as many pages as it takes at a time."""
    return _drop_pages(db, blocks.begun(db, name, now_ms), limit) == limit


def draft(db: sqlite3.Connection, name: str, base: str, changes: Changes, now_ms: int) -> None:
    upload = blocks.begun(db, name, now_ms)
    base_row = _sealed_row(db, base)[0] if base else None
    for number, changed in changes.items():
        drafted = _page(db, upload, number)
        old = drafted or _page(db, base_row, number)
        page = _add_page(db, _merged(old[1] if old else b"", changed))
        db.execute(
            "INSERT OR REPLACE INTO manifests (snapshot, number, page, crc) VALUES (?, ?, ?, ?)",
            sums.sealed(upload, number, page),
        )
        if drafted:
            _drop_page(db, drafted[0])


def _page(db: sqlite3.Connection, snapshot: int | None, number: int) -> tuple[int | None, bytes] | None:
    """Without an id and empty: all of it is zero."""
    row = db.execute(f"SELECT {_NUMBERED} WHERE m.snapshot = ? AND m.number = ?", (snapshot, number)).fetchone()
    if row is None:
        return None
    _, page, digests = _numbered(row, f"page {number} of a snapshot")
    return page, digests


def _numbered(row: sums.Row, what: str) -> tuple[int, int | None, bytes]:
    """Of _NUMBERED: its number, the page's id and digests. Raises an InternalError if it is damaged."""
    _, number, page = sums.whole(row[:4], what)
    if page is None:
        return number, None, b""
    # One that is not there is no page that was written.
    _, digests = sums.whole(row[4:], what)
    return number, page, digests


def _merged(old: bytes, changed: Mapping[int, bytes]) -> bytes:
    new = bytearray(old or _ZERO * PAGE_BLOCKS)
    for place, digest in changed.items():
        new[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES] = digest or _ZERO
    return bytes(new)


def _add_page(db: sqlite3.Connection, digests: bytes) -> int | None:
    """None: all of it is zero."""
    places = _needs(digests)
    if not places:
        return None
    blocks.need(db, places)
    page = sums.sealed(places.total(), digests)
    made = db.execute("INSERT INTO pages (refs, blocks, digests, crc) VALUES (1, ?, ?, ?)", page).lastrowid
    db.execute("UPDATE pages SET refs_crc = ? WHERE id = ?", (sums.row_crc((made, 1)), made))
    return made


def _needs(digests: bytes) -> Counter[bytes]:
    found = Counter(digests[start : start + DIGEST_BYTES] for start in range(0, len(digests), DIGEST_BYTES))
    del found[_ZERO]
    return found


def seal(db: sqlite3.Connection, manifest: Sealed, base: str, now_ms: int) -> Sealed:
    upload = blocks.begun(db, manifest.snapshot_id, now_ms)
    if base:
        _share(db, _sealed_row(db, base)[0], upload)
    db.execute("DELETE FROM manifests WHERE snapshot = ? AND page IS NULL", (upload,))
    full_bytes = _full_bytes(db, upload, manifest.size)
    blocks.describe(db, upload, manifest.account_id, manifest.size, full_bytes)
    db.execute(f"UPDATE snapshots SET {_ENDED} WHERE id = ?", (upload,))
    return replace(manifest, full_bytes=full_bytes)


def _share(db: sqlite3.Connection, source: int, target: int) -> None:
    """The target has the source's pages where it has none of its own. Raises an InternalError for a damaged one."""
    for row in db.execute("SELECT snapshot, number, page, crc FROM manifests WHERE snapshot = ?", (source,)).fetchall():
        sums.whole(row, f"page {row[1]} of a snapshot")
    others = "SELECT number FROM manifests WHERE snapshot = ?2"
    db.execute(
        f"UPDATE pages SET {sums.PAGES_SHARED.change(refs='refs + 1')} WHERE id IN "
        f"(SELECT page FROM manifests WHERE snapshot = ?1 AND number NOT IN ({others}))",
        (source, target),
    )
    db.execute(
        "INSERT INTO manifests (snapshot, number, page, crc) SELECT ?2, number, page, row_crc(?2, number, page) "
        f"FROM manifests WHERE snapshot = ?1 AND number NOT IN ({others})",
        (source, target),
    )


def _full_bytes(db: sqlite3.Connection, row: int, size: int) -> int:
    (count,) = db.execute(
        "SELECT coalesce(sum(p.blocks), 0) FROM manifests AS m JOIN pages AS p ON p.id = m.page WHERE m.snapshot = ?",
        (row,),
    ).fetchone()
    whole = int(count) * BLOCK_BYTES
    short = -size % BLOCK_BYTES
    if not short:
        return whole
    number, place = divmod(size // BLOCK_BYTES, PAGE_BLOCKS)
    last = db.execute(
        "SELECT substr(p.digests, ?, ?) FROM manifests AS m JOIN pages AS p ON p.id = m.page "
        "WHERE m.snapshot = ? AND m.number = ?",
        (place * DIGEST_BYTES + 1, DIGEST_BYTES, row, number),
    ).fetchone()
    return whole - short if last and last[0] != _ZERO else whole


def sealed(db: sqlite3.Connection, name: str) -> Sealed | None:
    row = db.execute(f"SELECT {_SNAPSHOT} FROM snapshots WHERE name = ? AND state = 1", (name,)).fetchone()
    if row is None:
        return None
    _, _, account_id, size, full_bytes, *_ = sums.whole(row, f"snapshot {name}")
    return Sealed(snapshot_id=name, account_id=account_id, size=size, full_bytes=full_bytes)


def pages(db: sqlite3.Connection, name: str, after: int, limit: int) -> list[tuple[int, bytes]]:
    found = db.execute(
        f"SELECT {_NUMBERED} JOIN snapshots AS s ON s.id = m.snapshot "
        "WHERE s.name = ? AND s.state = 1 AND m.number > ? ORDER BY m.number LIMIT ?",
        (name, after, limit),
    ).fetchall()
    each = (_numbered(row, f"page {row[1]} of snapshot {name}") for row in found)
    return [(number, digests) for number, _, digests in each]


def copy(db: sqlite3.Connection, source: str, new: Sealed, now_ms: int) -> Sealed:
    if (standing := sealed(db, new.snapshot_id)) is not None:
        return standing
    row, size, full_bytes = _sealed_row(db, source)
    target = blocks.begun(db, new.snapshot_id, now_ms)
    _share(db, row, target)
    blocks.describe(db, target, new.account_id, size, full_bytes)
    db.execute(f"UPDATE snapshots SET {_ENDED} WHERE id = ?", (target,))
    return replace(new, size=size, full_bytes=full_bytes)


def _sealed_row(db: sqlite3.Connection, name: str) -> tuple[int, int, int]:
    row = db.execute(f"SELECT {_SNAPSHOT} FROM snapshots WHERE name = ? AND state = 1", (name,)).fetchone()
    if row is None:
        raise missing(name)
    snapshot, _, _, size, full_bytes, *_ = sums.whole(row, f"snapshot {name}")
    return snapshot, size, full_bytes


def missing(name: str) -> NotFound:
    return NotFound(f"The snapshot '{name}' does not exist.", code="InvalidSnapshot.NotFound")


def forget(db: sqlite3.Connection, name: str) -> None:
    db.execute(f"UPDATE snapshots SET {_FORGOTTEN} WHERE name = ? AND state < 2", (name,))


def forget_idle(db: sqlite3.Connection, before_ms: int) -> int:
    idle = blocks.whole_snapshots(db, f"state = {blocks.UPLOADING} AND touched_ms < ?", before_ms)
    for snapshot in idle:
        db.execute(f"UPDATE snapshots SET {_FORGOTTEN} WHERE id = ?", (snapshot,))
    return len(idle)


def draining(db: sqlite3.Connection) -> bool:
    return bool(blocks.whole_snapshots(db, "draining"))


def drain(db: sqlite3.Connection, limit: int) -> bool:
    if blocks.drain_claims(db, limit):
        return True
    # None has claims any more.
    db.execute(f"UPDATE snapshots SET {sums.SNAPSHOTS.change(draining='0')} WHERE draining AND state = {blocks.SEALED}")
    ended = blocks.whole_snapshots(db, "draining")
    if not ended:
        return False
    at_once = max(1, limit // PAGE_BLOCKS)
    if _drop_pages(db, ended[0], at_once) < at_once:
        db.execute("DELETE FROM snapshots WHERE id = ?", (ended[0],))
    return True


def _drop_pages(db: sqlite3.Connection, snapshot: int, limit: int) -> int:
    dropped = db.execute(
        f"SELECT {sums.MANIFEST}, crc FROM manifests WHERE snapshot = ? ORDER BY number LIMIT ?", (snapshot, limit)
    ).fetchall()
    for row in dropped:
        _, number, page, _ = row
        db.execute("DELETE FROM manifests WHERE snapshot = ? AND number = ?", (snapshot, number))
        # Nobody knows which page a damaged one had: it stays.
        if not sums.is_damaged(row):
            _drop_page(db, page)
    return len(dropped)


def _drop_page(db: sqlite3.Connection, page: int | None) -> None:
    found = db.execute(
        f"UPDATE pages SET {sums.PAGES_SHARED.change(refs='refs - 1')} WHERE id = ? "
        f"RETURNING {sums.SHARED}, refs_crc, {sums.PAGE}, crc",
        (page,),
    ).fetchone()
    # One whose count is damaged may be others' as well.
    if found and found[1] <= 0 and not sums.is_damaged(found[:3]):
        db.execute("DELETE FROM pages WHERE id = ?", (page,))
        # Of a damaged one nobody knows which blocks it needed: they stay.
        if not sums.is_damaged(found[3:]):
            blocks.unneed(db, _needs(found[4]))

"""The part of the embedded index that counts what buckets hold, and says when it is too much: drivers/quotas.py Quotas.

Whoever changes what a bucket holds calls `count` in the same step, or `add` where it is never too much.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace

from services.walrus import errors
from services.walrus.drivers.base import Bucket
from services.walrus.drivers.embedded import sums
from services.walrus.drivers.embedded.block_index import Run
from services.walrus.drivers.quotas import (
    NOTHING,
    UNLIMITED,
    AccountFull,
    Elsewhere,
    Held,
    Quota,
    allowed_elsewhere,
    no_more,
    share_of,
    within,
)

_QUOTA = f"{sums.QUOTA}, crc"
# Of the bucket ?1: objects, their bytes, those of parts of open uploads.
_COUNTED = """
    SELECT (SELECT count(*) FROM objects WHERE bucket = ?1) + (SELECT count(*) FROM versions WHERE bucket = ?1),
    (SELECT coalesce(sum(size), 0) FROM objects WHERE bucket = ?1)
    + (SELECT coalesce(sum(size), 0) FROM versions WHERE bucket = ?1),
    (SELECT coalesce(sum(p.size), 0) FROM uploads AS u JOIN parts AS p ON p.upload = u.id WHERE u.bucket = ?1)
"""


class SqliteQuotas:
    """`change` runs a step in the writer, `read` a query in a reader, `glance` one in the caller's thread."""

    def __init__(self, change: Run, read: Run, glance: Callable[[Callable[[sqlite3.Connection], None]], None]) -> None:
        self._change = change
        self._read = read
        self._glance = glance
        self.more: Callable[[str, Elsewhere], Awaitable[bool]] = no_more

    async def put_account(self, account_id: str, quota: Quota, elsewhere: Elsewhere = NOTHING) -> None:
        await self._change(lambda db: _put_account(db, account_id, quota, elsewhere))

    async def put_bucket(self, name: str, quota: Quota) -> None:
        await self._change(lambda db: _put_bucket(db, name, quota))

    async def check(self, bucket: Bucket, *, size: int, objects: int) -> None:
        async def glance() -> None:
            self._glance(lambda db: _check(db, bucket.id, size, objects))

        await within(self, glance)

    async def limited(self) -> list[str]:
        return await self._read(lambda db: [account_id for account_id, _ in _quotas(db, "bucket = 0")])

    async def elsewhere(self) -> dict[str, Elsewhere]:
        return await self._read(_elsewhere_whole)

    async def put_elsewhere(self, held: Mapping[str, Elsewhere]) -> None:
        await self._change(lambda db: _put_elsewhere(db, held))

    async def grant(self, account_id: str, need: Elsewhere) -> Elsewhere | None:
        return await self._change(lambda db: _grant(db, account_id, need))

    async def allow(self, account_id: str, allowance: Elsewhere) -> None:
        await self._change(lambda db: _allow(db, account_id, allowance))

    async def give_back(self, account_id: str, quota: Quota) -> Elsewhere:
        return await self._change(lambda db: _give_back(db, account_id, quota))

    async def counted(self, account_id: str) -> Held:
        return await self._read(lambda db: _counted(db, account_id, _quota_of(db, account_id)))

    async def accounts(self) -> list[Held]:
        return await self._read(_accounts)

    async def buckets(self, account_id: str) -> list[Held]:
        return await self._read(lambda db: _buckets(db, account_id))


def count(db: sqlite3.Connection, bucket: int, *, objects: int = 0, size: int = 0, part_bytes: int = 0) -> bool:
    """So much more, or less. False: there is no such bucket. Raises Denied (QuotaExceeded)."""
    if size + part_bytes > 0 or objects > 0:
        _check(db, bucket, size + part_bytes, objects)
    return add(db, bucket, objects=objects, size=size, part_bytes=part_bytes)


def add(db: sqlite3.Connection, bucket: int, *, objects: int = 0, size: int = 0, part_bytes: int = 0) -> bool:
    """As `count`, whatever the quotas are."""
    found = held_by(db, "id = ?", bucket)
    for held in found:
        _write(db, bucket, held.objects + objects, held.size + size, held.part_bytes + part_bytes)
    return bool(found)


def release(db: sqlite3.Connection, bucket: int, upload: str) -> None:
    """The parts of an upload that is open no more."""
    (size,) = db.execute("SELECT coalesce(sum(size), 0) FROM parts WHERE upload = ?", (upload,)).fetchone()
    add(db, bucket, part_bytes=-size)


def forget_bucket(db: sqlite3.Connection, bucket: int) -> None:
    db.execute("DELETE FROM quotas WHERE bucket = ?", (bucket,))


def held_by(db: sqlite3.Connection, which: str, *values: str | int) -> list[Held]:
    """What each of these buckets holds, by name. Raises an InternalError if what the index says is damaged."""
    found = []
    query = f"SELECT name, account_id, {sums.HELD}, held_crc FROM buckets WHERE {which} ORDER BY name"
    for name, account_id, *figures in db.execute(query, values).fetchall():
        _, objects, size, part_bytes = sums.whole(tuple(figures), f"what bucket {name} holds")
        found.append(
            Held(
                account_id=account_id,
                bucket=name,
                objects=objects,
                size=size,
                part_bytes=part_bytes,
                quota=UNLIMITED,
            )
        )
    return found


def mend(db: sqlite3.Connection) -> None:
    """Counts anew in buckets whose figures are not what was written: they follow from what stands there."""
    for bucket, *figures in db.execute(f"SELECT id, {sums.HELD}, held_crc FROM buckets").fetchall():
        if sums.is_damaged(tuple(figures)):
            _write(db, bucket, *db.execute(_COUNTED, (bucket,)).fetchone())


def _write(db: sqlite3.Connection, bucket: int, objects: int, size: int, part_bytes: int) -> None:
    _, *figures = sums.sealed(bucket, objects, size, part_bytes)
    db.execute(
        "UPDATE buckets SET objects = ?, bytes = ?, part_bytes = ?, held_crc = ? WHERE id = ?", (*figures, bucket)
    )


def _check(db: sqlite3.Connection, bucket: int, size: int, objects: int) -> None:
    # Most stores have none, and this is asked twice for each object.
    if db.execute("SELECT 1 FROM quotas LIMIT 1").fetchone() is None:
        return
    found = _quotas(db, "account_id = (SELECT account_id FROM buckets WHERE id = ?1) AND bucket IN (0, ?1)", bucket)
    for (account_id, of), quota in found.items():
        held = _together(account_id, held_by(db, "id = ?", of)) if of else _counted(db, account_id, quota)
        if too_much := quota.exceeded(held, size=size, objects=objects):
            if of:
                raise errors.quota_exceeded("bucket", too_much)
            need = Elsewhere(objects=max(objects, 0), size=max(size, 0))
            raise AccountFull(errors.over_quota("account", too_much), account_id, need)


def _counted(db: sqlite3.Connection, account_id: str, quota: Quota) -> Held:
    """With what counts as held elsewhere."""
    held = _together(account_id, held_by(db, "account_id = ?", account_id), quota)
    return held.with_elsewhere(_elsewhere(db, "account_id = ?", account_id).get(account_id))


def _quota_of(db: sqlite3.Connection, account_id: str) -> Quota:
    return _quotas(db, "account_id = ? AND bucket = 0", account_id).get((account_id, 0), UNLIMITED)


def _grant(db: sqlite3.Connection, account_id: str, need: Elsewhere) -> Elsewhere | None:
    granted = share_of(_counted(db, account_id, _quota_of(db, account_id)), need)
    if granted is not None:
        there = _elsewhere(db, "account_id = ?", account_id).get(account_id, NOTHING)
        _put_elsewhere(db, {account_id: there + granted})
    return granted


def _allow(db: sqlite3.Connection, account_id: str, allowance: Elsewhere) -> None:
    _put_elsewhere(db, {account_id: allowed_elsewhere(_quota_of(db, account_id), allowance)})


def _give_back(db: sqlite3.Connection, account_id: str, quota: Quota) -> Elsewhere:
    if _quota_of(db, account_id) == UNLIMITED:
        _put(db, account_id, 0, quota)
    held = _together(account_id, held_by(db, "account_id = ?", account_id)).total
    _allow(db, account_id, held)
    return held


def _elsewhere(db: sqlite3.Connection, which: str = "TRUE", *values: str) -> dict[str, Elsewhere]:
    rows = db.execute(f"SELECT {sums.ELSEWHERE}, crc FROM elsewhere WHERE {which}", values).fetchall()
    each = (sums.whole(row, f"what account {row[0]} holds elsewhere") for row in rows)
    return {account_id: Elsewhere(objects=objects, size=size) for account_id, objects, size in each}


def _elsewhere_whole(db: sqlite3.Connection) -> dict[str, Elsewhere]:
    """Nothing of a damaged row: what comes next replaces it."""
    rows = db.execute(f"SELECT {sums.ELSEWHERE}, crc FROM elsewhere").fetchall()
    return {row[0]: Elsewhere(objects=row[1], size=row[2]) for row in rows if not sums.is_damaged(row)}


def _put_elsewhere(db: sqlite3.Connection, held: Mapping[str, Elsewhere]) -> None:
    rows = [sums.sealed(account_id, one.objects, one.size) for account_id, one in held.items()]
    db.executemany(f"INSERT OR REPLACE INTO elsewhere ({sums.ELSEWHERE}, crc) VALUES (?, ?, ?, ?)", rows)


def _quotas(db: sqlite3.Connection, which: str, *values: str | int) -> dict[tuple[str, int], Quota]:
    """By account and bucket."""
    found = {}
    for row in db.execute(f"SELECT {_QUOTA} FROM quotas WHERE {which}", values).fetchall():
        account_id, bucket, most_bytes, most_objects = sums.whole(row, f"the quota of account {row[0]}")
        found[account_id, bucket] = Quota(size=most_bytes, objects=most_objects)
    return found


def _together(account_id: str, each: Iterable[Held], quota: Quota = UNLIMITED) -> Held:
    each = list(each)
    return Held(
        account_id=account_id,
        bucket="",
        objects=sum(one.objects for one in each),
        size=sum(one.size for one in each),
        part_bytes=sum(one.part_bytes for one in each),
        quota=quota,
    )


def _put_account(db: sqlite3.Connection, account_id: str, quota: Quota, elsewhere: Elsewhere) -> None:
    _put(db, account_id, 0, quota)
    _put_elsewhere(db, {account_id: elsewhere})


def _put_bucket(db: sqlite3.Connection, name: str, quota: Quota) -> None:
    row = db.execute("SELECT id, account_id FROM buckets WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise errors.no_such_bucket(name)
    _put(db, row[1], row[0], quota)


def _put(db: sqlite3.Connection, account_id: str, bucket: int, quota: Quota) -> None:
    db.execute("DELETE FROM quotas WHERE account_id = ? AND bucket = ?", (account_id, bucket))
    if quota != UNLIMITED:
        row = sums.sealed(account_id, bucket, quota.size, quota.objects)
        db.execute(f"INSERT INTO quotas ({_QUOTA}) VALUES (?, ?, ?, ?, ?)", row)


def _accounts(db: sqlite3.Connection) -> list[Held]:
    quotas = _quotas(db, "bucket = 0")
    buckets: dict[str, list[Held]] = {account_id: [] for account_id, _ in quotas}
    for held in held_by(db, "TRUE"):
        buckets.setdefault(held.account_id, []).append(held)
    return [
        _together(account_id, each, quotas.get((account_id, 0), UNLIMITED))
        for account_id, each in sorted(buckets.items())
    ]


def _buckets(db: sqlite3.Connection, account_id: str) -> list[Held]:
    ids = dict(db.execute("SELECT name, id FROM buckets WHERE account_id = ?", (account_id,)).fetchall())
    quotas = _quotas(db, "account_id = ?", account_id)
    found = held_by(db, "account_id = ?", account_id)
    return [replace(held, quota=quotas.get((account_id, ids[held.bucket]), UNLIMITED)) for held in found]

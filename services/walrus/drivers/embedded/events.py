"""Events on their way out, in the embedded index."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from typing import Any

from common.errors import CloudError
from services.walrus import damage
from services.walrus.drivers.embedded import sums
from services.walrus.drivers.events import Event, Waiting
from services.walrus.drivers.versions import Deletion, Gone


class SqliteEvents:
    """drivers/events.py EventQueue."""

    def __init__(self, change: Callable[[Any], Awaitable[Any]], read: Callable[[Any], Awaitable[Any]]) -> None:
        self._change = change
        self._read = read

    async def next(self, target: str, limit: int) -> list[Waiting]:
        found: list[Waiting] = await self._read(lambda db: _next(db, target, limit))
        return found

    async def forget(self, target: str, up_to: int) -> None:
        query = "DELETE FROM events WHERE target = ? AND id <= ?"
        await self._change(lambda db: db.execute(query, (target, up_to)))

    async def lengths(self) -> dict[str, int]:
        query = "SELECT target, count(*) FROM events GROUP BY target"
        return dict(await self._read(lambda db: db.execute(query).fetchall()))


def add(db: sqlite3.Connection, events: Sequence[Event]) -> None:
    for one in events:
        made = db.execute("INSERT INTO events (target, body) VALUES (?, ?)", (one.target, one.body)).lastrowid
        db.execute("UPDATE events SET crc = ? WHERE id = ?", (sums.row_crc((made, one.target, one.body)), made))


def _next(db: sqlite3.Connection, target: str, limit: int) -> list[Waiting]:
    """Without those that are damaged: they go with the next one that is delivered."""
    query = f"SELECT {sums.EVENT}, crc FROM events WHERE target = ? ORDER BY id"
    found: list[Waiting] = []
    with closing(db.execute(query, (target,))) as cursor:
        for row in cursor:
            if sums.is_damaged(row):
                damage.found_row(f"a notification to {target}")
            else:
                found.append(Waiting(id=row[0], event=Event(target=target, body=row[2])))
            if len(found) == limit:
                break
    return found


def add_of(db: sqlite3.Connection, deletions: Sequence[Deletion], outcomes: Sequence[Gone | CloudError]) -> None:
    """Of deletions that took place."""
    for deletion, outcome in zip(deletions, outcomes, strict=True):
        if isinstance(outcome, Gone) and outcome is not Gone.NOTHING:
            add(db, deletion.events)

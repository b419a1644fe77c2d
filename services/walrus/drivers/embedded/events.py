"""Events on their way out, in the embedded index."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from common.errors import CloudError
from services.walrus.drivers.events import Event, Waiting
from services.walrus.drivers.versions import Deletion, Gone


class SqliteEvents:
    """drivers/events.py EventQueue."""

    def __init__(self, change: Callable[[Any], Awaitable[Any]], read: Callable[[Any], Awaitable[Any]]) -> None:
        self._change = change
        self._read = read

    async def next(self, target: str, limit: int) -> list[Waiting]:
        query = "SELECT id, body FROM events WHERE target = ? ORDER BY id LIMIT ?"
        found = await self._read(lambda db: db.execute(query, (target, limit)).fetchall())
        return [Waiting(id=row[0], event=Event(target=target, body=row[1])) for row in found]

    async def forget(self, target: str, up_to: int) -> None:
        query = "DELETE FROM events WHERE target = ? AND id <= ?"
        await self._change(lambda db: db.execute(query, (target, up_to)))

    async def lengths(self) -> dict[str, int]:
        query = "SELECT target, count(*) FROM events GROUP BY target"
        return dict(await self._read(lambda db: db.execute(query).fetchall()))


def add(db: sqlite3.Connection, events: Sequence[Event]) -> None:
    db.executemany("INSERT INTO events (target, body) VALUES (?, ?)", [(one.target, one.body) for one in events])


def add_of(db: sqlite3.Connection, deletions: Sequence[Deletion], outcomes: Sequence[Gone | CloudError]) -> None:
    """Of deletions that took place."""
    for deletion, outcome in zip(deletions, outcomes, strict=True):
        if isinstance(outcome, Gone) and outcome is not Gone.NOTHING:
            add(db, deletion.events)

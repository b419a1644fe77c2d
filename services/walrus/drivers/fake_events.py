"""The fake index's events on their way out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from services.walrus.drivers.events import Event, Waiting


@dataclass
class EventStorage:
    waiting: list[Waiting] = field(default_factory=list)
    last_id: int = 0

    def add(self, events: Sequence[Event]) -> None:
        for event in events:
            self.last_id += 1
            self.waiting.append(Waiting(id=self.last_id, event=event))


class HasEvents(Protocol):
    events: EventStorage


class FakeEvents:
    """drivers/events.py EventQueue."""

    def __init__(self, step: Callable[[], AbstractContextManager[HasEvents]], storage: Callable[[], HasEvents]) -> None:
        self._step = step
        self._storage = storage

    async def next(self, target: str, limit: int) -> list[Waiting]:
        return [one for one in self._storage().events.waiting if one.event.target == target][:limit]

    async def forget(self, target: str, up_to: int) -> None:
        with self._step() as s:
            s.events.waiting = [one for one in s.events.waiting if one.event.target != target or one.id > up_to]

    async def lengths(self) -> dict[str, int]:
        return dict(Counter(one.event.target for one in self._storage().events.waiting))

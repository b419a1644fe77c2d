"""Events on their way out: kept by the index from the step that they tell of until they were delivered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    # The operator's name for where it goes.
    target: str
    # JSON of one record, without its sequencer.
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    # Grows with every event, in the order of commits.
    id: int
    event: Event


class EventQueue(Protocol):
    """Each target has a queue of its own."""

    async def next(self, target: str, limit: int) -> list[Waiting]:
        """The oldest first."""

    async def forget(self, target: str, up_to: int) -> None:
        """Those of the target with an id up to this one: they were delivered."""

    async def lengths(self) -> dict[str, int]:
        """How many wait, by target; one without is left out."""


NO_EVENTS: Sequence[Event] = ()

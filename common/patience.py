"""How long what was admitted and finds no room is tried before it is given up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

ROOM_PATIENCE_S: Final = 60.0


class RoomPatience:
    """When it was admitted there was room, and those who have it now may come back: a disk that is full gets emptied.

    Counted by key from the first refusal on, so that a time in which nobody answered does not count. In memory: who
    takes over begins anew. `clock` in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def is_over(self, key: str) -> bool:
        """Of one that was refused just now."""
        now = self._clock()
        return now - self._since.setdefault(key, now) >= ROOM_PATIENCE_S

    def end(self, key: str) -> None:
        """It found room, was given up, or is not wanted any more."""
        self._since.pop(key, None)

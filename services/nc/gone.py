"""Who was here and is gone, with its generation: a journal of one line each, so that a late order starts nothing again.

A line is on disk before the instance's record goes. Lines of long ago are left out when the journal is opened.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from common.ids import InstanceId
from services.nc.paths import write_durably

# No order for an instance that went so long ago can still be on its way.
KEPT_S: Final = 3600.0


class GoneJournal:
    def __init__(
        self, path: Path, *, now_s: Callable[[], float], forgotten: Callable[[InstanceId], None] = lambda _: None
    ) -> None:
        """`forgotten` hears of each that is told no longer."""
        self._path = path
        self._now_s = now_s
        self._forgotten = forgotten
        # Generation and since when; the oldest first.
        self._gone: dict[InstanceId, tuple[int, float]] = {}

    def open(self) -> None:
        """Reads it, and writes it anew without what is out of date. A torn last line was never relied on."""
        with contextlib.suppress(FileNotFoundError):
            for line in self._path.read_text().splitlines():
                with contextlib.suppress(ValueError):
                    instance_id, generation, since = line.split()
                    self._gone[InstanceId(instance_id)] = int(generation), float(since)
        self._forget()
        lines = (f"{instance_id} {generation} {since:.3f}\n" for instance_id, (generation, since) in self._gone.items())
        write_durably(self._path, "".join(lines).encode())

    def write(self, instance_id: InstanceId, generation: int) -> None:
        """Durable on return. Blocks; safe in any thread."""
        # On a line of its own, whatever a full disk took of the one before.
        line = f"\n{instance_id} {generation} {self._now_s():.3f}\n".encode()
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if os.write(file, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            os.fsync(file)
        finally:
            os.close(file)

    def add(self, instance_id: InstanceId, generation: int) -> None:
        """To what is known here, once it has been written."""
        self._forget()
        self._gone[instance_id] = generation, self._now_s()

    def generation(self, instance_id: InstanceId) -> int:
        """0: it never was here, or long ago."""
        return self._gone.get(instance_id, (0, 0.0))[0]

    def __iter__(self) -> Iterator[tuple[InstanceId, int]]:
        yield from [(instance_id, generation) for instance_id, (generation, _) in self._gone.items()]

    def _forget(self) -> None:
        for instance_id, (_, since_s) in list(self._gone.items()):
            if self._now_s() - since_s <= KEPT_S:
                return
            del self._gone[instance_id]
            self._forgotten(instance_id)

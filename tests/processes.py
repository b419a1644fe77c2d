"""Signals to processes that are there, and the cores that they may use."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Raises AssertionError for what is no process: to kill 0 or -1 would end the run itself, and all beside it."""
    assert pid > 0, f"no process to signal: {pid}"
    os.kill(pid, number)


def cores_of(pid: int) -> set[int]:
    """Of all threads together. Empty: it is gone."""
    found: set[int] = set()
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(ProcessLookupError):
            found |= os.sched_getaffinity(int(thread.name))
    return found


def named_threads(pid: int, prefix: str) -> dict[str, set[int]]:
    """Its threads whose names begin so, by the rest of it, and the cores of each."""
    found = {}
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            name = (thread / "comm").read_text().strip()
            if name.startswith(prefix):
                found[name.removeprefix(prefix)] = os.sched_getaffinity(int(thread.name))
    return found

"""Signals to processes that are there."""

from __future__ import annotations

import os
import signal


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Raises AssertionError for what is no process: to kill 0 or -1 would end the run itself, and all beside it."""
    assert pid > 0, f"no process to signal: {pid}"
    os.kill(pid, number)

"""The back door of a shipped fake: a FIFO in its folder, whose lines are commands to the process that runs it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path


class BackDoor:
    """`command` is called with a line's first word and, if there is more, the rest of it."""

    def __init__(self, path: Path, command: Callable[..., None]) -> None:
        self._path = path
        self._command = command
        self._descriptor: int | None = None

    def open(self) -> None:
        if not self._path.exists():
            os.mkfifo(self._path, 0o600)
        # Read and write: it never reaches its end when a writer closes.
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def close(self) -> None:
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _read(self) -> None:
        if self._descriptor is None:
            return
        with contextlib.suppress(BlockingIOError):
            for line in os.read(self._descriptor, 65536).decode().splitlines():
                self._command(*line.split(" ", 1))

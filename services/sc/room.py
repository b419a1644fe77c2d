"""Room for scratch on the disk of the volumes, of which some is kept for the host."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from common.errors import NoCapacity

# How often the room for a file that is being written is looked at: far less than the reserve is written meanwhile.
_LOOK_S: Final = 0.25


class Room:
    """`to_do`: what there is no room for, for a person. `free_bytes`: of the file system of a folder."""

    def __init__(
        self,
        to_do: str,
        *,
        reserve_bytes: int,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        self._to_do = to_do
        self._reserve_bytes = reserve_bytes
        self._free_bytes = free_bytes

    def check(self, folder: Path, wanted_bytes: int = 0) -> None:
        """Raises NoCapacity."""
        free = self._free_bytes(folder) - self._reserve_bytes
        if wanted_bytes > free:
            takes = f"it takes {wanted_bytes} bytes, and " if wanted_bytes else ""
            raise NoCapacity(
                f"There is no room to {self._to_do}: {takes}{max(0, free)} are free beside the {self._reserve_bytes} "
                "that are kept.",
                code="ResourceLimitExceeded",
            )

    async def within(self, made: Path, write: Callable[[], Awaitable[None]]) -> None:
        """Writes the file, beside others who do the same: it ends, and goes, before it takes what is kept.

        Raises NoCapacity.
        """
        await asyncio.to_thread(self.check, made.parent)
        writing, whole = asyncio.ensure_future(write()), False
        try:
            while not writing.done():
                await asyncio.to_thread(self.check, made.parent)
                await asyncio.wait([writing], timeout=_LOOK_S)
            writing.result()
            whole = True
        finally:
            if not whole:
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
                await asyncio.to_thread(made.unlink, missing_ok=True)


def settle(made: Path, whole: Path) -> None:
    """Gives a file that is written its name, once its bytes are on the disk: who finds the name trusts them. Blocks."""
    with made.open("rb") as file:
        os.fsync(file.fileno())
    made.rename(whole)

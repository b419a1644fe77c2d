"""A whole NBD export as a sparse file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from services.sc.drivers.base import BLOCK_BYTES, NbdSource
from services.sc.nbd.client import connected


async def fetch(source: NbdSource, into: Path) -> None:
    """Into a file that is there, is empty, and is as large or larger. Raises Unavailable."""
    async with connected(source.socket, source.name) as client:
        with into.open("r+b") as file:
            file.truncate(max(source.size_bytes, file.seek(0, os.SEEK_END)))
            for start in range(0, source.size_bytes, BLOCK_BYTES):
                block = await client.read(start, min(BLOCK_BYTES, source.size_bytes - start))
                if block.strip(b"\0"):
                    await asyncio.to_thread(os.pwrite, file.fileno(), block, start)

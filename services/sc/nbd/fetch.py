"""A whole NBD export as a sparse file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from common.blocks import BLOCK_BYTES
from services.sc.drivers.base import NbdSource
from services.sc.nbd import wire
from services.sc.nbd.client import NbdClient, connected


async def fetch(source: NbdSource, into: Path) -> None:
    """Into a file that is there, is empty, and is as large or larger. Raises Unavailable."""
    async with connected(source.socket, source.name, contexts=[wire.ALLOCATION]) as client:
        with into.open("r+b") as file:
            file.truncate(max(source.size_bytes, file.seek(0, os.SEEK_END)))
            async for start, length in _not_zero(client):
                for at in range(start, start + length, BLOCK_BYTES):
                    block = await client.read(at, min(BLOCK_BYTES, start + length - at))
                    if block.strip(b"\0"):
                        await asyncio.to_thread(os.pwrite, file.fileno(), block, at)


async def _not_zero(client: NbdClient) -> AsyncIterator[tuple[int, int]]:
    if wire.ALLOCATION not in client.contexts:
        yield 0, client.size_bytes
        return
    async for status in client.status(wire.ALLOCATION):
        if not status.flags & wire.STATE_ZERO:
            yield status.start, status.length

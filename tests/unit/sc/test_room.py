"""Scratch on the volumes' disk: what is written there ends before it takes what is kept for the host."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from common.errors import NoCapacity
from services.sc.room import Room


async def test_a_file_that_is_being_written_ends_when_others_take_the_room(tmp_path: Path) -> None:
    left, begun, made = 100, asyncio.Event(), tmp_path / "made"
    room = Room("read the image", reserve_bytes=60, free_bytes=lambda _: left)

    async def write() -> None:
        made.write_bytes(b"x")
        begun.set()
        await asyncio.Event().wait()

    room.check(tmp_path, 40)
    with pytest.raises(NoCapacity, match="takes 41 bytes, and 40 are free"):
        room.check(tmp_path, 41)
    writing = asyncio.ensure_future(room.within(made, write))
    await begun.wait()
    left = 59
    with pytest.raises(NoCapacity, match="no room to read the image"):
        await writing
    assert not made.exists()


async def test_what_fits_is_written(tmp_path: Path) -> None:
    made = tmp_path / "made"

    async def write() -> None:
        made.write_bytes(b"all")

    await Room("write", reserve_bytes=0, free_bytes=lambda _: 1).within(made, write)
    assert made.read_bytes() == b"all"

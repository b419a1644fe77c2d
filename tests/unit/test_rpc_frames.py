"""Frames on a socket: cut anyhow they arrive whole, and a sender does not run away from its reader."""

from __future__ import annotations

import asyncio
import socket

import pytest

from common.rpc.local.frames import FRAME_BYTES, Frames, Kind

MIB = 1 << 20


async def test_a_sender_waits_for_a_reader_that_does_not_read() -> None:
    ours, theirs = socket.socketpair()
    frames = Frames(ours)
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while True:
            frames.put(Kind.CHUNK, bytes(MIB))
            sent += 1
            await frames.drained()

    task = asyncio.ensure_future(flood())
    for _ in range(100):
        await asyncio.sleep(0)
    assert not task.done()
    assert sent * MIB < FRAME_BYTES
    theirs.close()
    with pytest.raises(ConnectionResetError):
        await task


async def test_frames_arrive_whole_however_they_are_cut() -> None:
    ours, theirs = socket.socketpair()
    frames = Frames(ours)
    wanted = [(Kind.CHUNK, b"a" * size) for size in (0, 1, 5, 70_000, 0, 300_000)]
    raw = b"".join(len(body).to_bytes(4) + bytes([kind]) + body for kind, body in wanted)
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()

    async def dribble() -> None:
        for at in range(0, len(raw), 10_007):
            await loop.sock_sendall(theirs, raw[at : at + 10_007])

    sender = asyncio.ensure_future(dribble())
    assert [await frames.take() for _ in wanted] == wanted
    await sender
    theirs.close()
    with pytest.raises(ConnectionResetError):
        await frames.take()

"""Our NBD client against QEMU's server."""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from common.errors import NotFound, Unavailable
from services.sc.nbd.client import NbdClient, connected
from services.sc.nbd.wire import ALLOCATION, STATE_DIRTY, STATE_ZERO
from tests.eventually import eventually

MIB = 1 << 20
BITMAP = "qemu:dirty-bitmap:changed"


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """8 MiB; two of them written, one of those after the bitmap began."""
    disk = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-f", "qcow2", disk, "8M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", disk)
    run("qemu-img", "bitmap", "--add", "-g", "65536", disk, "changed")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 5M 1M", disk)
    return disk


@asynccontextmanager
async def served(disk: Path, *options: str) -> AsyncIterator[tuple[Path, asyncio.subprocess.Process]]:
    socket, pid = disk.with_suffix(".socket"), disk.with_suffix(".pid")
    server = await asyncio.create_subprocess_exec(
        *("qemu-nbd", "--pid-file", str(pid)),
        *options,
        "-r",
        "-x",
        "it",
        "-e",
        "8",
        "--persistent",
        "-k",
        str(socket),
        str(disk),
    )
    try:
        # Written when it listens.
        await eventually(pid.exists)
        yield socket, server
    finally:
        if server.returncode is None:
            server.kill()
        await server.wait()


async def test_it_reads_and_knows_what_is_zero_and_what_changed(disk: Path) -> None:
    async with (
        served(disk, "-f", "qcow2", "-B", "changed") as (socket, _),
        connected(socket, "it", contexts=[ALLOCATION, BITMAP, "qemu:dirty-bitmap:none"]) as nbd,
    ):
        assert nbd.size_bytes == 8 * MIB
        assert set(nbd.contexts) == {ALLOCATION, BITMAP}
        assert await nbd.read(MIB // 2, MIB) == b"\7" * (MIB // 2) + bytes(MIB // 2)
        zero = [one async for one in nbd.status(ALLOCATION) if not one.flags & STATE_ZERO]
        assert [(one.start, one.length) for one in zero] == [(0, MIB), (5 * MIB, MIB)]
        dirty = [one async for one in nbd.status(BITMAP) if one.flags & STATE_DIRTY]
        assert [(one.start, one.length) for one in dirty] == [(5 * MIB, MIB)]
        part = [one async for one in nbd.status(BITMAP, 5 * MIB + 65536, 131072)]
        assert [(one.start, one.length, one.flags) for one in part] == [(5 * MIB + 65536, 131072, STATE_DIRTY)]


async def test_reads_beside_each_other_are_not_mixed_up(tmp_path: Path) -> None:
    body = random.Random(1).randbytes(8 * MIB)
    disk = tmp_path / "disk"
    disk.write_bytes(body)
    spans = [(start, 300_000) for start in range(0, 7 * MIB, 200_000)]

    async def checked(nbd: NbdClient) -> None:
        for contexts in range(2):
            parts = await asyncio.gather(*(nbd.read(start, length) for start, length in spans))
            assert parts == [body[start : start + length] for start, length in spans], contexts

    async with served(disk, "-f", "raw") as (socket, _):
        # Simple replies, and structured ones.
        for contexts in ((), (ALLOCATION,)):
            async with connected(socket, "it", contexts=contexts) as nbd:
                await checked(nbd)
                given_up = asyncio.ensure_future(nbd.read(0, MIB))
                await asyncio.sleep(0)
                given_up.cancel()
                await checked(nbd)
                with pytest.raises(Unavailable):
                    await nbd.read(8 * MIB, 512)
                await checked(nbd)


async def test_what_is_not_there_is_told(disk: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        async with connected(tmp_path / "nothing", "it"):
            pass
    async with served(disk, "-f", "qcow2") as (socket, server):
        for contexts in ((), (ALLOCATION,)):
            with pytest.raises(NotFound):
                async with connected(socket, "other", contexts=contexts):
                    pass
        async with connected(socket, "it") as nbd:
            server.kill()
            await server.wait()
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await nbd.read(0, 512)

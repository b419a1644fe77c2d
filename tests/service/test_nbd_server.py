"""Snapshots as NBD exports: QEMU reads them, each block comes from Walrus once, and trouble makes readers wait."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from common.blocks import BLOCK_BYTES, compressed
from common.errors import DataLoss, NotFound, Unavailable
from mallee.walrus.v1 import service_pb2
from services.sc.block_cache import BlockCache
from services.sc.block_source import BlockSource, SnapshotExport
from services.sc.manifest_file import Manifest, ManifestWriter
from services.sc.nbd.client import connected
from services.sc.nbd.server import NbdServer
from services.sc.nbd.wire import ALLOCATION, STATE_ZERO
from tests.eventually import eventually

# The last block is short.
COUNT = 40
SIZE = COUNT * BLOCK_BYTES - 1000


def content() -> bytes:
    """Half of the blocks are zero."""
    body = bytearray(random.Random(1).randbytes(COUNT * BLOCK_BYTES))
    for index in range(10, 30):
        body[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES] = bytes(BLOCK_BYTES)
    return bytes(body[:SIZE])


class Walrus:
    """Where blocks come from, and what went wrong with it."""

    def __init__(self, body: bytes) -> None:
        self.blocks: dict[bytes, bytes] = {}
        self.entries: list[tuple[int, bytes]] = []
        self.fetched: list[bytes] = []
        self.trouble: Exception | None = None
        self.lies = 0
        for index in range(-(-len(body) // BLOCK_BYTES)):
            block = body[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
            if block.strip(b"\0"):
                digest = hashlib.sha256(block).digest()
                self.blocks[digest] = block
                self.entries.append((index, digest))

    async def fetch(self, digests: Sequence[bytes]) -> AsyncGenerator[service_pb2.Block, None]:
        for digest in digests:
            await asyncio.sleep(0)
            if self.trouble is not None:
                raise self.trouble
            self.fetched.append(digest)
            stored, smaller = compressed(self.blocks[digest])
            wrong = self.lies > 0
            self.lies -= wrong
            yield service_pb2.Block(digest=digest, content=bytes(stored[::-1] if wrong else stored), compressed=smaller)


@pytest.fixture
def body() -> bytes:
    return content()


@pytest.fixture
def walrus(body: bytes) -> Walrus:
    return Walrus(body)


@asynccontextmanager
async def served(folder: Path, walrus: Walrus, *, most_bytes: int = 1 << 30) -> AsyncIterator[Path]:
    manifest = folder / "manifest"
    if not manifest.exists():
        writer = ManifestWriter(manifest, SIZE)
        writer.add(walrus.entries)
        writer.finish()
    (folder / "blocks").mkdir(exist_ok=True)
    cache = BlockCache(folder / "blocks", most_bytes=most_bytes, reserve_bytes=0)
    async with BlockSource(cache, walrus.fetch) as source:

        async def opened(name: str) -> SnapshotExport:
            if name != "snap":
                raise NotFound(name)
            return SnapshotExport(Manifest(manifest), source)

        async with NbdServer(folder / "socket", opened):
            yield folder / "socket"


async def qemu(*command: object) -> str:
    child = await asyncio.create_subprocess_exec(
        *(str(word) for word in command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await child.communicate()
    assert child.returncode == 0, said.decode()
    return said.decode()


async def test_qemu_reads_it_and_skips_what_is_zero(tmp_path: Path, walrus: Walrus, body: bytes) -> None:
    async with served(tmp_path, walrus) as socket:
        place = f"nbd+unix:///snap?socket={socket}"
        mapped = json.loads(await qemu("qemu-img", "map", "-f", "raw", "--output=json", place))
        zero = sum(one["length"] for one in mapped if one["zero"])
        assert zero // BLOCK_BYTES == 20
        assert walrus.fetched == []
        await qemu("qemu-img", "convert", "-f", "raw", "-O", "raw", place, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes()[:SIZE] == body
    assert sorted(walrus.fetched) == sorted(walrus.blocks)


async def test_clients_beside_each_other_fetch_each_block_once_and_later_ones_none(
    tmp_path: Path, walrus: Walrus, body: bytes
) -> None:
    async def read_all(socket: Path, seed: int) -> None:
        spans = [(start, min(300_000, SIZE - start)) for start in range(0, SIZE, 300_000)]
        random.Random(seed).shuffle(spans)
        async with connected(socket, "snap", contexts=[ALLOCATION]) as nbd:
            parts = await asyncio.gather(*(nbd.read(start, length) for start, length in spans))
        assert parts == [body[start : start + length] for start, length in spans]

    async with served(tmp_path, walrus) as socket:
        await asyncio.gather(*(read_all(socket, seed) for seed in range(5)))
        assert sorted(walrus.fetched) == sorted(walrus.blocks)
    walrus.trouble = Unavailable("gone")
    async with served(tmp_path, walrus) as socket:
        await read_all(socket, 9)


async def test_what_is_read_in_order_is_fetched_ahead(tmp_path: Path, walrus: Walrus) -> None:
    async with served(tmp_path, walrus) as socket, connected(socket, "snap") as nbd:
        for index in range(3):
            await nbd.read(index * BLOCK_BYTES, 4096)
        await eventually(lambda: len(walrus.fetched) == 10)


async def test_readers_wait_while_walrus_is_away(tmp_path: Path, walrus: Walrus, body: bytes) -> None:
    walrus.trouble = Unavailable("gone")
    async with served(tmp_path, walrus) as socket, connected(socket, "snap") as nbd:
        waiting = asyncio.ensure_future(nbd.read(0, 1000))
        # What needs no block is answered meanwhile.
        assert await nbd.read(15 * BLOCK_BYTES, 1000) == bytes(1000)
        assert not waiting.done()
        walrus.trouble = None
        assert await waiting == body[:1000]


async def test_wrong_bytes_are_an_error_and_never_read(tmp_path: Path, walrus: Walrus, body: bytes) -> None:
    async with served(tmp_path, walrus) as socket, connected(socket, "snap", contexts=[ALLOCATION]) as nbd:
        walrus.lies = 1
        with pytest.raises(Unavailable):
            await nbd.read(0, 1000)
        assert await nbd.read(0, 1000) == body[:1000]
        walrus.trouble = DataLoss("damaged")
        with pytest.raises(Unavailable):
            await nbd.read(35 * BLOCK_BYTES, 1000)


async def test_a_torn_block_of_the_cache_is_fetched_again(tmp_path: Path, walrus: Walrus, body: bytes) -> None:
    async with served(tmp_path, walrus) as socket, connected(socket, "snap") as nbd:
        await nbd.read(0, 1000)
        await eventually(lambda: list((tmp_path / "blocks").glob("??/*")))
    (kept,) = (tmp_path / "blocks").glob("??/*")
    kept.write_bytes(kept.read_bytes()[:-1])
    async with served(tmp_path, walrus) as socket, connected(socket, "snap") as nbd:
        assert await nbd.read(0, 1000) == body[:1000]
    assert walrus.fetched == [walrus.entries[0][1]] * 2


async def test_the_cache_stays_within_its_bounds(tmp_path: Path, walrus: Walrus, body: bytes) -> None:
    most_bytes = 5 * BLOCK_BYTES
    async with served(tmp_path, walrus, most_bytes=most_bytes) as socket, connected(socket, "snap") as nbd:
        assert await nbd.read(0, SIZE) == body
    assert 0 < sum(path.stat().st_size for path in (tmp_path / "blocks").glob("??/*")) <= most_bytes


def test_a_full_disk_keeps_nothing_and_gives_back(tmp_path: Path) -> None:
    def write(number: int, reserve_bytes: int) -> int:
        cache = BlockCache(tmp_path, most_bytes=1 << 30, reserve_bytes=reserve_bytes)
        cache.open()
        block = bytes([number]) * 1000
        cache.write(hashlib.sha256(block).digest(), block, compressed=False)
        return len(list(tmp_path.glob("??/*")))

    assert [write(number, 0) for number in range(3)] == [1, 2, 3]
    assert [write(number, 1 << 60) for number in range(3, 6)] == [2, 1, 0]


async def test_nonsense_ends_one_client_alone(tmp_path: Path, walrus: Walrus, body: bytes) -> None:
    async with served(tmp_path, walrus) as socket, connected(socket, "snap", contexts=[ALLOCATION]) as nbd:
        for words in (b"", b"\0\0\0\3IHAVEOPT" + b"\xff" * 8, b"\0\0\0\1" + random.Random(2).randbytes(100)):
            reader, writer = await asyncio.open_unix_connection(socket)
            writer.write(words)
            writer.write_eof()
            await reader.read()
            writer.close()
        with pytest.raises(Unavailable):
            await nbd.read(SIZE - 10, 100)
        assert await nbd.read(SIZE - 10, 10) == body[-10:]
        zero = [one async for one in nbd.status(ALLOCATION, 9 * BLOCK_BYTES, 2 * BLOCK_BYTES)]
        assert [(one.length, bool(one.flags & STATE_ZERO)) for one in zero] == [
            (BLOCK_BYTES, False),
            (BLOCK_BYTES, True),
        ]


async def test_writing_is_refused(tmp_path: Path, walrus: Walrus) -> None:
    async with served(tmp_path, walrus) as socket:
        child = await asyncio.create_subprocess_exec(
            *("qemu-io", "-f", "raw", "-c", "write 0 512", f"nbd+unix:///snap?socket={socket}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        await child.communicate()
        assert child.returncode != 0

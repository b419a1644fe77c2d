"""Snapshots' way to Walrus: 1 GiB that changed, the next one after 1 MiB of change, and reading it back.

python -m bench.snapshots [--folder FOLDER]

Walrus is a process of its own; the volume is a file of random bytes behind qemu-nbd.
The goal is half of Walrus's own PUT rate, measured in the same run (64 MiB objects, four clients).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.figures import report
from bench.walrus import LARGE, MALLOC, put, rate, s3_of, serving
from common.ids import AccountId, SnapshotId
from common.pki import Identity
from common.rpc.channel import connect
from mallee.walrus.v1 import service_pb2
from mallee.walrus.v1.service_pb2_grpc import WalrusServiceStub
from services.sc.block_cache import BlockCache
from services.sc.block_source import BlockSource, SnapshotExport
from services.sc.clients import Upload, Uploaded
from services.sc.drivers.base import Extent
from services.sc.manifest_file import Manifest, ManifestWriter
from services.sc.nbd.client import NbdClient, connected
from services.sc.upload import WalrusUploader

GIB: Final = 1 << 30
MIB: Final = 1 << 20
SECONDS: Final = 5.0


class Volume:
    """drivers/base.py Frozen over NBD."""

    def __init__(self, nbd: NbdClient, extents: Sequence[Extent]) -> None:
        self.size_bytes = nbd.size_bytes
        self._nbd = nbd
        self._extents = extents

    async def changed(self) -> Sequence[Extent]:
        return self._extents

    async def read(self, extent: Extent) -> bytes:
        return await self._nbd.read(extent.start, extent.length)


def fill(path: Path, start: int, length: int) -> None:
    with path.open("r+b") as file:
        for at in range(start, start + length, MIB):
            os.pwrite(file.fileno(), os.urandom(MIB), at)
        os.fsync(file.fileno())


@asynccontextmanager
async def volume_of(disk: Path) -> AsyncIterator[NbdClient]:
    socket = disk.with_suffix(".socket")
    command = ("qemu-nbd", "--fork", "-r", "-f", "raw", "-x", "it", "-k", socket, disk)
    # Returns when it listens; it ends with its first client.
    await asyncio.to_thread(subprocess.run, command, check=True)
    async with connected(socket, "it") as nbd:
        yield nbd


def snap(number: int) -> SnapshotId:
    return SnapshotId(f"snap-{number:017x}")


async def uploaded(walrus: Any, disk: Path, number: int, extents: Sequence[Extent]) -> tuple[Uploaded, float]:
    """And how long it took, until Walrus said that it is whole and durable."""
    uploader = WalrusUploader(lambda: walrus)
    notes = disk.with_name(f"notes-{number}")
    notes.mkdir()
    async with volume_of(disk) as nbd:
        upload = Upload(
            snapshot_id=snap(number),
            account_id=AccountId("1" * 12),
            base=snap(number - 1) if number else None,
            content=Volume(nbd, extents),
            notes=notes,
        )
        began = time.perf_counter()
        done = await uploader.upload(upload, lambda progress: None)
        took_s = time.perf_counter() - began
    await uploader.close()
    return done, took_s


async def measure_uploads(folder: Path, walrus: Any, put_bytes_per_s: float) -> None:
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(2 * GIB)
    rates = []
    for number in range(2):
        fill(disk, 0, GIB)
        done, took_s = await uploaded(walrus, disk, number, [Extent(start=0, length=GIB)])
        assert done.progress.sent_bytes == GIB
        rates.append(GIB / took_s / 1e6)
    report("Snapshot: 1 GiB changed, against half of PUT", max(rates), "MB/s", least=round(put_bytes_per_s / 2e6))
    fill(disk, 300 * MIB + 4096, MIB)
    changed = [Extent(start=300 * MIB, length=MIB + (512 << 10))]
    done, took_s = await uploaded(walrus, disk, 2, changed)
    report("Snapshot: sent after 1 MiB of change", done.progress.sent_bytes / MIB, "MiB", most=2)
    report("Snapshot: time after 1 MiB of change", took_s, "s", most=1)


async def measure_reading(folder: Path, walrus: Any) -> None:
    """From nothing here: the manifest, the first block, and 1 GiB in order."""
    began = time.perf_counter()
    manifest = await fetched_manifest(folder, walrus, snap(2))
    report("Snapshot: its manifest here", time.perf_counter() - began, "s", most=0.5)

    async def fetch(digests: Sequence[bytes]) -> Any:
        request = service_pb2.FetchBlocksRequest(snapshot_id=snap(2), digests=digests)
        async for answer in walrus.FetchBlocks(request):
            yield answer.block

    (folder / "cache").mkdir()
    cache = BlockCache(folder / "cache", most_bytes=4 * GIB, reserve_bytes=0)
    async with BlockSource(cache, fetch) as source:
        export = SnapshotExport(manifest, source)
        began = time.perf_counter()
        await export.read(700 * MIB, 4096)
        report("Snapshot: first read of a block", (time.perf_counter() - began) * 1000, "ms", most=100)
        began = time.perf_counter()
        for start in range(0, GIB // 2, MIB):
            await export.read(start, MIB)
        report("Snapshot: read in order", GIB / 2 / (time.perf_counter() - began) / 1e6, "MB/s", least=100)


async def fetched_manifest(folder: Path, walrus: Any, snapshot_id: SnapshotId) -> Manifest:
    answers = walrus.ReadSnapshot(service_pb2.ReadSnapshotRequest(snapshot_id=snapshot_id))
    writer: ManifestWriter | None = None
    async for answer in answers:
        if writer is None:
            writer = ManifestWriter(folder / "manifest", answer.size_bytes)
        writer.add((entry.index, entry.digest) for entry in answer.entries)
    assert writer is not None
    writer.finish()
    return Manifest(folder / "manifest")


async def bench(folder: Path) -> None:
    async with serving(folder) as (server, port):
        async with s3_of(folder, port) as s3:
            found = await rate(server, s3, lambda s3, turn: put(s3, f"large/{turn % 4}", LARGE), 4, SECONDS)
            put_bytes_per_s = found.per_s * LARGE
            print(f"Walrus: PUT 64 MiB, 4 clients: {put_bytes_per_s / 1e6:.0f} MB/s", flush=True)
        async with connect(f"127.0.0.1:{port}", Identity.load(folder, "sc-a"), "walrus-1") as channel:
            walrus = WalrusServiceStub(channel)
            await measure_uploads(folder, walrus, put_bytes_per_s)
            await measure_reading(folder, walrus)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    # As deploy/ sets it for processes that move bodies.
    if os.environ.get("MALLOC_TOP_PAD_") is None:
        os.execve(sys.executable, [sys.executable, "-m", "bench.snapshots", *sys.argv[1:]], os.environ | MALLOC)
    with tempfile.TemporaryDirectory(prefix="mallee-bench-") as temporary:
        uvloop.run(bench(arguments.folder or Path(temporary)))


if __name__ == "__main__":
    main()

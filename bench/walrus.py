"""Walrus alone, over gRPC with mutual TLS: op/s of small objects, MB/s of large ones, time of a listing.

python -m bench.walrus [--folder FOLDER] [--seconds S]

The server is a process of its own on an empty store in FOLDER (default: a temporary one); the clients share this one.
Goals: twice the figures of Ceph RGW 16.2 alone on such a two-core machine, which measured them over HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.figures import report
from common import log, pki
from common.pki import Identity
from common.rpc.channel import connect
from common.rpc.context import CALLER_KEY
from common.rpc.server import RpcServer
from common.rpc.uploads import header_accepted
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import body_pb2, bucket_pb2, listing_pb2, object_pb2
from mallee.s3.v1.service_pb2_grpc import S3ServiceStub, add_S3ServiceServicer_to_server
from mallee.walrus.v1.service_pb2_grpc import add_WalrusServiceServicer_to_server
from services.walrus.bundle_image import Bundles
from services.walrus.drivers.embedded.blobs import FileBlobs
from services.walrus.drivers.embedded.index import SqliteIndex
from services.walrus.images import Images
from services.walrus.reclaim import Reclaimer
from services.walrus.s3_service import S3Service
from services.walrus.service import WalrusService
from services.walrus.store import Limits, Store

SMALL: Final = bytes(4096)
LARGE: Final = 64 << 20
CHUNK: Final = bytes(1 << 20)
CALLER: Final = Caller(account_id="1" * 12, arn="arn:aws:iam::111111111111:root", canonical_user_id="a" * 64)
METADATA: Final = ((CALLER_KEY, CALLER.SerializeToString()),)
# For processes that move bodies, as deploy/ sets it for the services.
MALLOC: Final = {
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "536870912",
    "MALLOC_TOP_PAD_": "16777216",
}
PUT_GOALS: Final = {1: 762, 16: 1568, 64: 1538}
GET_GOALS: Final = {1: 2304, 16: 5326, 64: 4538}

Work = Callable[[Any, int], Awaitable[None]]


async def serve(folder: Path) -> None:
    # As a service logs. Its stdout is for the port alone: nobody reads on.
    log.configure(role="walrus", member="walrus-1")
    blobs, index = FileBlobs(folder / "walrus"), SqliteIndex(folder / "walrus" / "index.sqlite")
    await blobs.open()
    await index.open()
    store = Store(index=index, blobs=blobs, limits=Limits(reserve_bytes=0))
    reclaimer = Reclaimer(store)
    store.reclaim = reclaimer.nudge
    server = RpcServer(Identity.load(folder, "walrus-1"))
    server.add(add_S3ServiceServicer_to_server, S3Service(store))
    certificate, opener = pki.load_self_signed(folder, pki.BUNDLE_OPENER)
    pins, key = folder / "walrus" / "pins", bytes(32)
    images = Images(store, pins, ticket_key=key, opener=opener, now_s=time.time)
    bundles = Bundles(store=store, folder=pins, ticket_key=key, certificate=certificate, key=opener)
    server.add(add_WalrusServiceServicer_to_server, WalrusService(store, images, bundles))
    await server.start()
    print(server.ports[0], flush=True)
    await reclaimer.run()


async def put(s3: Any, key: str, size: int) -> None:
    call = s3.PutObject(metadata=METADATA)
    header = object_pb2.PutObjectRequest(bucket="bucket", key=key, content_length=size)
    await call.write(object_pb2.PutObjectStream(header=header))
    await header_accepted(call)
    for start in range(0, size, len(CHUNK)):
        await call.write(object_pb2.PutObjectStream(chunk=CHUNK[: size - start]))
    await call.write(object_pb2.PutObjectStream(end=body_pb2.BodyEnd(length=size)))
    await call


async def get(s3: Any, key: str) -> None:
    async for _ in s3.GetObject(object_pb2.GetObjectRequest(bucket="bucket", key=key), metadata=METADATA):
        pass


class Server:
    """The measured process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def cpu_s(self) -> float:
        # proc(5): fields 14 and 15, counted behind the name, which may hold spaces.
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Rate:
    per_s: float
    # Of the server, which a busy machine disturbs less than the rate.
    cpu_ms: float

    def tell(self, what: str, units: float, unit: str, goal: float) -> None:
        report(f"Walrus: {what} ({self.cpu_ms:.2f} ms of CPU each)", self.per_s * units, unit, least=goal)


async def rate(server: Server, s3: Any, work: Work, clients: int, seconds: float) -> Rate:
    done = 0
    cpu_s = server.cpu_s()
    began = time.perf_counter()

    async def client(number: int) -> None:
        nonlocal done
        turn = number
        while time.perf_counter() - began < seconds:
            await work(s3, turn)
            done += 1
            turn += clients

    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(client(number))
    return Rate(done / (time.perf_counter() - began), (server.cpu_s() - cpu_s) * 1000 / done)


async def measure(server: Server, s3: Any, seconds: float) -> None:
    for clients, goal in PUT_GOALS.items():
        found = await rate(server, s3, lambda s3, turn: put(s3, f"small/{turn}", len(SMALL)), clients, seconds)
        found.tell(f"PUT 4 KiB, {clients} clients", 1, "op/s", goal)
    for clients, goal in GET_GOALS.items():
        found = await rate(server, s3, lambda s3, turn: get(s3, f"small/{turn % 100}"), clients, seconds)
        found.tell(f"GET 4 KiB, {clients} clients", 1, "op/s", goal)
    for clients, goal in ((1, 481), (4, 543)):
        found = await rate(server, s3, lambda s3, turn: put(s3, f"large/{turn % 4}", LARGE), clients, seconds)
        found.tell(f"PUT 64 MiB, {clients} clients", LARGE / 1e6, "MB/s", goal)
    for clients, goal in ((1, 1410), (4, 1764)):
        found = await rate(server, s3, lambda s3, turn: get(s3, "large/0"), clients, seconds)
        found.tell(f"GET 64 MiB, {clients} clients", LARGE / 1e6, "MB/s", goal)
    await measure_listing(s3)


async def measure_listing(s3: Any) -> None:
    for start in range(0, 10_000, 100):
        await asyncio.gather(*(put(s3, f"list/{start + n:05}", 0) for n in range(100)))
    began = time.perf_counter()
    request = listing_pb2.ListObjectsV2Request(bucket="bucket", prefix="list/")
    while (page := await s3.ListObjectsV2(request, metadata=METADATA)).is_truncated:
        request.continuation_token = page.next_continuation_token
    report("Walrus: list of 10,000 keys", (time.perf_counter() - began) * 1000, "ms", most=80)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Server, int]]:
    """An empty Walrus as a process of its own, and its port. Members have certificates in `folder`."""
    pki.create_authority(folder)
    for member, role in (("walrus-1", "walrus"), ("facade-1", "facade"), ("sc-a", "sc")):
        pki.issue(folder, member, role)
    pki.create_self_signed(folder, pki.BUNDLE_OPENER)
    command = (sys.executable, "-m", "bench.walrus", "--serve", "--folder", str(folder))
    server = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=DEVNULL, env=os.environ | MALLOC)
    try:
        assert server.stdout is not None
        yield Server(server.pid), int(await server.stdout.readline())
    finally:
        if server.returncode is None:
            server.kill()
        await server.wait()


@asynccontextmanager
async def s3_of(folder: Path, port: int) -> AsyncIterator[Any]:
    async with connect(f"127.0.0.1:{port}", Identity.load(folder, "facade-1"), "walrus-1") as channel:
        s3 = S3ServiceStub(channel)
        await s3.CreateBucket(bucket_pb2.CreateBucketRequest(bucket="bucket"), metadata=METADATA)
        yield s3


async def bench(folder: Path, seconds: float) -> None:
    async with serving(folder) as (server, port), s3_of(folder, port) as s3:
        await measure(server, s3, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mallee-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        uvloop.run(serve(folder) if arguments.serve else bench(folder, arguments.seconds))


if __name__ == "__main__":
    main()

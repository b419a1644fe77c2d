"""What the volumes' contract suite plays on: a driver, its clients, and what may befall it; and the fake's own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.ids import VolumeId
from services.sc.drivers.base import ExportPlace, NbdSource, VolumeDriver
from services.sc.drivers.fake import FakeVolumes, Faults
from services.sc.nbd.fetch import fetch
from tests.eventually import eventually


class Client(Protocol):
    """One node's connection to an export. Raises ConnectionError once it is cut off; what it wrote is acknowledged."""

    async def write(self, offset: int, content: bytes) -> None: ...

    async def read(self, offset: int, length: int) -> bytes: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Bench:
    driver: VolumeDriver
    # Another one on the same engine, as after a restart of the controller.
    again: Callable[[], VolumeDriver]
    # One on a host that has no room for another byte.
    full: Callable[[], VolumeDriver]
    # As the node of this name. Raises ConnectionError if it may not.
    connect: Callable[[ExportPlace, str], Awaitable[Client]]
    # The engine of one volume dies, as by kill -9. It may be back at any time from then on.
    kill: Callable[[VolumeId], None]
    # What there is of volumes on the host: files, sockets, processes.
    remains: Callable[[], list[str]]


@asynccontextmanager
async def fake_bench(folder: Path) -> AsyncIterator[Bench]:
    made: list[FakeVolumes] = []

    def make(name: str = "engine", *, full: bool = False) -> FakeVolumes:
        made.append(FakeVolumes(folder / name, fetch=fetch, faults=Faults(full=full)))
        return made[-1]

    async def connect(place: ExportPlace, node: str) -> Client:
        client = _FakeClient(made[0], VolumeId(place.name), node)
        await client.read(0, 1)
        return client

    driver = make()
    yield Bench(
        driver=driver,
        again=make,
        full=lambda: make("full", full=True),
        connect=connect,
        kill=driver.daemon_dies,
        remains=lambda: [path.name for path in (folder / "engine" / "volumes").iterdir()],
    )
    for driver in made:
        await driver.close()


class _FakeClient:
    def __init__(self, driver: FakeVolumes, volume_id: VolumeId, node: str) -> None:
        self._driver, self._volume_id, self._node = driver, volume_id, node

    async def write(self, offset: int, content: bytes) -> None:
        self._driver.client_writes(self._volume_id, self._node, offset, content)

    async def read(self, offset: int, length: int) -> bytes:
        return self._driver.client_reads(self._volume_id, self._node, offset, length)

    async def close(self) -> None:
        return None


@contextlib.contextmanager
def served(image: Path, socket: Path) -> Iterator[NbdSource]:
    """A raw file as a read-only NBD export: what a new volume starts with."""
    command = ["qemu-nbd", "-r", "-t", "-e", "8", "-f", "raw", "-x", "source", "-k", str(socket), str(image)]
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command])
    try:
        yield NbdSource(socket=socket, name="source", size_bytes=image.stat().st_size)
    finally:
        process.kill()
        process.wait()


async def started(source: NbdSource) -> None:
    await eventually(source.socket.exists)

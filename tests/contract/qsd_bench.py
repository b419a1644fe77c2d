"""The storage daemons' bench: real processes on a folder of their own, and clients that speak NBD."""

from __future__ import annotations

import contextlib
import functools
import shutil
import signal
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from common.ids import VolumeId
from common.pki import Identity, create_authority, issue
from services.sc.drivers.base import ExportPlace
from services.sc.drivers.qsd.driver import QsdVolumes
from tests import processes
from tests.contract.nbd_writer import NbdWriter
from tests.contract.volume_bench import Bench, Client

NODES = ("nc-us-east-1a-1", "nc-us-east-1a-2")
ADDRESS = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class QsdBench(Bench):
    """`leaving`: another driver on the same engine, that leaves so much to the host."""

    leaving: Callable[[int], QsdVolumes]
    context: Callable[[str], ssl.SSLContext]
    # Of the daemon of one volume, that runs or ran last; 0: there was none.
    pid: Callable[[VolumeId], int]
    # The daemon of one volume does not answer any more.
    hang: Callable[[VolumeId], None]
    wake: Callable[[VolumeId], None]
    # Of the daemon of one volume; it speaks to one at a time.
    monitor: Callable[[VolumeId], Path]


@asynccontextmanager
async def qsd_bench(folder: Path) -> AsyncIterator[QsdBench]:
    # A socket's path is at most 108 bytes.
    sockets = Path(tempfile.mkdtemp(prefix="mallee-qsd-"))
    pki = folder / "pki"
    create_authority(pki)
    issue(pki, "sc-us-east-1a", "sc", ips=[ADDRESS])
    for node in NODES:
        issue(pki, node, "nc")
    made: list[QsdVolumes] = []

    def make(name: str = "engine", reserve_bytes: int = 0) -> QsdVolumes:
        made.append(
            QsdVolumes(
                folder=folder / name,
                sockets=sockets / name,
                address=ADDRESS,
                identity=Identity.load(pki, "sc-us-east-1a"),
                reserve_bytes=reserve_bytes,
            )
        )
        return made[-1]

    async def connect(place: ExportPlace, node: str) -> Client:
        client = NbdWriter(place, client_context(pki, node))
        await client.connect()
        return client

    def pid_of(volume_id: VolumeId) -> int:
        with contextlib.suppress(OSError, ValueError):
            return int((sockets / "engine" / "q" / f"{volume_id.removeprefix('vol-')}.pid").read_text())
        return 0

    def remains() -> list[str]:
        places = [folder / "engine", sockets / "engine", sockets / "engine" / "q"]
        files = [str(path) for place in places if place.exists() for path in place.iterdir()]
        return [*files, *daemons_of(sockets)]

    try:
        yield QsdBench(
            leaving=lambda reserve_bytes: make(reserve_bytes=reserve_bytes),
            monitor=lambda volume_id: sockets / "engine" / "q" / f"{volume_id.removeprefix('vol-')}.qmp",
            pid=pid_of,
            hang=lambda volume_id: processes.kill(pid_of(volume_id), signal.SIGSTOP),
            wake=lambda volume_id: processes.kill(pid_of(volume_id), signal.SIGCONT),
            context=functools.partial(client_context, pki),
            driver=make(),
            again=make,
            full=lambda: make("full", reserve_bytes=1 << 60),
            connect=connect,
            kill=lambda volume_id: processes.kill(pid_of(volume_id)),
            remains=remains,
        )
    finally:
        for driver in made:
            await driver.close()
        for pid in daemons_of(sockets):
            processes.kill(int(pid))
        shutil.rmtree(sockets)


def daemons_of(sockets: Path) -> list[str]:
    """Pids."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                command = (process / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if command.startswith("qemu-storage-daemon") and f"{sockets}/" in command:
                found.append(process.name)
    return found


def client_context(pki: Path, node: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    context.check_hostname = False
    context.load_cert_chain(pki / f"{node}.pem", pki / f"{node}-key.pem")
    return context

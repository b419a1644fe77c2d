"""Snapshots in Walrus as NBD exports of this host: what is to be served, and the process that serves (source_main.py).

While a snapshot is served, Walrus keeps a copy of it under a name of ours (it shares all blocks), so that who deletes
the snapshot meanwhile takes nothing from the volume that is being filled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.background import Background
from common.errors import NotFound, Unavailable
from common.ids import SnapshotId
from common.log import get_logger
from common.rpc.errors import cloud_errors
from mallee.walrus.v1 import service_pb2
from services.sc.drivers.base import NbdSource
from services.sc.manifest_file import Manifest, ManifestWriter, draft_of
from services.sc.nbd.client import connected
from services.sc.source_files import SourceFiles

if TYPE_CHECKING:
    from mallee.walrus.v1.service_pb2_grpc import WalrusServiceAsyncStub

# A server that ends sooner after its start is started again later and later.
_STEADY_S: Final = 5.0
_MOST_PAUSE_S: Final = 5.0
_STARTS_WITHIN_S: Final = 15.0
_LOG_BYTES: Final = 1 << 20

_log = get_logger(__name__)


class WalrusSources:
    """clients.py Sources. `command` starts the server, but for --folder and --socket; `holder` names this controller's
    copies in Walrus; `walrus` gives the stub to use now, or raises Unavailable."""

    def __init__(
        self,
        folder: Path,
        socket: Path,
        *,
        command: Sequence[str],
        holder: str,
        walrus: Callable[[], WalrusServiceAsyncStub],
    ) -> None:
        self._files = SourceFiles(folder)
        self._socket = socket
        self._command = [*command, "--folder", str(folder), "--socket", str(socket)]
        self._holder = holder
        self._walrus = walrus
        self._reading: defaultdict[SnapshotId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._child: subprocess.Popen[bytes] | None = None
        self._needed = asyncio.Event()
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        await asyncio.to_thread(self._files.prepare)
        self._needed = asyncio.Event()
        if self._files.serving():
            self._needed.set()
        tasks = await self._stack.enter_async_context(Background())
        tasks.start(self._keep_serving(), name="source")

    async def close(self) -> None:
        await self._stack.aclose()

    async def serve(self, snapshot_id: SnapshotId) -> NbdSource:
        # Many volumes of one snapshot ask at once: one of them reads it.
        async with self._reading[snapshot_id]:
            manifest = await asyncio.to_thread(self._known, snapshot_id)
            if manifest is None:
                manifest = await self._read(snapshot_id)
        self._needed.set()
        await self._answers(snapshot_id)
        return NbdSource(socket=self._socket, name=snapshot_id, size_bytes=manifest.size_bytes)

    async def stop(self, snapshot_id: SnapshotId, *, unless: Callable[[], bool]) -> None:
        async with self._reading[snapshot_id]:
            if unless():
                return
            held = self._held(snapshot_id)
            await self._walrus().ForgetSnapshot(service_pb2.ForgetSnapshotRequest(snapshot_id=held))
            path = self._files.manifest(snapshot_id)
            for file in (draft_of(path), path):
                await asyncio.to_thread(file.unlink, missing_ok=True)
        if not self._files.serving():
            self._needed.clear()
            await asyncio.to_thread(self._end)

    async def serving(self) -> frozenset[SnapshotId]:
        return self._files.serving()

    async def destroy(self) -> None:
        for snapshot_id in self._files.serving():
            # Walrus may be gone already, with all that it had.
            with contextlib.suppress(Unavailable):
                await self.stop(snapshot_id, unless=lambda: False)
        self._needed.clear()
        await asyncio.to_thread(self._end)
        await asyncio.to_thread(shutil.rmtree, self._files.folder, ignore_errors=True)

    def _held(self, snapshot_id: SnapshotId) -> str:
        return f"{snapshot_id} for {self._holder}"

    def _known(self, snapshot_id: SnapshotId) -> Manifest | None:
        self._files.prepare()
        try:
            return Manifest(self._files.manifest(snapshot_id))
        except (ValueError, OSError):
            return None

    async def _read(self, snapshot_id: SnapshotId) -> Manifest:
        """Noted before it is held, and held before it is read: what a crash leaves is found by `serving`."""
        path = self._files.manifest(snapshot_id)
        await asyncio.to_thread(path.touch)
        copy = service_pb2.CopySnapshotRequest(source_snapshot_id=snapshot_id, snapshot_id=self._held(snapshot_id))
        try:
            made = await self._walrus().CopySnapshot(copy)
        except NotFound:
            await asyncio.to_thread(path.unlink, missing_ok=True)
            raise
        writer = await asyncio.to_thread(ManifestWriter, path, made.size_bytes)
        async for entries in self._entries(copy.snapshot_id):
            await asyncio.to_thread(writer.add, entries)
        await asyncio.to_thread(writer.finish)
        return await asyncio.to_thread(Manifest, path)

    async def _entries(self, held: str) -> AsyncIterator[list[tuple[int, bytes]]]:
        answers = self._walrus().ReadSnapshot(service_pb2.ReadSnapshotRequest(snapshot_id=held))
        with cloud_errors():
            async for answer in answers:
                yield [(entry.index, entry.digest) for entry in answer.entries]

    async def _answers(self, snapshot_id: SnapshotId) -> None:
        """Raises Unavailable if the server does not come up."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _STARTS_WITHIN_S
        while True:
            try:
                async with connected(self._socket, snapshot_id):
                    return
            except Unavailable:
                if loop.time() > until:
                    raise
            await asyncio.sleep(0.02)

    async def _keep_serving(self) -> None:
        pause_s = 0.0
        while True:
            await self._needed.wait()
            began = time.monotonic()
            pid = await asyncio.to_thread(self._started)
            if pid is not None:
                await _ended(pid)
                await asyncio.to_thread(self._reap)
                if self._needed.is_set():
                    _log.warning("what serves snapshots ended: it is started again", pid=pid)
            steady = time.monotonic() - began > _STEADY_S
            pause_s = 0.0 if steady else min(_MOST_PAUSE_S, pause_s * 2 or 0.05)
            await asyncio.sleep(pause_s)

    def _started(self) -> int | None:
        """The pid of the server that runs: found, or started now. None: look again."""
        if (pid := self._files.holder()) is not None:
            return pid
        if self._child is not None and self._child.poll() is None:
            return self._child.pid
        self._socket.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if self._files.log.stat().st_size > _LOG_BYTES:
                self._files.log.replace(self._files.log.with_suffix(".old"))
        with self._files.log.open("ab") as said:
            # It outlives this process, and its signals.
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd="/",
                start_new_session=True,
            )
        return self._child.pid

    def _reap(self) -> None:
        if self._child is not None:
            self._child.poll()

    def _end(self) -> None:
        pid = self._files.holder() if self._files.folder.exists() else None
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                # Still the same process: the lock is held.
                if self._files.holder() == pid:
                    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            finally:
                os.close(descriptor)


async def _ended(pid: int) -> None:
    """Returns when that process has ended, be it our child or not."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)

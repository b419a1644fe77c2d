"""Bundles of running instances: the root disk is copied as it is at one moment, and Walrus makes the rest of it.

A copy is here for no longer than its call; what a killed node controller left is removed at its next start.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Final

from common.errors import CloudError, NoCapacity, NotFound, Unavailable, WrongState
from common.ids import InstanceId
from common.log import get_logger
from common.rpc.channel import cloud_errors
from common.rpc.peers import Peers
from common.shards import Shards
from common.threads import to_the_end
from mallee.nc.v1 import instance_pb2 as nc
from mallee.nc.v1 import service_pb2 as nc_service
from mallee.walrus.v1 import service_pb2 as walrus
from mallee.walrus.v1.service_pb2_grpc import WalrusServiceStub
from services.nc.drivers.base import Hypervisor
from services.nc.instance import Goal, Phase
from services.nc.store import InstanceStore

_CHUNK_BYTES: Final = 1 << 20
_ZEROS: Final = bytes(_CHUNK_BYTES)
News = nc_service.BundleInstanceResponse
_log = get_logger(__name__)


class Bundler:
    """`owner`: uid and gid that QEMU runs as. `walrus` answers None until etcd has told where it is."""

    def __init__(
        self,
        store: InstanceStore,
        hypervisor: Hypervisor,
        folder: Path,
        *,
        owner: tuple[int, int] | None,
        reserve_bytes: int,
        walrus: Callable[[], Peers | None],
        shards: Shards,
    ) -> None:
        self._store = store
        self._hypervisor = hypervisor
        self._folder = folder
        self._owner = owner
        self._reserve_bytes = reserve_bytes
        self._walrus = walrus
        self._shards = shards
        # A second call waits until the first, whose caller has gone, has cleaned up.
        self._alone: defaultdict[InstanceId, asyncio.Lock] = defaultdict(asyncio.Lock)

    def open(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o711)

    async def bundle(self, epoch: int, order: nc.BundleOrder) -> AsyncGenerator[News, None]:
        """Raises NotFound, WrongState, NoCapacity, Stale, and what Walrus answers."""
        await self._store.obey(epoch)
        instance_id = InstanceId(order.instance_id)
        async with self._alone[instance_id]:
            size_bytes = self._check(instance_id)
            copy = self._folder / f"{instance_id}.raw"
            try:
                yield _news(nc.BUNDLE_STATE_BUNDLING, 0)
                await to_the_end(partial(self._make, copy, size_bytes))
                await self._hypervisor.copy_root(instance_id, copy)
                yield _news(nc.BUNDLE_STATE_STORING, 0)
                async for percent in self._send(order, copy, size_bytes):
                    yield _news(nc.BUNDLE_STATE_STORING, percent)
                yield _news(nc.BUNDLE_STATE_COMPLETE, 100)
            finally:
                copy.unlink(missing_ok=True)

    def _check(self, instance_id: InstanceId) -> int:
        """The size of its root disk."""
        record = self._store.get(instance_id)
        if record is None:
            raise NotFound(f"{instance_id} is not on this node", code="InvalidInstanceID.NotFound")
        if Goal(record.goal) is not Goal.RUN or Phase(record.phase) is not Phase.RUNNING:
            raise WrongState(f"{instance_id} does not run", code="IncorrectInstanceState")
        return record.spec.shape.disk_bytes

    def _make(self, copy: Path, size_bytes: int) -> None:
        free = os.statvfs(self._folder)
        if free.f_bavail * free.f_frsize < size_bytes + self._reserve_bytes:
            raise NoCapacity(f"The node has no space for a copy of {size_bytes} bytes; free some, then try again.")
        with copy.open("xb") as file:
            file.truncate(size_bytes)
            if self._owner is not None:
                os.fchown(file.fileno(), *self._owner)

    async def _send(self, order: nc.BundleOrder, copy: Path, size_bytes: int) -> AsyncIterator[int]:
        """Percent of it that has been sent."""
        peers = self._walrus()
        if peers is None:
            raise Unavailable("Walrus is not known yet")
        sent = 0

        async def messages() -> AsyncIterator[walrus.BundleImageRequest]:
            nonlocal sent
            yield walrus.BundleImageRequest(order=order, size_bytes=size_bytes)
            with copy.open("rb", buffering=0) as file:
                while sent < size_bytes:
                    message = await asyncio.to_thread(_next_of, file, sent, size_bytes)
                    yield message
                    sent += message.hole_bytes or len(message.chunk)
            yield walrus.BundleImageRequest(complete=True)

        with cloud_errors():
            call = peers.stub(WalrusServiceStub, self._shards.of(order.bucket)).BundleImage(messages())
            answer = asyncio.ensure_future(call)
            try:
                while not answer.done():
                    before = sent
                    await asyncio.wait([answer], timeout=1.0)
                    if sent != before:
                        yield min(99, sent * 100 // max(1, size_bytes))
                key = (await answer).manifest_key
            finally:
                call.cancel()
        _log.info("an instance is bundled", instance_id=order.instance_id, bucket=order.bucket, key=key)


def _next_of(file: FileIO, start: int, end: int) -> walrus.BundleImageRequest:
    """From `start` on: a hole, however large, or a chunk."""
    try:
        data = os.lseek(file.fileno(), start, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        data = end
    if data > start:
        return walrus.BundleImageRequest(hole_bytes=min(data, end) - start)
    chunk = os.pread(file.fileno(), min(_CHUNK_BYTES, end - start), start)
    if not chunk:
        raise CloudError("The copy of the disk is shorter than the disk.")
    return (
        walrus.BundleImageRequest(hole_bytes=len(chunk))
        if chunk == _ZEROS[: len(chunk)]
        else walrus.BundleImageRequest(chunk=chunk)
    )


def _news(state: nc.BundleState.ValueType, percent: int) -> News:
    return News(state=state, progress_percent=percent)

"""What a snapshot has changed, on its way to Walrus: read, named, compressed, and sent unless Walrus has it.

A batch of blocks is one piece of work from reading to Walrus' word that it is durable; a few of them run beside each
other, which bounds the memory and keeps disk, cores and network busy together.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple

from common.blocks import BLOCK_BYTES, DIGEST_BYTES, compressed
from common.errors import CloudError, NotFound, Unavailable, WrongState
from common.ids import SnapshotId
from common.rpc.errors import cloud_errors
from mallee.walrus.v1 import service_pb2
from services.sc.clients import BaseMissing, Progress, Upload, Uploaded
from services.sc.drivers.base import Extent

if TYPE_CHECKING:
    from mallee.walrus.v1.service_pb2_grpc import WalrusServiceAsyncStub

# Each of the pieces of work that run beside each other holds twice that in memory.
_BATCH_BLOCKS: Final = 16
_BESIDE: Final = 4
_THREADS: Final = 4
_MESSAGE_BLOCKS: Final = 4
_MESSAGE_ENTRIES: Final = 20_000
# How long a batch is tried again before the upload is given back to be called again.
_PATIENCE_S: Final = 30.0
_PAUSE_S: Final = 0.5

_ZEROS: Final = bytes(BLOCK_BYTES)
_ZERO_DIGEST: Final = bytes(DIGEST_BYTES)
_ENTRY: Final = struct.Struct(f">Q{DIGEST_BYTES}s")
_NOTE: Final = struct.Struct(f">I{DIGEST_BYTES}s")

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class WalrusUploader:
    """clients.py Uploader. `walrus` gives the stub to use now, or raises Unavailable."""

    def __init__(self, walrus: Callable[[], WalrusServiceAsyncStub]) -> None:
        self._walrus = walrus
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="sc-upload")
        self._means = _Means(walrus=walrus, threads=self._threads, slots=asyncio.Semaphore(_BESIDE))

    async def upload(self, upload: Upload, tell: Callable[[Progress], None]) -> Uploaded:
        if (full_bytes := await self._full_bytes(upload.snapshot_id)) is not None:
            return Uploaded(progress=Progress(), full_bytes=full_bytes)
        if upload.base is not None and await self._full_bytes(upload.base) is None:
            raise base_missing(upload)
        extents = await upload.content.changed()
        work = _Work(self._means, upload, tell, extents)
        try:
            await work.run()
            full_bytes = await work.seal()
        except WrongState as error:
            # Another controller was faster, or Walrus has given the upload up meanwhile.
            full_bytes = await self._full_bytes(upload.snapshot_id)
            if full_bytes is None:
                raise Unavailable(f"Walrus does not take {upload.snapshot_id} as it is: {error.message}") from error
        return Uploaded(progress=work.progress, full_bytes=full_bytes)

    async def forget(self, snapshot_id: SnapshotId) -> None:
        await self._walrus().ForgetSnapshot(service_pb2.ForgetSnapshotRequest(snapshot_id=snapshot_id))

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)

    async def _full_bytes(self, snapshot_id: SnapshotId) -> int | None:
        """None: Walrus has no such snapshot, or not the whole of it."""
        answers = self._walrus().ReadSnapshot(service_pb2.ReadSnapshotRequest(snapshot_id=snapshot_id))
        try:
            with cloud_errors():
                async for first in answers:
                    return first.full_bytes
        except NotFound:
            return None
        finally:
            answers.cancel()
        raise Unavailable("Walrus tells nothing of a snapshot that it has.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Means:
    walrus: Callable[[], WalrusServiceAsyncStub]
    threads: ThreadPoolExecutor
    # Batches that are on their way, of all uploads together.
    slots: asyncio.Semaphore


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """A block of the volume that is not zero."""

    index: int
    digest: bytes
    content: memoryview


class _Work:
    def __init__(
        self, means: _Means, upload: Upload, tell: Callable[[Progress], None], extents: Sequence[Extent]
    ) -> None:
        self._walrus = means.walrus
        self._threads = means.threads
        self._slots = means.slots
        self._upload = upload
        self._tell = tell
        self._size = upload.content.size_bytes
        self._batches = _batches(extents)
        self._on_the_way = 0
        self._sent = _Sent(upload.notes / "sent")
        # 40 bytes for each block.
        self._entries = bytearray()
        changed = sum(extent.length for extent in extents)
        self.progress = Progress(to_look_at_bytes=changed, saved_bytes=self._size - changed)
        tell(self.progress)

    async def run(self) -> None:
        """Every block is in Walrus when it returns."""
        failure: BaseException | None = None
        with self._sent:
            try:
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(_BESIDE):
                        tasks.create_task(self._take_batches())
            except* CloudError as group:
                # They fail together, when Walrus or the engine does: one speaks for all.
                failure = group.exceptions[0]
        if failure is not None:
            raise failure
        # What would be sealed without it would read as zeros.
        assert not self._on_the_way, "a batch was lost"

    async def seal(self) -> int:
        return await self._patiently(self._seal)

    async def _take_batches(self) -> None:
        for batch in self._batches:
            self._on_the_way += 1
            async with self._slots:
                await self._bring(batch)
            self._on_the_way -= 1

    async def _bring(self, batch: Sequence[int]) -> None:
        blocks: list[_Named] = []
        zero: list[int] = []
        looked_at = 0
        for extent in _runs(batch, self._size):
            body = await self._upload.content.read(extent)
            looked_at += len(body)
            named, zeros = await self._in_thread(_named, extent.start, body)
            blocks += named
            zero += zeros
        here, sent = await self._patiently(lambda: self._hand_over(blocks))
        for block in blocks:
            self._entries += _ENTRY.pack(block.index, block.digest)
        if self._upload.base is not None:
            for index in zero:
                self._entries += _ENTRY.pack(index, _ZERO_DIGEST)
        self.progress = Progress(
            looked_at_bytes=self.progress.looked_at_bytes + looked_at,
            to_look_at_bytes=self.progress.to_look_at_bytes,
            sent_bytes=self.progress.sent_bytes + sent,
            saved_bytes=self.progress.saved_bytes + here + looked_at - sum(len(block.content) for block in blocks),
        )
        self._tell(self.progress)

    async def _hand_over(self, blocks: Sequence[_Named]) -> tuple[int, int]:
        """Returns when they are durable: the bytes of those that did not travel, and what travelled of the others."""
        missing = set(await self._missing(list({block.digest: block for block in blocks})))
        fresh: list[service_pb2.Block] = []
        found: list[_Named] = []
        for block in blocks:
            if block.digest in missing:
                # Once, be it ever so often in the volume.
                missing.discard(block.digest)
                packed, smaller = await self._in_thread(compressed, block.content)
                fresh.append(service_pb2.Block(digest=block.digest, content=bytes(packed), compressed=smaller))
            else:
                found.append(block)
        if fresh:
            with cloud_errors():
                await self._walrus().StoreBlocks(self._messages(fresh))
            self._sent.add(fresh)
        travelled = [self._sent.pop(block.digest) for block in found]
        here = sum(len(block.content) for block, sent in zip(found, travelled, strict=True) if not sent)
        return here, sum(travelled) + sum(len(block.content) for block in fresh)

    async def _missing(self, digests: Sequence[bytes]) -> Sequence[bytes]:
        if not digests:
            return ()
        request = service_pb2.FindBlocksRequest(snapshot_id=self._upload.snapshot_id, digests=digests)
        return (await self._walrus().FindBlocks(request)).missing

    async def _messages(self, blocks: Sequence[service_pb2.Block]) -> AsyncIterator[service_pb2.StoreBlocksRequest]:
        for start in range(0, len(blocks), _MESSAGE_BLOCKS):
            yield service_pb2.StoreBlocksRequest(
                snapshot_id=self._upload.snapshot_id, blocks=blocks[start : start + _MESSAGE_BLOCKS]
            )

    async def _seal(self) -> int:
        try:
            with cloud_errors():
                return int((await self._walrus().SealSnapshot(self._entry_messages())).full_bytes)
        except NotFound as error:
            raise base_missing(self._upload) from error

    async def _entry_messages(self) -> AsyncIterator[service_pb2.SealSnapshotRequest]:
        yield service_pb2.SealSnapshotRequest(
            snapshot_id=self._upload.snapshot_id,
            account_id=self._upload.account_id,
            base_snapshot_id=self._upload.base or "",
            size_bytes=self._size,
        )
        places = _ENTRY.iter_unpack(self._entries)
        while some := list(itertools.islice(places, _MESSAGE_ENTRIES)):
            yield service_pb2.SealSnapshotRequest(
                entries=[
                    service_pb2.BlockEntry(index=index, digest=b"" if digest == _ZERO_DIGEST else digest)
                    for index, digest in some
                ]
            )
        yield service_pb2.SealSnapshotRequest(complete=True)

    async def _patiently(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """Through a restart of Walrus: what is called may be repeated."""
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return await call()
            except Unavailable:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(_PAUSE_S)

    async def _in_thread(self, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


class _Sent:
    """Notes of what travelled in this upload, by this process and by those before it, so that it is told as sent.

    Nothing depends on them but those figures, so they are not made durable.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lengths: dict[bytes, int] = {}

    def __enter__(self) -> _Sent:
        self._file = self._path.open("ab+")
        self._file.seek(0)
        noted = self._file.read()
        whole = len(noted) - len(noted) % _NOTE.size
        self._lengths = {digest: length for length, digest in _NOTE.iter_unpack(noted[:whole])}
        # A note that was cut off would shift all that follow.
        self._file.truncate(whole)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def pop(self, digest: bytes) -> int:
        """0: it did not travel, or was counted."""
        return self._lengths.pop(digest, 0)

    def add(self, blocks: Iterable[service_pb2.Block]) -> None:
        self._file.write(b"".join(_NOTE.pack(len(block.content), block.digest) for block in blocks))
        self._file.flush()


def base_missing(upload: Upload) -> BaseMissing:
    return BaseMissing(f"{upload.base}, which {upload.snapshot_id} builds on, is not in Walrus any more.")


def _batches(extents: Iterable[Extent]) -> Iterator[list[int]]:
    """Indices of blocks, in order and each once."""
    indices = (
        index
        for extent in sorted(extents, key=lambda one: one.start)
        for index in range(extent.start // BLOCK_BYTES, -(-(extent.start + extent.length) // BLOCK_BYTES))
    )
    each = (index for index, _ in itertools.groupby(indices))
    while batch := list(itertools.islice(each, _BATCH_BLOCKS)):
        yield batch


def _runs(batch: Sequence[int], size: int) -> Iterator[Extent]:
    """Blocks that follow each other are read at once."""
    first = before = batch[0]
    for index in (*batch[1:], -1):
        if index != before + 1:
            start = first * BLOCK_BYTES
            yield Extent(start=start, length=min((before + 1) * BLOCK_BYTES, size) - start)
            first = index
        before = index


def _named(start: int, body: bytes) -> tuple[list[_Named], list[int]]:
    """Its blocks, and the indices of those that are zero."""
    blocks: list[_Named] = []
    zero: list[int] = []
    whole = memoryview(body)
    for at in range(0, len(body), BLOCK_BYTES):
        index = (start + at) // BLOCK_BYTES
        content = whole[at : at + BLOCK_BYTES]
        # Without a copy, at memory speed.
        if body.startswith(_ZEROS[: len(content)], at):
            zero.append(index)
        else:
            blocks.append(_Named(index=index, digest=hashlib.sha256(content).digest(), content=content))
    return blocks, zero

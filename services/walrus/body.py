"""A body on its way in: received chunk by chunk, digested, checked against what was announced, and made durable.

Small ones end up in memory, to stand in the index; larger ones in a staged blob, which is gone again unless it is kept.
Nothing here ever holds more than a chunk and what goes inline.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import Any, Final

from common.errors import InvalidArgument
from common.rpc.uploads import Accepting
from services.walrus import digests as checksums
from services.walrus import errors, wire
from services.walrus import object as object_rules
from services.walrus.cipher import Sealer
from services.walrus.digests import Digests
from services.walrus.drivers.base import Checksum, Inline, Object, Single
from services.walrus.drivers.blobs import Staged
from services.walrus.encryption import Encryption, is_by_client
from services.walrus.settle import settled
from services.walrus.store import IN_PLACE_BYTES, Store

# Bodies from this size on may be written into their blob by who sends them.
_SHARED_BYTES: Final = 1 << 20
# Promised to a body of unknown length at a time.
_STEP_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What the header says of the body."""

    # None: not told; then only the end message tells.
    length: int | None
    # As sent; None: it was not.
    content_md5: str | None
    # In a header; None: it may still come as a trailer.
    checksum: Checksum | None
    # The algorithm of that or of the trailer to come; empty: none was named.
    algorithm: str
    # To be computed in any case, and stored unless the client sends another and it is not `fixed`.
    stored_algorithm: str
    fixed: bool


@dataclass(kw_only=True)
class Body:
    """A body that is whole, checked and, if it is a blob, on disk."""

    size: int
    etag: str
    # Of the algorithm that is stored with it.
    checksum: Checksum
    # What the client sent, to be shown in the answer; None: nothing.
    verified: Checksum | None
    content: Inline | Single
    _staged: Staged | None = field(default=None, repr=False)

    async def settle(self, store: Store, step: Awaitable[None]) -> None:
        """Takes the step that names the body, and keeps its blob exactly if the step took place."""
        if self._staged is None:
            await step
        else:
            await settled(store, self._staged, step)


def announced(request: Any, *, stored_algorithm: str = "") -> Announced:
    """Of a PutObject or UploadPart request. `stored_algorithm` empty: as the client chose, or S3's default."""
    sent = wire.checksum_sent(request)
    named = request.checksum_algorithm
    if sent is not None and named and named.upper() != sent.algorithm:
        raise errors.invalid_request("Value for x-amz-sdk-checksum-algorithm header is invalid.")
    algorithm = sent.algorithm if sent else named.upper()
    if algorithm:
        checksums.new(algorithm)
    if sent is not None:
        checksums.check_form(sent.algorithm, sent.value)
    return Announced(
        length=request.content_length if request.HasField("content_length") else None,
        content_md5=request.content_md5 if request.HasField("content_md5") else None,
        checksum=sent,
        algorithm=algorithm,
        stored_algorithm=stored_algorithm or algorithm or checksums.DEFAULT,
        fixed=bool(stored_algorithm),
    )


@asynccontextmanager
async def received(
    store: Store,
    messages: AsyncIterator[Any],
    claim: Announced,
    *,
    may_inline: bool,
    encryption: Encryption | None,
    most_bytes: int = object_rules.PUT_BYTES,
    may_be: Callable[[int], Awaitable[None]] | None = None,
) -> AsyncIterator[Body]:
    """What was not kept within the context is deleted at its end, also when the client went away.

    `may_be` is asked now and then while a body of unknown length comes: it raises when it is too much.
    """
    object_rules.check_size(claim.length or 0, most_bytes)
    async with AsyncExitStack() as stack:
        room = stack.enter_context(closing(_Room(store, may_be)))
        await room.promise(claim.length or 0)
        incoming = _Incoming(store, stack, encryption, may_inline=may_inline, room=room)
        digests = Digests({claim.stored_algorithm, claim.algorithm} - {""})
        if isinstance(messages, Accepting) and (claim.length or 0) >= _SHARED_BYTES:
            await incoming.share(messages)
        end = await _take_all(store, messages, incoming, digests, most_bytes)
        _check_length(incoming.size, claim, end)
        verified = _check_digests(digests, claim, end.trailers)
        content = await incoming.seal()
        algorithm = verified.algorithm if verified and not claim.fixed else claim.stored_algorithm
        stored = Checksum(algorithm=algorithm, value=digests.value(algorithm))
        yield Body(
            size=incoming.size,
            etag=incoming.etag(digests),
            checksum=stored,
            verified=verified,
            content=content,
            _staged=incoming.staged,
        )


@asynccontextmanager
async def copied(
    store: Store,
    chunks: AsyncIterator[bytes],
    *,
    size: int,
    algorithm: str,
    may_inline: bool,
    encryption: Encryption | None,
) -> AsyncIterator[Body]:
    """What the store holds already, once more. What was not kept within the context is deleted at its end."""
    async with AsyncExitStack() as stack:
        room = stack.enter_context(closing(_Room(store)))
        await room.promise(size)
        incoming = _Incoming(store, stack, encryption, may_inline=may_inline, room=room)
        digests = Digests({algorithm})
        async for chunk in chunks:
            await _take(store, incoming, digests, chunk)
        if incoming.size != size:
            raise errors.store_failed(f"{size} bytes were to be copied, and {incoming.size} came")
        yield Body(
            size=incoming.size,
            etag=incoming.etag(digests),
            checksum=Checksum(algorithm=algorithm, value=digests.value(algorithm)),
            verified=None,
            content=await incoming.seal(),
            _staged=incoming.staged,
        )


@asynccontextmanager
async def shared(store: Store, found: Object) -> AsyncIterator[Body | None]:
    """The same bytes under another name; None if the engine cannot do that. For a caller that holds its blob."""
    assert isinstance(found.content, Single)
    assert found.checksum is not None
    async with store.blobs.stage() as staged:
        if not await staged.share(found.content.blob):
            yield None
            return
        await staged.seal()
        yield Body(
            size=found.size,
            etag=found.etag,
            checksum=found.checksum,
            verified=None,
            content=Single(blob=staged.blob),
            _staged=staged,
        )


class _Room:
    """What of the disk's free bytes is promised to a body: all that was announced, or some steps ahead of what came."""

    def __init__(self, store: Store, may_be: Callable[[int], Awaitable[None]] | None = None) -> None:
        self._store = store
        self._may_be = may_be
        self._promised = ExitStack()
        # Nothing was asked for yet.
        self._end = -1

    async def promise(self, size: int) -> None:
        """Raises NoCapacity: so much in all would leave less than the reserve."""
        if size <= self._end:
            return
        if self._may_be is not None and self._end >= 0:
            await self._may_be(size)
        step = size if self._end < 0 else max(size - self._end, _STEP_BYTES)
        free_bytes = await self._store.blobs.free_bytes()
        # What it was promised before is written by now.
        self._promised.close()
        self._promised.enter_context(self._store.space(step, free_bytes))
        self._end = max(self._end, 0) + step

    def close(self) -> None:
        self._promised.close()


class _Incoming:
    def __init__(
        self,
        store: Store,
        stack: AsyncExitStack,
        encryption: Encryption | None,
        *,
        may_inline: bool,
        room: _Room,
    ) -> None:
        self.size = 0
        self.staged: Staged | None = None
        self._store = store
        self._room = room
        self._stack = stack
        self._inline_bytes = store.limits.inline_bytes if may_inline else -1
        self._memory = bytearray()
        self._encryption = encryption
        self._sealer = Sealer(encryption.key) if encryption else None

    async def write(self, chunk: bytes) -> None:
        await self._room.promise(self.size + len(chunk))
        self.size += len(chunk)
        if self._sealer is None:
            await self._put(chunk)
        elif len(chunk) <= IN_PLACE_BYTES:
            await self._put(self._sealer.update(chunk))
        else:
            await self._put(await self._store.in_thread(self._sealer.update, chunk))

    async def _put(self, stored: bytes) -> None:
        if self.staged is None and self.size <= self._inline_bytes:
            self._memory += stored
            return
        staged = await self._spill()
        await staged.write(stored)

    def etag(self, digests: Digests) -> str:
        """With a client's key it says nothing of the bytes, as S3 has it."""
        if self._encryption is not None and is_by_client(self._encryption.record):
            return secrets.token_hex(16)
        return digests.md5.hex()

    async def seal(self) -> Inline | Single:
        if self._sealer is not None:
            await self._put(self._sealer.finish())
        if self.staged is None and self.size <= self._inline_bytes:
            return Inline(body=bytes(self._memory))
        staged = await self._spill()
        await staged.seal()
        return Single(blob=staged.blob)

    async def share(self, messages: Accepting[Any]) -> None:
        """Lets the sender write into the blob itself where the engine can. Never what is stored other than sent."""
        if not messages.takes_file or self._sealer is not None:
            return
        descriptor = await (await self._spill()).lend()
        if descriptor is not None:
            await messages.accept_into(descriptor)

    async def written(self, length: int, digests: Digests) -> None:
        if self.staged is None:
            raise errors.invalid_request("There is no file that it could stand in.")
        await self._room.promise(self.size + length)
        self.size += length
        await self.staged.written(length, digests.update)

    async def _spill(self) -> Staged:
        if self.staged is None:
            self.staged = await self._stack.enter_async_context(self._store.blobs.stage())
            if self._memory:
                await self.staged.write(bytes(self._memory))
                self._memory.clear()
        return self.staged


async def _take_all(
    store: Store, messages: AsyncIterator[Any], incoming: _Incoming, digests: Digests, most_bytes: int
) -> Any:
    """The end message. Writing and digesting one chunk run beside each other."""
    while True:
        message = await next_message(store, messages)
        part = message.WhichOneof("part")
        if part == "end":
            return message.end
        if part == "written":
            object_rules.check_size(message.length + incoming.size, most_bytes)
            await incoming.written(message.length, digests)
            continue
        chunk: bytes = message.chunk
        object_rules.check_size(len(chunk) + incoming.size, most_bytes)
        await _take(store, incoming, digests, chunk)


async def _take(store: Store, incoming: _Incoming, digests: Digests, chunk: bytes) -> None:
    if len(chunk) <= IN_PLACE_BYTES:
        await incoming.write(chunk)
        digests.update(chunk)
    else:
        await asyncio.gather(incoming.write(chunk), store.in_thread(digests.update, chunk))


async def next_message(store: Store, messages: AsyncIterator[Any]) -> Any:
    try:
        if isinstance(messages, Accepting) and messages.waiting:
            # A timer costs more than a message that is there.
            return await anext(messages)
        async with asyncio.timeout(store.limits.idle_s):
            return await anext(messages)
    except StopAsyncIteration:
        raise InvalidArgument(
            "You did not provide the number of bytes specified by the Content-Length HTTP header",
            code="IncompleteBody",
        ) from None
    except TimeoutError:
        raise InvalidArgument(
            "Your socket connection to the server was not read from or written to within the timeout period. "
            "Idle connections will be closed.",
            code="RequestTimeout",
        ) from None


def _check_length(size: int, claim: Announced, end: Any) -> None:
    lengths = {
        length for length in (claim.length, end.length if end.HasField("length") else None) if length is not None
    }
    if lengths - {size}:
        raise InvalidArgument(
            "You did not provide the number of bytes specified by the Content-Length HTTP header",
            code="IncompleteBody",
            details={"NumberBytesProvided": str(size), "NumberBytesExpected": str(max(lengths - {size}))},
        )


def _check_digests(digests: Digests, claim: Announced, trailers: Mapping[str, str]) -> Checksum | None:
    checksums.check_md5(claim.content_md5, digests)
    sent = claim.checksum
    trailed = wire.checksum_trailed(trailers)
    if trailed is not None:
        if sent is not None or trailed.algorithm != claim.algorithm:
            raise errors.invalid_request("The checksum in the trailer is not the one that was announced.")
        sent = trailed
    if sent is None:
        return None
    checksums.check(sent.algorithm, sent.value, digests)
    return sent

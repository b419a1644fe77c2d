"""GetObject and HeadObject."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Any, Final, NamedTuple, TypeVar

from common.errors import InvalidArgument, Unavailable
from common.rpc.uploads import AtHand, RawExtent
from mallee.common.v1.caller_pb2 import Caller
from mallee.s3.v1 import object_pb2
from services.walrus import damage, encryption, errors, lifecycle, payment, plaintext, reading, versioning, wire
from services.walrus import object as object_rules
from services.walrus.conditions import ReadConditions
from services.walrus.drivers.base import Assembled, BlobId, Bucket, Checksum, Inline, Object, Part, Single
from services.walrus.drivers.blobs import BlobDamaged, BlobMissing
from services.walrus.encryption import Encryption
from services.walrus.lifecycle import Calendar
from services.walrus.plaintext import Piece
from services.walrus.ranges import Span, span_of
from services.walrus.store import Store

Answer = TypeVar("Answer", object_pb2.GetObjectOutput, object_pb2.HeadObjectOutput)

Chunk = TypeVar("Chunk")

# Checked, then handed over: while its bytes go out the next is checked.
_EXTENT_BYTES: Final = 4 << 20
# Fewer are read and sent, which takes less.
_HANDED_OVER_BYTES: Final = 256 << 10
# How often an object may be replaced between reading its row and its parts before we give up.
_TRIES: Final = 5

# Field of the request -> field of the answer that it replaces.
_OVERRIDES: Final = {
    "response_cache_control": "cache_control",
    "response_content_disposition": "content_disposition",
    "response_content_encoding": "content_encoding",
    "response_content_language": "content_language",
    "response_content_type": "content_type",
}


async def head_object(
    store: Store, request: object_pb2.HeadObjectRequest, caller: Caller | None
) -> object_pb2.HeadObjectOutput:
    bucket = await store.bucket_for(request, caller)
    found = await reading.find(store, bucket, object_rules.checked_key(request.key), request, caller)
    encryption.of_found(store, request, found.encryption)
    _conditions(request).check(found, now_ms=store.now_ms())
    asked = await _asked(store, found, request)
    answer = _header(object_pb2.HeadObjectOutput(), request, bucket, found, asked, store.calendar)
    encryption.tell(answer, request, found.encryption)
    return answer


def opened_object(
    store: Store, request: object_pb2.GetObjectRequest, caller: Caller | None
) -> AbstractAsyncContextManager[tuple[object_pb2.GetObjectOutput, AsyncIterator[bytes]]]:
    """The header and the bytes: of one state of the object, whatever happens to it meanwhile."""
    return _Reading(store, request, caller, _chunks)


def handed_over(
    store: Store, request: object_pb2.GetObjectRequest, caller: Caller | None
) -> AbstractAsyncContextManager[tuple[object_pb2.GetObjectOutput, AsyncIterator[bytes | RawExtent]]]:
    """The same for a process that can be given descriptors: what it gets of a file was checked before."""
    return _Reading(store, request, caller, _extents)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    bucket: Bucket
    found: Object
    # None: all of it.
    span: Span | None
    pieces: Sequence[Piece]
    encryption: Encryption | None
    header: object_pb2.GetObjectOutput
    # To be given back.
    held: Sequence[BlobId]


class _Reading(AbstractAsyncContextManager[tuple[object_pb2.GetObjectOutput, AsyncIterator[Chunk]]]):
    """What stands in the index is at hand with its row: for that nothing of what a stream takes is made."""

    def __init__(
        self,
        store: Store,
        request: object_pb2.GetObjectRequest,
        caller: Caller | None,
        read: Callable[[Store, Opened], AsyncGenerator[Chunk, None]],
    ) -> None:
        self._store = store
        self._request = request
        self._caller = caller
        self._read = read
        self._held: Sequence[BlobId] = ()
        self._chunks: AsyncGenerator[Chunk, None] | None = None

    async def __aenter__(self) -> tuple[object_pb2.GetObjectOutput, AsyncIterator[Chunk]]:
        opened = await _opened(self._store, self._request, self._caller)
        if isinstance(opened.found.content, Inline):
            return opened.header, AtHand(_inline(opened))
        self._held = opened.held
        self._chunks = self._read(self._store, opened)
        begun: AsyncIterator[Chunk] | None = None
        try:
            begun = await _begun(self._chunks)
            return opened.header, begun
        finally:
            if begun is None:
                await self.__aexit__()

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._chunks is not None:
                await self._chunks.aclose()
        finally:
            self._store.readers.give_back(self._held)


async def _opened(store: Store, request: object_pb2.GetObjectRequest, caller: Caller | None) -> Opened:
    bucket = await store.bucket_for(request, caller)
    key = object_rules.checked_key(request.key)
    with store.readers.lookup():
        for _ in range(_TRIES):
            found = await reading.find(store, bucket, key, request, caller)
            encrypted = encryption.of_found(store, request, found.encryption)
            _conditions(request).check(found, now_ms=store.now_ms())
            asked = await _asked(store, found, request)
            pieces = await pieces_of(store, found, asked.span or Span(0, found.size))
            if pieces is not None:
                break
        else:
            raise Unavailable("The object is replaced too often to be read. Please try again.", code="SlowDown")
        header = _header(object_pb2.GetObjectOutput(), request, bucket, found, asked, store.calendar)
        encryption.tell(header, request, found.encryption)
        await payment.tell(store, header, request, caller)
        held = store.readers.take(piece.blob for piece in pieces)
    return Opened(
        bucket=bucket,
        found=found,
        span=asked.span,
        pieces=pieces,
        encryption=encrypted,
        header=header,
        held=held,
    )


async def pieces_of(store: Store, found: Object, span: Span) -> Sequence[Piece] | None:
    """Where the bytes lie, for a caller within `readers.lookup()`. None: the object was replaced meanwhile."""
    match found.content:
        case Inline():
            return ()
        case Single(blob=blob):
            return (Piece(blob=blob, start=span.start, end=span.end, size=found.size),)
        case Assembled() as content:
            parts = await store.index.parts_of(content, start=span.start, end=span.end)
            pieces = [
                Piece(
                    blob=part.blob,
                    start=max(span.start - part.start, 0),
                    end=min(span.end - part.start, part.size),
                    size=part.size,
                )
                for part in parts
            ]
            whole = sum(piece.end - piece.start for piece in pieces) == span.end - span.start
            return pieces if whole else None


async def _begun(chunks: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    """Damage that shows at once is an answer, not a connection that is cut."""
    return _joined(await anext(chunks, None), chunks)


async def _joined(first: Chunk | None, rest: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    if first is not None:
        yield first
    async for chunk in rest:
        yield chunk


async def _chunks(store: Store, opened: Opened) -> AsyncGenerator[bytes, None]:
    for piece in opened.pieces:
        with _never_wrong(opened):
            async with aclosing(plaintext.read(store, piece, opened.encryption)) as chunks:
                async for chunk in chunks:
                    yield chunk


async def _extents(store: Store, opened: Opened) -> AsyncGenerator[bytes | RawExtent, None]:
    for piece in opened.pieces:
        with _never_wrong(opened):
            if opened.encryption is not None or piece.end - piece.start < _HANDED_OVER_BYTES:
                async with aclosing(plaintext.read(store, piece, opened.encryption)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                continue
            async with store.blobs.opened(piece.blob) as file:
                for start in range(piece.start, piece.end, _EXTENT_BYTES):
                    end = min(start + _EXTENT_BYTES, piece.end)
                    await file.verify(start, end)
                    yield RawExtent(file.descriptor, start, end)


def _inline(opened: Opened) -> bytes:
    content, size = opened.found.content, opened.found.size
    assert isinstance(content, Inline)
    with _never_wrong(opened):
        return plaintext.inline(content, opened.encryption, opened.span or Span(0, size), size)


@contextmanager
def _never_wrong(opened: Opened) -> Iterator[None]:
    try:
        yield
    except (BlobMissing, BlobDamaged) as error:
        # Held, so not reclaimed: the store is damaged. Never wrong bytes.
        raise damage.found(opened.bucket, opened.found.key, opened.found.version_id, error) from error


# A tuple: each request makes one, and a frozen dataclass takes twice the time.
class _Asked(NamedTuple):
    # None: all of it.
    span: Span | None
    # Of these very bytes, as far as it is kept.
    checksum: Checksum | None


async def _asked(store: Store, found: Object, request: Any) -> _Asked:
    """What `Range` or `partNumber` asks for."""
    number = request.part_number if request.HasField("part_number") else None
    if number is None:
        span = span_of(request.range, found.size) if request.range else None
        whole = span is None or span == Span(0, found.size)
        return _Asked(span=span, checksum=found.checksum if whole else None)
    if request.range:
        raise errors.invalid_request("Cannot specify both Range header and partNumber query parameter")
    if isinstance(found.content, Assembled):
        part = await store.index.part_at(found.content, number) if number > 0 else None
        if part is not None:
            return _Asked(span=Span(part.start, part.start + part.size), checksum=_checksum_of(part, found))
    elif number == 1:
        return _Asked(span=Span(0, found.size) if found.size else None, checksum=found.checksum)
    count = found.content.part_count if isinstance(found.content, Assembled) else 1
    raise InvalidArgument(
        "The requested partnumber is not satisfiable",
        code="InvalidPartNumber",
        details={"PartNumberRequested": str(number), "ActualPartCount": str(count)},
    )


def _checksum_of(part: Part, found: Object) -> Checksum | None:
    """Told with the object's type, though a part's is never made of others."""
    if found.checksum is None or part.checksum.algorithm != found.checksum.algorithm:
        return None
    return replace(part.checksum, composite=found.checksum.composite)


def _conditions(request: Any) -> ReadConditions:
    return ReadConditions(
        if_match=request.if_match,
        if_none_match=request.if_none_match,
        if_modified_since_s=wire.seconds_of(request, "if_modified_since"),
        if_unmodified_since_s=wire.seconds_of(request, "if_unmodified_since"),
    )


def _header(answer: Answer, request: Any, bucket: Bucket, found: Object, asked: _Asked, calendar: Calendar) -> Answer:
    span = asked.span
    answer.accept_ranges = "bytes"
    answer.e_tag = wire.quoted(found.etag)
    answer.last_modified.CopyFrom(wire.timestamp(found.modified_ms))
    answer.content_length = span.end - span.start if span else found.size
    if span is not None:
        answer.content_range = span.content_range(found.size)
    for member, value in found.attributes.headers.items():
        if value and (field := wire.HEADER_FIELDS.get(member)):
            setattr(answer, field, value)
    if answer.storage_class == "STANDARD":
        answer.ClearField("storage_class")
    if not answer.content_type:
        answer.content_type = object_rules.DEFAULT_CONTENT_TYPE
    answer.metadata.update(found.attributes.metadata)
    _describe_version(answer, bucket, found)
    if not request.version_id and (expiration := lifecycle.expiration_of(bucket, found, calendar)):
        answer.expiration = expiration
    if request.HasField("part_number") and isinstance(found.content, Assembled):
        answer.parts_count = found.content.part_count
    if request.checksum_mode.upper() == "ENABLED":
        wire.set_checksum(answer, asked.checksum)
    for override, field in _OVERRIDES.items():
        if value := getattr(request, override):
            setattr(answer, field, value)
    if request.HasField("response_expires"):
        answer.expires = formatdate(request.response_expires.seconds, usegmt=True)
    return answer


def _describe_version(answer: Answer, bucket: Bucket, found: Object) -> None:
    if version_id := versioning.told(bucket, found.version_id):
        answer.version_id = version_id
    if found.tags:
        answer.tag_count = len(found.tags)
    if found.retention is not None:
        answer.object_lock_mode = found.retention.mode
        answer.object_lock_retain_until_date.CopyFrom(wire.moment(found.retention.until_ms))
    if found.legal_hold is not None:
        answer.object_lock_legal_hold_status = "ON" if found.legal_hold else "OFF"

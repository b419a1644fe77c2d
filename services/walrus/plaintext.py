"""The bytes of an object as its client knows them, out of what is stored of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from services.walrus import cipher
from services.walrus.drivers.base import BlobId, Inline
from services.walrus.drivers.blobs import BlobDamaged
from services.walrus.encryption import Encryption
from services.walrus.ranges import Span
from services.walrus.store import IN_PLACE_BYTES, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The bytes [start, end) of the plaintext in a blob, which is `size` bytes."""

    blob: BlobId
    start: int
    end: int
    size: int


def inline(content: Inline, encryption: Encryption | None, span: Span, size: int) -> bytes:
    """Raises BlobDamaged."""
    if encryption is None:
        return content.body[span.start : span.end]
    try:
        return cipher.opened(encryption.key, content.body, size=size, start=span.start, end=span.end)
    except cipher.NotAuthentic as error:
        raise BlobDamaged(f"a body in the index: {error}") from error


async def read(store: Store, piece: Piece, encryption: Encryption | None) -> AsyncGenerator[bytes, None]:
    """In chunks of at most 1 MiB or little more. Raises BlobMissing, BlobDamaged."""
    if encryption is None:
        start, end = piece.start, piece.end
    else:
        start, end = cipher.stored_span(piece.size, piece.start, piece.end)
        opener = await _opener(store, piece, encryption)
    async with aclosing(store.blobs.read(piece.blob, start=start, end=end)) as chunks:
        async for chunk in chunks:
            if encryption is None:
                yield chunk
            elif plain := await _opened(store, piece, opener, chunk):
                yield plain


async def _opener(store: Store, piece: Piece, encryption: Encryption) -> cipher.Opener:
    async with aclosing(store.blobs.read(piece.blob, start=0, end=cipher.SALT_BYTES)) as chunks:
        salt = b"".join([chunk async for chunk in chunks])
    return cipher.Opener(encryption.key, salt, size=piece.size, start=piece.start, end=piece.end)


async def _opened(store: Store, piece: Piece, opener: cipher.Opener, chunk: bytes) -> bytes:
    try:
        if len(chunk) <= IN_PLACE_BYTES:
            return opener.update(chunk)
        return await store.in_thread(opener.update, chunk)
    except cipher.NotAuthentic as error:
        raise BlobDamaged(f"blob {piece.blob}: {error}") from error

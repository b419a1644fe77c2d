"""An object's bytes out of a request's body: framing taken off, hash and length checked by the end."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

from ec2_facade.auth.authenticate import Identified
from ec2_facade.auth.chunked import ChunkDecoder, ChunkSigner
from ec2_facade.auth.payload import Framing, Payload
from ec2_facade.errors import Refused


class Content:
    """Iterate `chunks` to the end: only then are the bytes known to be the ones that were signed.

    Raises Refused and AuthProblem when they are not.
    """

    def __init__(self, pieces: AsyncIterator[bytes], payload: Payload, identified: Identified | None) -> None:
        self._pieces = pieces
        self._payload = payload
        self._decoder: ChunkDecoder | None = None
        if payload.framing.chunked:
            signer = ChunkSigner(identified) if identified and payload.framing.signed else None
            self._decoder = ChunkDecoder(payload, signer)
        self._hash = hashlib.sha256() if payload.framing is Framing.HASHED else None
        self.length = 0

    @property
    def trailers(self) -> dict[str, str]:
        return self._decoder.trailers if self._decoder else {}

    @property
    def expected(self) -> int:
        """How long the client says it is; 0 if it does not."""
        return self._payload.length or 0

    async def batches(self, size: int) -> AsyncIterator[list[bytes]]:
        """As it comes, `size` bytes or a little more at a time."""
        parts: list[bytes] = []
        waiting = 0
        async for part in self._parts():
            parts.append(part)
            waiting += len(part)
            if waiting >= size:
                yield parts
                parts, waiting = [], 0
        if parts:
            yield parts

    async def chunks(self, size: int) -> AsyncIterator[bytes]:
        """Of `size` bytes each but the last."""
        parts: list[bytes] = []
        waiting = 0
        async for part in self._parts():
            parts.append(part)
            waiting += len(part)
            if waiting >= size:
                joined = b"".join(parts)
                whole = waiting - waiting % size
                for at in range(0, whole, size):
                    yield joined[at : at + size]
                parts = [joined[whole:]] if whole < waiting else []
                waiting -= whole
        if waiting:
            yield b"".join(parts)

    async def _parts(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            for part in self._decoder.feed(piece) if self._decoder else (piece,):
                self.length += len(part)
                if self._hash is not None:
                    self._hash.update(part)
                yield part
        self._check_end()

    def _check_end(self) -> None:
        if self._decoder is not None:
            self._decoder.finish()
        elif self._payload.length is not None and self._payload.length != self.length:
            message = "You did not provide the number of bytes specified by the Content-Length HTTP header"
            raise Refused("IncompleteBody", message, status=400)
        if self._hash is not None and self._hash.hexdigest() != self._payload.hash.lower():
            raise Refused(
                "XAmzContentSHA256Mismatch",
                "The provided 'x-amz-content-sha256' header does not match what was computed.",
                status=400,
                details={
                    "ClientComputedContentSHA256": self._payload.hash,
                    "S3ComputedContentSHA256": self._hash.hexdigest(),
                },
            )

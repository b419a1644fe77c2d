"""aws-chunked bodies, taken apart as they stream: sizes, signatures, trailers. No I/O.

    size[;chunk-signature=…]\\r\\n  data \\r\\n  …  0[;chunk-signature=…]\\r\\n  trailer lines  \\r\\n

https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html and sigv4-streaming-trailers.html. Data is handed
on before its chunk's signature is known; so whoever takes it must keep nothing until `finish` has returned.
"""

from __future__ import annotations

import hashlib
from enum import Enum, auto

from ec2_facade.auth.authenticate import Identified
from ec2_facade.auth.canonical import (
    EMPTY_SHA256,
    chunk_string_to_sign,
    sign,
    signatures_match,
    trailer_string_to_sign,
)
from ec2_facade.auth.payload import Payload
from ec2_facade.auth.problem import AuthProblem, Reason
from ec2_facade.errors import Refused
from ec2_facade.wire import to_text

_LONGEST_CHUNK_HEADER = 256
_LONGEST_TRAILER = 8192
# S3's own minimum for every chunk but the last; it also bounds what a hostile framing costs.
_SMALLEST_CHUNK = 8192
_SIGNATURE_FIELD = b"chunk-signature="
_TRAILER_SIGNATURE = "x-amz-trailer-signature"


class _State(Enum):
    HEADER = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    END = auto()


class ChunkSigner:
    """The chain of signatures, from that of the request's head on."""

    def __init__(self, identified: Identified) -> None:
        self._key = identified.key.key
        self._access_key = identified.claim.scope.access_key_id
        self._timestamp = identified.claim.timestamp
        self._scope = str(identified.claim.scope)
        self._previous = identified.claim.signature

    def check_chunk(self, data_sha256: str, signature: str) -> None:
        """Raises AuthProblem."""
        text = chunk_string_to_sign(
            timestamp=self._timestamp, scope=self._scope, previous=self._previous, data_sha256=data_sha256
        )
        self._check(text, signature)

    def check_trailer(self, trailer: bytes, signature: str) -> None:
        digest = hashlib.sha256(trailer).hexdigest()
        text = trailer_string_to_sign(
            timestamp=self._timestamp, scope=self._scope, previous=self._previous, trailer_sha256=digest
        )
        self._check(text, signature)

    def _check(self, text: str, signature: str) -> None:
        if not signatures_match(sign(self._key, text), signature):
            raise AuthProblem(
                Reason.WRONG_SIGNATURE,
                access_key=self._access_key,
                string_to_sign=text,
                signature=signature[:256],
            )
        self._previous = signature


class ChunkDecoder:
    """Feed it what arrives, in pieces of any size. Raises Refused and AuthProblem."""

    def __init__(self, payload: Payload, signer: ChunkSigner | None) -> None:
        self._payload = payload
        self._signer = signer
        self._state = _State.HEADER
        self._pending = b""
        self._left = 0
        self._decoded = 0
        self._short_chunk_seen = False
        self._signature = ""
        self._hash = hashlib.sha256()
        self._trailer_bytes = 0
        self._canonical_trailer = b""
        self._trailer_signed = False
        self.trailers: dict[str, str] = {}

    def feed(self, arrived: bytes) -> list[bytes]:
        """The object's bytes among those that arrived."""
        out: list[bytes] = []
        pieces = self._pending + arrived if self._pending else arrived
        self._pending = b""
        at = 0
        while at < len(pieces):
            if self._state is _State.DATA:
                piece = pieces[at : at + self._left]
                at += len(piece)
                self._take_data(piece)
                out.append(piece)
                continue
            end = pieces.find(b"\n", at)
            if end < 0:
                self._pending = pieces[at:]
                self._check_pending()
                break
            self._take_line(pieces[at:end].removesuffix(b"\r"))
            at = end + 1
        return out

    def finish(self) -> None:
        """At the end of the body. Raises Refused when it ended early or was not as long as declared."""
        last_newline_missing = self._state is _State.TRAILER and not self._payload.framing.trailer
        if self._pending or not (self._state is _State.END or last_newline_missing):
            raise _terminated()
        if self._decoded != self._payload.length:
            raise _terminated()

    def _check_pending(self) -> None:
        longest = _LONGEST_TRAILER if self._state is _State.TRAILER else _LONGEST_CHUNK_HEADER
        if len(self._pending) > longest:
            raise _malformed("A line of the chunked body is too long.")

    def _take_line(self, line: bytes) -> None:
        match self._state:
            case _State.HEADER:
                self._take_header(line)
            case _State.DATA_END:
                if line:
                    raise _malformed("A chunk is longer than its header says.")
                self._state = _State.HEADER
            case _State.TRAILER:
                self._take_trailer(line)
            case _:
                self._trailer_bytes += 1
                if line or self._trailer_bytes > _LONGEST_TRAILER:
                    raise _trailer_refused()

    def _take_header(self, line: bytes) -> None:
        if len(line) > _LONGEST_CHUNK_HEADER:
            raise _malformed("A line of the chunked body is too long.")
        size_text, _, extension = line.partition(b";")
        size_text = size_text.strip()
        if not size_text or len(size_text) > 12 or not all(c in b"0123456789abcdefABCDEF" for c in size_text):
            raise _malformed("A chunk of the body has no size.")
        if self._signer is not None:
            extension = extension.strip()
            if not extension.startswith(_SIGNATURE_FIELD):
                raise _malformed("A chunk of the body has no signature.")
            self._signature = to_text(extension[len(_SIGNATURE_FIELD) :])
        self._left = int(size_text, 16)
        if self._left and self._short_chunk_seen:
            message = "Only the last chunk is allowed to have a size less than 8192 bytes"
            raise Refused("InvalidChunkSizeError", message, status=403)
        self._short_chunk_seen = self._left < _SMALLEST_CHUNK
        self._decoded += self._left
        if self._payload.length is not None and self._decoded > self._payload.length:
            raise _terminated()
        self._hash = hashlib.sha256()
        self._state = _State.DATA
        if not self._left:
            if self._signer is not None:
                self._signer.check_chunk(EMPTY_SHA256, self._signature)
            self._state = _State.TRAILER

    def _take_data(self, piece: bytes) -> None:
        self._left -= len(piece)
        if self._signer is not None:
            self._hash.update(piece)
        if not self._left:
            if self._signer is not None:
                self._signer.check_chunk(self._hash.hexdigest(), self._signature)
            self._state = _State.DATA_END

    def _take_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line) + 1
        if self._trailer_bytes > _LONGEST_TRAILER:
            raise _trailer_refused()
        if not line.strip():
            # AWS's own description puts an empty line between the trailers and their signature.
            if not self._must_be_signed() or self._trailer_signed:
                self._end_trailers()
            return
        name, colon, value = to_text(line).partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon or self._trailer_signed or name in self.trailers:
            raise _trailer_refused()
        if self._signer is not None and name == _TRAILER_SIGNATURE:
            self._signer.check_trailer(self._canonical_trailer, value)
            self._trailer_signed = True
            return
        if name not in self._payload.trailer_names:
            raise _trailer_refused()
        self.trailers[name] = value
        self._canonical_trailer += f"{name}:{value}\n".encode("utf-8", "surrogateescape")

    def _must_be_signed(self) -> bool:
        return self._signer is not None and self._payload.framing.trailer

    def _end_trailers(self) -> None:
        if self._payload.framing.trailer and set(self.trailers) != self._payload.trailer_names:
            raise _trailer_refused()
        self._state = _State.END


def _terminated() -> Refused:
    message = "You did not provide the number of bytes specified by the Content-Length HTTP header"
    return Refused("IncompleteBody", message, status=400)


def _malformed(message: str) -> Refused:
    return Refused("InvalidRequest", message, status=400)


def _trailer_refused() -> Refused:
    message = "The request contained trailing data that was not well-formed or did not conform to our published schema."
    return Refused("MalformedTrailerError", message, status=400)

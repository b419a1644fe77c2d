"""aws-chunked bodies: AWS's own worked examples, every split point, and what must be refused."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec2_facade.auth.authenticate import Identified
from ec2_facade.auth.canonical import chunk_string_to_sign, sign, trailer_string_to_sign
from ec2_facade.auth.chunked import ChunkDecoder, ChunkSigner
from ec2_facade.auth.claim import Claim, Scope
from ec2_facade.auth.keys import SigningKey
from ec2_facade.auth.payload import Framing, Payload
from ec2_facade.auth.problem import AuthProblem
from ec2_facade.errors import Refused
from mallee.common.v1 import caller_pb2
from tests.unit.facade.signing import signing_key

# https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html and sigv4-streaming-trailers.html
_SCOPE = Scope(access_key_id="AKIAIOSFODNN7EXAMPLE", date="20130524", region="us-east-1", service="s3")
_TIMESTAMP = "20130524T000000Z"
_AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
_CRC_HEADER = "x-amz-checksum-crc32c"


def identified(seed: str = "0" * 64) -> Identified:
    claim = Claim(
        scope=_SCOPE,
        signed_headers=("host",),
        signature=seed,
        timestamp=_TIMESTAMP,
        time=datetime(2013, 5, 24, tzinfo=UTC),
        expires_s=None,
        session_token=None,
    )
    return Identified(claim=claim, key=SigningKey(signing_key(_SCOPE, _AWS_SECRET), caller_pb2.Caller()))


def decoder(framing: Framing, length: int, *, trailers: tuple[str, ...] = (), seed: str = "0" * 64) -> ChunkDecoder:
    payload = Payload(framing=framing, hash=framing.value, length=length, trailer_names=frozenset(trailers))
    return ChunkDecoder(payload, ChunkSigner(identified(seed)) if framing.signed else None)


@dataclass
class Encoder:
    """The client's side."""

    signed: bool
    previous: str = "0" * 64
    body: bytes = b""
    key: bytes = field(default_factory=lambda: signing_key(_SCOPE, _AWS_SECRET))

    def chunk(self, data: bytes) -> Encoder:
        extension = ""
        if self.signed:
            text = chunk_string_to_sign(
                timestamp=_TIMESTAMP,
                scope=str(_SCOPE),
                previous=self.previous,
                data_sha256=hashlib.sha256(data).hexdigest(),
            )
            self.previous = sign(self.key, text)
            extension = f";chunk-signature={self.previous}"
        self.body += f"{len(data):x}{extension}\r\n".encode() + data + (b"\r\n" if data else b"")
        return self

    def end(self, trailers: dict[str, str] | None = None, *, newline: str = "\r\n") -> bytes:
        self.chunk(b"")
        if trailers:
            canonical = "".join(f"{name}:{value}\n" for name, value in trailers.items())
            self.body += "".join(f"{name}:{value}{newline}" for name, value in trailers.items()).encode()
            if self.signed:
                text = trailer_string_to_sign(
                    timestamp=_TIMESTAMP,
                    scope=str(_SCOPE),
                    previous=self.previous,
                    trailer_sha256=hashlib.sha256(canonical.encode()).hexdigest(),
                )
                self.body += f"x-amz-trailer-signature:{sign(self.key, text)}\r\n".encode()
        self.body += b"\r\n"
        return self.body


def decode(to: ChunkDecoder, *pieces: bytes) -> bytes:
    out = b"".join(part for piece in pieces for part in to.feed(piece))
    to.finish()
    return out


def test_awss_example_of_a_signed_body() -> None:
    signatures = (
        "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    )
    body = b"".join(
        f"{size:x};chunk-signature={signature}\r\n".encode() + b"a" * size + b"\r\n"
        for size, signature in zip((65536, 1024, 0), signatures, strict=True)
    )
    assert len(body) == 66824
    seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
    assert decode(decoder(Framing.SIGNED_CHUNKS, 66560, seed=seed), body) == b"a" * 66560


def test_awss_example_of_a_signed_trailer() -> None:
    signatures = (
        "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
        "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
        "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
    )
    body = b"".join(
        f"{size:x};chunk-signature={signature}\r\n".encode() + b"a" * size + (b"\r\n" if size else b"")
        for size, signature in zip((65536, 1024, 0), signatures, strict=True)
    )
    body += (
        b"x-amz-checksum-crc32c:sOO8/Q==\n\r\n"
        b"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"
    )
    seed = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
    subject = decoder(Framing.SIGNED_CHUNKS_TRAILER, 66560, trailers=(_CRC_HEADER,), seed=seed)
    assert decode(subject, body) == b"a" * 66560
    assert subject.trailers == {_CRC_HEADER: "sOO8/Q=="}


_CASES = [
    (Framing.SIGNED_CHUNKS, {}),
    (Framing.SIGNED_CHUNKS_TRAILER, {_CRC_HEADER: "AAAAAA=="}),
    (Framing.UNSIGNED_CHUNKS_TRAILER, {_CRC_HEADER: "AAAAAA==", "x-amz-meta": "b"}),
]


@pytest.mark.parametrize(("framing", "trailers"), _CASES)
def test_every_split_point_gives_the_same(framing: Framing, trailers: dict[str, str]) -> None:
    body = Encoder(framing.signed).chunk(b"x\r\n0;" * 4).end(trailers)
    for at in range(len(body) + 1):
        subject = decoder(framing, 20, trailers=tuple(trailers))
        assert decode(subject, body[:at], body[at:]) == b"x\r\n0;" * 4
        assert subject.trailers == trailers
    assert decode(decoder(framing, 20, trailers=tuple(trailers)), *[bytes([b]) for b in body]) == b"x\r\n0;" * 4


@given(
    unit=st.binary(min_size=1, max_size=50),
    last=st.binary(min_size=1, max_size=100),
    cuts=st.lists(st.integers(0, 21000), max_size=6),
    case=st.sampled_from(_CASES),
)
def test_any_data_in_any_pieces(
    unit: bytes, last: bytes, cuts: list[int], case: tuple[Framing, dict[str, str]]
) -> None:
    data = (unit * 8192)[: max(8192, len(unit) * 500)]
    framing, trailers = case
    body = Encoder(framing.signed).chunk(data).chunk(last).end(trailers)
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[a:b] for a, b in itertools.pairwise(edges)]
    subject = decoder(framing, len(data) + len(last), trailers=tuple(trailers))
    assert decode(subject, *pieces) == data + last


@pytest.mark.parametrize(("framing", "trailers"), _CASES)
def test_an_empty_object(framing: Framing, trailers: dict[str, str]) -> None:
    assert decode(decoder(framing, 0, trailers=tuple(trailers)), Encoder(framing.signed).end(trailers)) == b""


@pytest.mark.parametrize(("framing", "trailers"), _CASES)
def test_a_body_that_ends_early_is_refused_wherever_it_ends(framing: Framing, trailers: dict[str, str]) -> None:
    body = Encoder(framing.signed).chunk(b"12345").end(trailers)
    # Without trailers the last empty line carries nothing, and some clients leave it out.
    required = len(body) if trailers else len(body) - 2
    for at in range(required - (1 if trailers else 0)):
        with pytest.raises(Refused):
            decode(decoder(framing, 5, trailers=tuple(trailers)), body[:at])


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_no_changed_byte_of_a_signed_body_comes_through(at: int, bit: int) -> None:
    body = bytearray(Encoder(signed=True).chunk(b"1234567890").end({_CRC_HEADER: "AAAAAA=="}))
    at %= len(body)
    body[at] ^= 1 << bit
    subject = decoder(Framing.SIGNED_CHUNKS_TRAILER, 10, trailers=(_CRC_HEADER,))
    try:
        data = decode(subject, bytes(body))
    except (Refused, AuthProblem):
        return
    # What may change unnoticed is framing that means the same: case of a name, a line end.
    assert (data, subject.trailers) == (b"1234567890", {_CRC_HEADER: "AAAAAA=="})


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"5\r\n12345\r\n0\r\nx-amz-checksum-crc32c:A\r\n\r\nGET / HTTP/1.1\r\n", "MalformedTrailerError"),
        (b"5\r\n12345\r\n0\r\n\r\n", "MalformedTrailerError"),
        (b"5\r\n12345\r\n0\r\nother:A\r\n\r\n", "MalformedTrailerError"),
        (b"5\r\n12345\r\n0\r\nx-amz-checksum-crc32c:A\r\n" + b"\n" * 9000, "MalformedTrailerError"),
        (b"5\r\n12345\r\n0\r\nno colon\r\n\r\n", "MalformedTrailerError"),
        (b"5\r\n12345\r\n0\r\n" + b"x" * 9000, "InvalidRequest"),
        (b"5\r\n12345\r\n0\r\n" + b"\n" * 9000, "MalformedTrailerError"),
        (b"5\r\n123456\r\n0\r\n", "InvalidRequest"),
        (b"6\r\n123456\r\n0\r\n", "IncompleteBody"),
        (b"ffffffffffff\r\n", "IncompleteBody"),
        (b"fffffffffffff\r\n", "InvalidRequest"),
        (b"-1\r\n", "InvalidRequest"),
        (b"0x5\r\n12345", "InvalidRequest"),
        (b"5" + b";" * 300, "InvalidRequest"),
        (b"\r\n", "InvalidRequest"),
        (b"2\r\n12\r\n3\r\n345\r\n0\r\n", "InvalidChunkSizeError"),
    ],
)
def test_malformed_framing_is_refused(body: bytes, code: str) -> None:
    subject = decoder(Framing.UNSIGNED_CHUNKS_TRAILER, 5, trailers=(_CRC_HEADER,))
    with pytest.raises(Refused) as caught:
        decode(subject, body)
    assert caught.value.code == code


def test_a_signed_body_without_signatures_is_refused() -> None:
    with pytest.raises(Refused):
        decode(decoder(Framing.SIGNED_CHUNKS, 5), b"5\r\n12345\r\n0\r\n\r\n")


def test_an_unsigned_trailer_of_a_signed_body_is_refused() -> None:
    body = Encoder(signed=True).chunk(b"12345").chunk(b"").body + f"{_CRC_HEADER}:A\r\n\r\n".encode()
    with pytest.raises(Refused):
        decode(decoder(Framing.SIGNED_CHUNKS_TRAILER, 5, trailers=(_CRC_HEADER,)), body)

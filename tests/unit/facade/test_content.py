"""An object's bytes out of a body: chunk sizes, hash, length."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec2_facade.auth.canonical import UNSIGNED_PAYLOAD
from ec2_facade.auth.payload import Framing, Payload
from ec2_facade.errors import Refused
from ec2_facade.s3.content import Content
from tests.unit.facade.signing import sha256


async def arriving(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def chunks_of(pieces: list[bytes], size: int, payload: Payload) -> list[bytes]:
    return [chunk async for chunk in Content(arriving(pieces), payload, None).chunks(size)]


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=12), st.integers(1, 50))
async def test_chunks_are_full_but_the_last_and_lose_nothing(pieces: list[bytes], size: int) -> None:
    body = b"".join(pieces)
    payload = Payload(framing=Framing.HASHED, hash=sha256(body), length=len(body))
    chunks = await chunks_of(pieces, size, payload)
    assert b"".join(chunks) == body
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert all(chunks)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (Payload(framing=Framing.HASHED, hash=sha256(b"12346"), length=5), "XAmzContentSHA256Mismatch"),
        (Payload(framing=Framing.HASHED, hash=sha256(b"12345"), length=6), "IncompleteBody"),
        (Payload(framing=Framing.UNSIGNED, hash=UNSIGNED_PAYLOAD, length=4), "IncompleteBody"),
    ],
)
async def test_what_differs_from_what_was_said_is_refused_at_the_end(payload: Payload, code: str) -> None:
    with pytest.raises(Refused) as caught:
        await chunks_of([b"123", b"45"], 2, payload)
    assert caught.value.code == code


async def test_an_upper_case_hash_is_the_same_hash() -> None:
    payload = Payload(framing=Framing.HASHED, hash=sha256(b"12345").upper(), length=5)
    assert await chunks_of([b"12345"], 10, payload) == [b"12345"]

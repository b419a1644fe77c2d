"""The cache of signing keys: bounded, open only while changes are heard, never older than the news."""

from __future__ import annotations

import asyncio

import pytest

from common.errors import NotFound
from ec2_facade.auth.claim import Scope
from ec2_facade.auth.keys import KeyCache, SigningKey
from mallee.common.v1 import caller_pb2
from tests.unit.facade.signing import ACCESS_KEY, FixedIdentities


def scope(day: int = 1, access_key: str = ACCESS_KEY) -> Scope:
    return Scope(access_key_id=access_key, date=f"202601{day:02}", region="us-east-1", service="s3")


async def test_nothing_is_kept_until_the_stream_of_changes_stands() -> None:
    cache, identities = KeyCache(), FixedIdentities()
    await cache.get(scope(), identities)
    await cache.get(scope(), identities)
    assert (identities.asked, len(cache)) == (2, 0)
    cache.open()
    await cache.get(scope(), identities)
    await cache.get(scope(), identities)
    assert (identities.asked, len(cache)) == (3, 1)
    cache.close()
    assert len(cache) == 0


async def test_a_change_drops_every_key_of_that_identity_alone() -> None:
    cache, identities = KeyCache(), FixedIdentities()
    cache.open()
    await cache.get(scope(1), identities)
    await cache.get(scope(2), identities)
    cache.drop(["AKIAOTHER"])
    assert len(cache) == 2
    cache.drop([ACCESS_KEY])
    assert len(cache) == 0


async def test_the_least_used_key_goes_first() -> None:
    cache, identities = KeyCache(most_keys=2), FixedIdentities()
    cache.open()
    for day in (1, 2, 1, 3):
        await cache.get(scope(day), identities)
    await cache.get(scope(1), identities)
    assert identities.asked == 3
    await cache.get(scope(2), identities)
    assert identities.asked == 4


async def test_refusals_are_not_kept() -> None:
    cache, identities = KeyCache(), FixedIdentities()
    cache.open()
    for _ in range(2):
        with pytest.raises(NotFound):
            await cache.get(scope(access_key="AKIANONE"), identities)
    assert identities.asked == 2


async def test_an_answer_that_crosses_with_a_change_is_not_kept() -> None:
    cache, answering = KeyCache(), asyncio.Event()

    class Slow:
        async def signing_key(self, scope: Scope) -> SigningKey:
            await answering.wait()
            return SigningKey(b"old", caller_pb2.Caller())

    cache.open()
    asked = asyncio.ensure_future(cache.get(scope(), Slow()))
    await asyncio.wait([asked], timeout=0)
    cache.drop([ACCESS_KEY])
    answering.set()
    assert (await asked).key == b"old"
    assert len(cache) == 0


async def test_secrets_do_not_show_when_printed() -> None:
    key = await FixedIdentities().signing_key(scope())
    assert repr(key) == f"SigningKey({ACCESS_KEY})"

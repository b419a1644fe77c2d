"""An etcd whose quota is used up: writes wait for room, reads go on, and room is made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from common.errors import Unavailable
from common.etcd.client import Etcd
from common.etcd.space import forget_history, make_room
from tests.etcd_fixture import EtcdServer, running_etcd

QUOTA_BYTES = 48 << 20
KEY, VALUE = "/mallee/x/record", b"v" * (256 << 10)


@pytest.fixture
def small_etcd_server(tmp_path: Path) -> Iterator[EtcdServer]:
    with running_etcd(tmp_path, quota_bytes=QUOTA_BYTES) as server:
        yield server


@pytest.fixture
async def small(small_etcd_server: EtcdServer) -> AsyncIterator[Etcd]:
    async with Etcd([small_etcd_server.address], None) as etcd:
        yield etcd


async def fill(etcd: Etcd) -> None:
    """With the history of one record, until no more of it is taken."""
    for _ in range(4 * QUOTA_BYTES // len(VALUE)):
        await etcd.put(KEY, VALUE)


async def test_a_full_store_takes_writes_again_once_room_was_made(small: Etcd) -> None:
    assert not await make_room(small)
    with pytest.raises(Unavailable, match="space exceeded"):
        await fill(small)
    with pytest.raises(Unavailable, match="space exceeded"):
        await small.lease_grant(5)
    held = await small.get(KEY)
    assert held is not None
    assert await make_room(small)
    assert await small.get(KEY) == held
    await small.put(KEY, b"more")
    assert await small.lease_grant(5)
    assert not await make_room(small)


async def test_a_store_whose_history_is_forgotten_in_time_is_never_full(small: Etcd) -> None:
    # Pages are free only some tenths of a second after what was on them is forgotten: the quota has room for that.
    for _ in range(2 * QUOTA_BYTES // len(VALUE)):
        await small.put(KEY, VALUE)
        await forget_history(small, above_bytes=QUOTA_BYTES // 8, kept_revisions=1)
    assert not await forget_history(small, above_bytes=QUOTA_BYTES)
    assert not await make_room(small)

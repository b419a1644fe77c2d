"""Objects of users' buckets as files of the storage controller, and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import Denied, NotFound, Unavailable
from common.ids import AccountId
from services.sc.objects import WalrusObjects
from tests.service.walrus_fixtures import certificates, stage
from tests.service.walrus_stage import WalrusStage
from tests.walrus_store import ALICE, BOB, get_bytes, put_bytes

__all__ = ["certificates", "stage"]

BODY = bytes(n % 251 for n in range(3_000_000))
OWNER, OTHER = AccountId(ALICE.account_id), AccountId(BOB.account_id)


@pytest.fixture
async def objects(stage: WalrusStage) -> WalrusObjects:
    stub = await stage.walrus("sc-a")
    return WalrusObjects(lambda bucket: stub)


async def test_an_object_goes_on_where_an_earlier_try_stopped(
    stage: WalrusStage, objects: WalrusObjects, tmp_path: Path
) -> None:
    await put_bytes(stage.store, "disk", BODY)
    into, told = tmp_path / "disk", list[tuple[int, int]]()
    for have in (0, 1_234_567, len(BODY)):
        if have:
            into.write_bytes(BODY[:have])
        told.clear()
        await objects.fetch(OWNER, "bucket", b"disk", into, lambda *said: told.append(said))
        assert into.read_bytes() == BODY
        assert sum(1 for _ in told) <= 1 + (len(BODY) - have) // 1_000_000
    await put_bytes(stage.store, "disk", BODY[::-1])
    into.write_bytes(BODY[:1000])
    with pytest.raises(Unavailable):
        await objects.fetch(OWNER, "bucket", b"disk", into, lambda *said: None)
    await objects.fetch(OWNER, "bucket", b"disk", into, lambda *said: None)
    assert into.read_bytes() == BODY[::-1]


async def test_an_account_reads_and_writes_its_own_alone(
    stage: WalrusStage, objects: WalrusObjects, tmp_path: Path
) -> None:
    await put_bytes(stage.store, "disk", BODY)
    with pytest.raises(Denied):
        await objects.fetch(OTHER, "bucket", b"disk", tmp_path / "disk", lambda *said: None)
    with pytest.raises(NotFound):
        await objects.fetch(OWNER, "bucket", b"none", tmp_path / "disk", lambda *said: None)
    source, told = tmp_path / "source", list[tuple[int, int]]()
    source.write_bytes(BODY)
    with pytest.raises(Denied):
        await objects.store(OTHER, "bucket", b"made", source, lambda *said: None)
    await objects.store(OWNER, "bucket", b"made", source, lambda *said: told.append(said))
    assert await get_bytes(stage.store, "made") == BODY
    assert told[-1] == (len(BODY), len(BODY))

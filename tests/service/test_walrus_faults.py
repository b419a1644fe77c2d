"""Disks that fail and fill up: the client is told, the old object stands, nothing is left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from services.walrus.drivers.fake import FakeIndex, Faults
from services.walrus.drivers.fake_blobs import FakeBlobs
from services.walrus.reclaim import Reclaimer
from services.walrus.store import Limits, Store
from tests.walrus_store import begin_upload, complete, get_bytes, make_bucket, put_bytes, refused, upload_part

OLD, NEW = b"old" * 100, b"new" * 200


@dataclass
class Stage:
    store: Store
    blobs: FakeBlobs
    faults: Faults


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    faults = Faults()
    blobs = FakeBlobs(faults=faults)
    limits = Limits(inline_bytes=64, reserve_bytes=0, part_bytes=1)
    store = Store(index=FakeIndex(faults=faults), blobs=blobs, limits=limits)
    await make_bucket(store)
    await put_bytes(store, "k", OLD)
    yield Stage(store, blobs, faults)
    await store.close()


async def check_old_stands(stage: Stage) -> None:
    assert await get_bytes(stage.store, "k") == OLD
    assert len(stage.blobs.sealed) == 1
    assert await Reclaimer(stage.store).sweep_orphans() == 0


async def test_a_commit_that_fails_leaves_the_old_object_and_no_blob(stage: Stage) -> None:
    for body in (NEW, b"small"):
        stage.faults.failing_commits = 1
        await refused("ServiceUnavailable", put_bytes(stage.store, "k", body))
        await check_old_stands(stage)


async def test_a_seal_that_fails_leaves_the_old_object_and_no_blob(stage: Stage) -> None:
    stage.faults.failing_seals = 1
    await refused("ServiceUnavailable", put_bytes(stage.store, "k", NEW))
    await check_old_stands(stage)


async def test_a_disk_that_fills_up_in_the_middle_is_told(stage: Stage) -> None:
    stage.faults.room_bytes = 300
    error = await refused("InsufficientCapacity", put_bytes(stage.store, "k", NEW))
    assert "full" in error.message
    await check_old_stands(stage)


async def test_a_length_that_is_announced_is_refused_before_anything_is_written(stage: Stage) -> None:
    stage.faults.room_bytes = 300
    await refused("InsufficientCapacity", put_bytes(stage.store, "k", NEW, content_length=len(NEW)))
    await check_old_stands(stage)


async def test_completing_again_after_a_commit_that_failed_works(stage: Stage) -> None:
    upload_id = await begin_upload(stage.store, "k")
    parts = {1: await upload_part(stage.store, "k", upload_id, 1, NEW)}
    stage.faults.failing_commits = 1
    await refused("ServiceUnavailable", complete(stage.store, "k", upload_id, parts))
    assert await get_bytes(stage.store, "k") == OLD
    await complete(stage.store, "k", upload_id, parts)
    assert await get_bytes(stage.store, "k") == NEW


async def test_a_blob_that_is_missing_is_an_error_and_never_wrong_bytes(stage: Stage) -> None:
    body = stage.blobs.sealed.popitem()
    await refused("InternalError", get_bytes(stage.store, "k"))
    stage.blobs.sealed[body[0]] = body[1][:-1]
    await refused("InternalError", get_bytes(stage.store, "k"))

"""The scrub: what flipped, was cut off, is gone or is left over is found, and whose it is; it goes on where it was."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest

from common.errors import CloudError
from mallee.walrus.v1 import service_pb2, upkeep_pb2
from mallee.walrus.v1.upkeep_pb2_grpc import UpkeepServiceStub
from services.walrus.drivers.base import BlobId, Pin
from services.walrus.reclaim import Reclaimer
from services.walrus.scrub import Finding, Kind, Pace, Scrubber
from tests.eventually import eventually
from tests.service.test_walrus_damage import flip
from tests.service.walrus_fixtures import certificates, stage
from tests.service.walrus_snapshots import a_block, download, upload
from tests.service.walrus_stage import WalrusStage
from tests.walrus_store import begin_upload, complete, files_of, put_bytes, upload_part

__all__ = ["certificates", "stage"]

LARGE = bytes(n % 251 for n in range(300_000))


def scrubber(stage: WalrusStage) -> Scrubber:
    return Scrubber(store=stage.store, pins=stage.root / "pins", bytes_per_s=1 << 40, cycle_s=3600)


async def found_by(stage: WalrusStage) -> list[Finding]:
    return [finding async for step in scrubber(stage).scrub("", Pace(0)) for finding in step.findings]


async def put_file(stage: WalrusStage, key: str) -> Path:
    before = set(files_of(stage.root))
    await put_bytes(stage.store, key, LARGE)
    (path,) = set(files_of(stage.root)) - before
    return path


async def test_what_is_whole_has_no_findings_and_is_counted(stage: WalrusStage) -> None:
    await put_file(stage, "k")
    await put_bytes(stage.store, "small", b"small")
    steps = [step async for step in scrubber(stage).scrub("", Pace(0))]
    assert [finding for step in steps for finding in step.findings] == []
    assert sum(step.scrubbed_bytes for step in steps) == len(LARGE) + len(b"small")
    assert sum(step.compared for step in steps) == 2
    assert [step.position for step in steps].index("") == len(steps) - 1


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
async def test_damage_is_found_with_the_object_that_it_hits(stage: WalrusStage, harm: str) -> None:
    await put_file(stage, "fine")
    path = await put_file(stage, "a/key")
    match harm:
        case "flipped":
            flip(path, 200_000)
        case "cut":
            path.write_bytes(LARGE)
        case "gone":
            path.unlink()
    (finding,) = await found_by(stage)
    assert finding.kind is (Kind.MISSING if harm == "gone" else Kind.DAMAGED)
    assert (finding.what, list(finding.owners)) == (f"blob {path.stem}", ["bucket/a/key"])
    assert path.stem in finding.why


async def test_damaged_parts_bodies_and_leftovers_are_found(stage: WalrusStage) -> None:
    upload_id = await begin_upload(stage.store, "parts")
    parts = {n: await upload_part(stage.store, "parts", upload_id, n, bytes([n]) * 200) for n in (1, 2)}
    await complete(stage.store, "parts", upload_id, parts)
    second = next(path for path in files_of(stage.root) if path.read_bytes().startswith(bytes([2]) * 200))
    flip(second, 0)
    await put_bytes(stage.store, "small", b"small")
    with closing(sqlite3.connect(stage.root / "index.sqlite")) as db:
        db.execute("UPDATE bodies SET body = 'smalk'")
        db.commit()
    await put_bytes(stage.store, "row", b"row")
    with closing(sqlite3.connect(stage.root / "index.sqlite")) as db:
        db.execute("UPDATE objects SET etag = '0' WHERE key = ?", (b"row",))
        db.commit()
    stray = BlobId.new()
    (stage.root / "blobs" / stray[:2] / f"{stray}.1").write_bytes(b"x")
    (stage.root / "blobs" / "00" / "lost+found").write_bytes(b"x")
    found = {(one.kind, one.what.partition(" ")[0]): list(one.owners) for one in await found_by(stage)}
    assert found == {
        (Kind.DAMAGED, "blob"): ["bucket/parts part 2"],
        (Kind.DAMAGED, "body"): ["bucket/small"],
        (Kind.DAMAGED, "row"): ["bucket/row"],
        (Kind.SURPLUS, "blob"): [],
    }


async def test_what_is_reclaimed_while_the_scrub_looks_is_not_left_over(stage: WalrusStage) -> None:
    path = await put_file(stage, "k")
    whole = stage.store.index.named

    async def overtaken(blobs: Sequence[BlobId]) -> set[BlobId]:
        if blobs and path.exists():
            await put_bytes(stage.store, "k", b"small")
            await Reclaimer(stage.store).collect()
        return await whole(blobs)

    stage.store.index.named = overtaken  # type: ignore[method-assign]
    assert await found_by(stage) == []
    assert not path.exists()


async def test_a_damaged_block_names_the_snapshots_that_have_it_and_is_put_right(stage: WalrusStage) -> None:
    walrus = await stage.walrus("sc-a")
    await upload(walrus, "snap-1", {0: a_block(1), 1: a_block(2)})
    await upload(walrus, "snap-2", {1: a_block(1)})
    await upload(walrus, "snap-3", {1: a_block(2)})
    (pack,) = files_of(stage.root)
    flip(pack, 1000)
    (finding,) = await found_by(stage)
    hit = ["snapshot snap-1", "snapshot snap-2"]
    other = ["snapshot snap-1", "snapshot snap-3"]
    assert list(finding.owners) in (hit, other, sorted({*hit, *other}))
    await upload(walrus, "snap-4", {0: a_block(1), 1: a_block(2)})
    assert await download(walrus, "snap-1") == {0: a_block(1), 1: a_block(2)}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE manifests SET page = (SELECT max(id) FROM pages) WHERE snapshot = 1",
        "UPDATE pages SET digests = zeroblob(length(digests)) WHERE id = 1",
        "UPDATE snapshots SET size = size * 2 WHERE id = 1",
    ],
)
async def test_a_damaged_list_of_a_snapshots_blocks_is_an_error_and_found(stage: WalrusStage, statement: str) -> None:
    walrus = await stage.walrus("sc-a")
    await upload(walrus, "snap-1", {0: a_block(1)})
    await upload(walrus, "snap-2", {0: a_block(2)})
    assert await found_by(stage) == []
    with closing(sqlite3.connect(stage.root / "index.sqlite")) as db:
        assert db.execute(statement).rowcount == 1
        db.commit()
    with pytest.raises(CloudError, match="damaged"):
        await download(walrus, "snap-1")
    assert await download(walrus, "snap-2") == {0: a_block(2)}
    (finding,) = await found_by(stage)
    assert (finding.kind, list(finding.owners)) == (Kind.DAMAGED, ["snapshot snap-1"])


async def test_a_damaged_or_missing_pin_names_its_images(stage: WalrusStage) -> None:
    for name in ("flipped", "gone"):
        pin = Pin(
            image_id=name, sha256=name, size=3, format="raw", virtual_size=3, account_id="1", source="machine b/k"
        )
        await stage.store.index.put_pin(pin)
    (stage.root / "pins" / "flipped").write_bytes(b"abc")
    assert [(one.kind, list(one.owners)) for one in await found_by(stage)] == [
        (Kind.DAMAGED, ["image flipped"]),
        (Kind.MISSING, ["image gone"]),
    ]


async def test_a_pass_goes_on_where_it_was_and_the_next_begins_when_it_is_due(stage: WalrusStage) -> None:
    for n in range(5):
        await put_file(stage, f"k{n}")
    clock = [stage.store.now_ms()]
    stage.store.now_ms = lambda: clock[0]
    slept = asyncio.Event()

    async def sleep(seconds: float) -> None:
        clock[0] += int(seconds * 1000)
        if seconds == 60:
            # Not of its pace: it has nothing to do.
            slept.set()
        await asyncio.sleep(0)

    first = scrubber(stage)
    positions = [step.position async for step in first.scrub("", Pace(0))]
    stopped = [position for position in positions if position.startswith("blobs:")][2]
    rest = [step async for step in first.scrub(stopped, Pace(0))]
    assert 0 < sum(step.compared for step in rest) < 5
    await stage.store.index.inspection.put_note("scrub-pass", f"{clock[0]} 0 {stopped}")
    second = Scrubber(store=stage.store, pins=stage.root / "pins", bytes_per_s=1, cycle_s=1e9, sleep=sleep)
    task = asyncio.create_task(second.run())
    try:
        await eventually(slept.is_set)
        began, ended, position = (await stage.store.index.inspection.note("scrub-pass")).split(" ")
        assert position == ""
        assert int(ended) > int(began)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_the_operator_is_told_over_grpc_and_nobody_else(stage: WalrusStage) -> None:
    flip(await put_file(stage, "k"), 5)
    operator = UpkeepServiceStub(await stage.channel("admin"))
    answers = [answer async for answer in operator.ScrubStore(upkeep_pb2.ScrubStoreRequest())]
    (finding,) = [finding for answer in answers for finding in answer.findings]
    assert (finding.kind, list(finding.owners)) == (upkeep_pb2.FINDING_KIND_DAMAGED, ["bucket/k"])
    assert answers[-1].complete
    assert not any(answer.complete for answer in answers[:-1])
    assert await (await stage.walrus("admin")).DescribeStore(service_pb2.DescribeStoreRequest())

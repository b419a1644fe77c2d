"""Any changes, ended between any two system calls: the store is what it was before or after the one that was cut off.

Nothing that was acknowledged is lost, every byte has its checksum, and the worker leaves nothing over.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mallee.s3.v1 import versioning_pb2
from services.walrus import settings as bucket_settings
from services.walrus.drivers.base import Bucket, Inline, Object, Scan, Summary
from services.walrus.drivers.embedded.restore import restore
from services.walrus.drivers.versions import NULL, Marker
from services.walrus.reclaim import Reclaimer
from services.walrus.scrub import Pace, Scrubber
from services.walrus.store import Store
from services.walrus.versioning import shown
from tests.service.crash_model import CHANGES, Change, Model
from tests.walrus_store import ALICE, files_of, get_bytes, opened_store

_EXAMPLES = int(os.environ.get("MALLEE_CRASHES") or 25)

Crash = Callable[[Path, list[Change], int, str], dict[str, Any]]


@pytest.fixture(scope="module")
def crash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crash]:
    """Does changes to a store until it is ended; what came of it."""
    library = tmp_path_factory.mktemp("crash") / "crash_calls.so"
    source = Path(__file__).with_name("crash_calls.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.service.walrus_crash_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert child.stdin
    assert child.stdout
    into, out = child.stdin, child.stdout

    def ask(root: Path, changes: list[Change], calls: int, begin: str) -> dict[str, Any]:
        into.write(json.dumps({"root": str(root), "changes": changes, "calls": calls, "from": begin}) + "\n")
        into.flush()
        answer: dict[str, Any] = json.loads(out.readline())
        return answer

    yield ask
    into.close()
    assert child.wait(timeout=30) == 0


def test_it_is_ended_before_the_call_that_is_told(crash: Crash, tmp_path: Path) -> None:
    changes: list[Change] = [["put", "a", 500, 1], ["put", "b/c", 10, 1]]
    assert crash(tmp_path / "walrus", changes, 0, "open") == {"done": 0, "killed": True}
    assert crash(tmp_path / "walrus", changes, 10_000, "changes") == {"done": 2, "killed": False}
    seen = {crash(tmp_path / "walrus", changes, calls, "changes")["done"] for calls in range(0, 100, 4)}
    assert seen == {0, 1, 2}


def test_a_backup_that_is_ended_anywhere_leaves_a_whole_one(crash: Crash, tmp_path: Path) -> None:
    root, folder = tmp_path / "walrus", tmp_path / "backup"
    first: list[Change] = [["put", "a", 500, 1], ["put", "b/c", 10, 2], ["backup", str(folder)]]
    second: list[Change] = [
        ["put", "a", 500, 3],
        ["delete", "b/c"],
        ["put", "b/d", 150_000, 4],
        ["backup", str(folder)],
    ]
    assert not crash(root, first, 1_000_000, "changes")["killed"]
    possible = [Model().after(first), Model().after(first).after(second)]
    said, calls = {"killed": True}, 0
    while said["killed"]:
        said = crash(root, second, calls, "changes")
        asyncio.run(_check_restored(folder, tmp_path / f"restored-{calls}", possible))
        calls += 11
    asyncio.run(_check_restored(folder, tmp_path / "last", possible[1:]))


async def _check_restored(folder: Path, root: Path, possible: list[Model]) -> None:
    source, told = folder / "walrus-1", []
    manifest = json.loads((source / "manifest.json").read_text())
    restore(source, manifest, root, replace=False, tell=lambda *finding: told.append(finding))
    # What one that did not come to its end has copied is surplus.
    assert {kind for kind, *_ in told} <= {"surplus"}
    async with opened_store(root) as store:
        assert await _model_of(store, await _bucket(store)) in possible


_ROUND = st.tuples(CHANGES, st.integers(0, 300), st.sampled_from(["open", "changes", "changes", "changes"]))


@pytest.mark.timeout(120 + 5 * _EXAMPLES)
@given(rounds=st.lists(_ROUND, min_size=1, max_size=3))
@settings(
    max_examples=_EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
)
def test_any_crash_leaves_what_was_before_or_after_the_change_it_cut_off(
    crash: Crash, rounds: list[tuple[list[Change], int, str]]
) -> None:
    model = Model()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "walrus"
        for changes, calls, begin in rounds:
            said = crash(root, changes, calls, begin)
            if not said["killed"]:
                assert said["done"] == len(changes)
            before = model.after(changes[: said["done"]])
            possible = [before, model.after(changes[: said["done"] + 1])] if said["killed"] else [before]
            model = asyncio.run(_checked(root, possible))


async def _checked(root: Path, possible: list[Model]) -> Model:
    """Which of them the store is."""
    async with opened_store(root) as store:
        bucket = await store.index.find_bucket("bucket")
        if bucket is None:
            # It was ended before there was anything.
            assert possible[0] == Model()
            return Model()
        found = await _model_of(store, bucket)
        assert found in possible
        await _check_nothing_left_over(store, root)
        assert await _model_of(store, bucket) == found
        return found


async def _model_of(store: Store, bucket: Bucket) -> Model:
    request = versioning_pb2.GetBucketVersioningRequest(bucket=bucket.name)
    status = (await bucket_settings.get_bucket_versioning(store, request, ALICE)).status
    page = await store.index.list_versions(bucket, Scan())
    versions: dict[str, tuple[tuple[bytes | None, bool], ...]] = {}
    for one in page.entries:
        assert not isinstance(one, bytes)
        key, null = one.key.decode(), one.version_id == NULL
        body = None if isinstance(one, Marker) else await get_bytes(store, key, version_id=shown(one.version_id))
        versions[key] = (*versions.get(key, ()), (body, null))
    return Model(status, versions)


async def _check_nothing_left_over(store: Store, root: Path) -> None:
    reclaimer = Reclaimer(store)
    await reclaimer.sweep_orphans()
    while await reclaimer.collect():
        pass
    needed = {str(one.blob) for one in await store.index.inspection.needed(after="", limit=1000)}
    assert {path.stem for path in files_of(root)} == needed
    scrubber = Scrubber(store=store, pins=root / "pins", bytes_per_s=0, cycle_s=0)
    findings = [finding async for step in scrubber.scrub("", Pace(0)) for finding in step.findings]
    assert findings == []
    (held,) = await store.index.quotas.accounts()
    page = await store.index.list_versions(await _bucket(store), Scan())
    assert held.objects == len(page.entries)
    bodies = await store.index.inspection.bodies(start=0, limit=1000)
    assert bodies.count == sum([await _is_inline(store, one) for one in page.entries])


async def _is_inline(store: Store, entry: object) -> bool:
    """Its bytes stand in the index, and there are some."""
    if not isinstance(entry, Summary):
        return False
    found = await store.index.find_object(await _bucket(store), entry.key, entry.version_id)
    return isinstance(found, Object) and isinstance(found.content, Inline) and found.content.body != b""


async def _bucket(store: Store) -> Bucket:
    found = await store.index.find_bucket("bucket")
    assert found is not None
    return found

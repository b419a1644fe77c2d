"""kill -9 under load: what was acknowledged is there, what was not is the old or the new, and nothing is left over."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import sys
from pathlib import Path

import pytest

from common.errors import NotFound
from services.walrus.drivers.base import Scan, Summary
from services.walrus.reclaim import Reclaimer
from services.walrus.scrub import Pace, Scrubber
from services.walrus.store import Store
from tests.eventually import eventually
from tests.walrus_store import ALICE, files_of, get_bytes, make_bucket, opened_store, put_bytes

_ROUNDS = int(os.environ.get("MALLEE_KILLS") or 4)
# How many changes it acknowledges before it is killed: from, to.
_CHANGES = (20, 250)

# Key -> what may be there: md5 of a body, or None for no object.
Possible = dict[str, set[str | None]]


@pytest.mark.timeout(120 + 20 * _ROUNDS)
async def test_acknowledged_changes_survive_kill_9_and_nothing_is_torn_or_left_over(tmp_path: Path) -> None:
    root = tmp_path / "walrus"
    possible: Possible = {}
    for seed in range(_ROUNDS):
        await _write_until_killed(root, seed, possible)
        async with opened_store(root) as store:
            await _check(store, possible)
            await _check_nothing_left_over(store, root)


async def _write_until_killed(root: Path, seed: int, possible: Possible) -> None:
    environment = os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))}
    command = ("-m", "tests.service.walrus_writer", str(root), str(seed))
    child = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert child.stdout is not None
    done, last = 0, random.Random(seed).randrange(*_CHANGES)
    async for line in child.stdout:
        # The last line may be cut off; then it was not said.
        if not line.endswith(b"\n"):
            break
        said = json.loads(line)
        if said["event"] == "begun":
            possible.setdefault(said["key"], {None}).add(said["md5"])
        else:
            possible[said["key"]] = {said["md5"]}
            done += 1
        if done == last and child.returncode is None:
            child.send_signal(signal.SIGKILL)
    assert await child.wait() == -signal.SIGKILL
    assert done >= last


async def test_much_that_is_let_go_is_freed_soon(tmp_path: Path) -> None:
    async with opened_store(tmp_path / "walrus") as store:
        await make_bucket(store)
        # What was let go before it runs is freed at once; whatever comes later would wait an hour.
        reclaimer = Reclaimer(store, pause_s=3600)
        store.reclaim = reclaimer.nudge
        for _ in range(2):
            await put_bytes(store, "k", bytes(17 << 20))
        running = asyncio.create_task(reclaimer.run())
        try:
            for _ in range(2):
                await eventually(lambda: len(files_of(tmp_path / "walrus")) == 1)
                await put_bytes(store, "k", bytes(17 << 20))
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def _check(store: Store, possible: Possible) -> None:
    assert await store.index.find_bucket("bucket")
    for key, bodies in possible.items():
        found: str | None
        try:
            found = hashlib.md5(await get_bytes(store, key)).hexdigest()
        except NotFound:
            found = None
        assert found in bodies, key
        possible[key] = {found}


async def _check_nothing_left_over(store: Store, root: Path) -> None:
    reclaimer = Reclaimer(store)
    await reclaimer.sweep_orphans()
    while await reclaimer.collect():
        pass
    bucket = await store.own_bucket("bucket", ALICE)
    needed = {str(one.blob) for one in await store.index.inspection.needed(after="", limit=10_000)}
    assert {path.stem for path in files_of(root)} == needed
    scrubber = Scrubber(store=store, pins=root / "pins", bytes_per_s=0, cycle_s=0)
    assert [finding async for step in scrubber.scrub("", Pace(0)) for finding in step.findings] == []
    page = await store.index.list_objects(bucket, Scan())
    usage = await store.index.usage()
    sizes = [entry.size for entry in page.entries if isinstance(entry, Summary)]
    assert (usage.objects, usage.size) == (len(sizes), sum(sizes))

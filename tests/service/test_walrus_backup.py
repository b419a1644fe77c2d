"""Backups while clients write, and what is restored from them: each acknowledged before, none torn, losses told."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import InvalidArgument
from common.keyring import Keyring, add_line
from common.rpc.channel import cloud_errors
from mallee.s3.v1 import object_pb2
from mallee.walrus.v1 import upkeep_pb2
from mallee.walrus.v1.upkeep_pb2_grpc import UpkeepServiceStub
from services.walrus import delete
from services.walrus.backup import Backups, Progress
from services.walrus.drivers.base import Pin
from services.walrus.master_keys import MasterKeys
from services.walrus.reclaim import Reclaimer
from tests.eventually import eventually
from tests.service.test_walrus_damage import flip
from tests.service.walrus_fixtures import certificates, stage
from tests.service.walrus_snapshots import a_block, download, upload
from tests.service.walrus_stage import WalrusStage, walrus_stage
from tests.walrus_store import ALICE, KEYRING, LIMITS, files_of, get_bytes, opened_store, put_bytes, refused

__all__ = ["certificates", "stage"]

LARGE = bytes(n % 251 for n in range(100_000))


async def backup(stage: WalrusStage, folder: Path) -> list[Progress]:
    backups = Backups(store=stage.store, images=stage.images, staging=stage.root / "staging", member="walrus-1")
    return [replace(progress) async for progress in backups.make(folder)]


def configured(home: Path) -> Path:
    home.mkdir(exist_ok=True)
    file = home / "mallee.toml"
    file.write_text(f'cloud_id = "abcd"\nhome = "{home}"\n')
    return file


async def restored(folder: Path, home: Path, *options: str) -> list[dict[str, Any]]:
    """What the command says, line by line."""
    command = ("-m", "services.walrus.restore", "--config", str(configured(home)), "--member", "walrus-1")
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        *options,
        str(folder),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    out, _ = await child.communicate()
    return [json.loads(line) for line in out.splitlines()]


async def remove(stage: WalrusStage, key: str) -> None:
    await delete.delete_object(stage.store, object_pb2.DeleteObjectRequest(bucket="bucket", key=key), ALICE)


async def reclaimed(stage: WalrusStage) -> None:
    reclaimer = Reclaimer(stage.store)
    await reclaimer.sweep_orphans()
    while await reclaimer.collect():
        pass


async def test_a_backup_under_load_has_all_that_was_acknowledged_before(stage: WalrusStage, tmp_path: Path) -> None:
    ended = asyncio.Event()
    acknowledged: dict[str, int] = {}

    async def write(writer: int) -> None:
        number = 0
        while not ended.is_set():
            number += 1
            key = f"{writer}/{number % 7}"
            body = b"%d " % number + (LARGE if number % 2 else b"")
            await put_bytes(stage.store, key, body)
            acknowledged[key] = number
            if number % 5 == 0:
                await remove(stage, f"{writer}/gone")
            await put_bytes(stage.store, f"{writer}/gone", LARGE)

    reclaimer = Reclaimer(stage.store, pause_s=0)
    stage.store.reclaim = reclaimer.nudge
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(reclaimer.run())
        for writer in range(4):
            tasks.create_task(write(writer))
        for _ in range(3):
            await eventually(lambda: len(acknowledged) == 28, within_s=60)
            before = dict(acknowledged)
            progress = await backup(stage, tmp_path / "backup")
            assert progress[-1].complete
            assert not any(one.findings for one in progress)
        ended.set()
        running.cancel()
    said = await restored(tmp_path / "backup", tmp_path / "second")
    assert [line for line in said if "kind" in line] == []
    async with opened_store(tmp_path / "second" / "walrus") as store:
        for key, number in before.items():
            body = await get_bytes(store, key)
            found = int(body.partition(b" ")[0])
            assert found >= number
            assert body == b"%d " % found + (LARGE if found % 2 else b"")
        usage = await store.index.usage()
        blobs = {path.stem for path in files_of(tmp_path / "second" / "walrus")}
        assert {str(blob) for batch in [one async for one in store.blobs.scan()] for blob in batch} == blobs
        assert await Reclaimer(store).sweep_orphans() == 0
        assert usage.objects >= len(before)


async def test_a_second_backup_copies_what_is_new_and_forgets_what_is_not_needed(
    stage: WalrusStage, tmp_path: Path
) -> None:
    await put_bytes(stage.store, "a", LARGE)
    await put_bytes(stage.store, "b", LARGE)
    assert (await backup(stage, tmp_path / "backup"))[-1].new_blobs == 2
    await remove(stage, "a")
    await put_bytes(stage.store, "c", LARGE)
    await put_bytes(stage.store, "small", b"small")
    await reclaimed(stage)
    last = (await backup(stage, tmp_path / "backup"))[-1]
    assert (last.blobs, last.new_blobs) == (2, 1)
    kept = tmp_path / "backup" / "walrus-1"
    assert len(files_of(kept)) == 2
    assert sorted(path.name.partition("-")[0] for path in kept.iterdir()) == ["blobs", "index", "manifest.json", "pins"]
    await restored(tmp_path / "backup", tmp_path / "second")
    async with opened_store(tmp_path / "second" / "walrus") as store:
        for key, body in (("b", LARGE), ("c", LARGE), ("small", b"small")):
            assert await get_bytes(store, key) == body


async def test_one_that_breaks_off_leaves_the_one_before(stage: WalrusStage, tmp_path: Path) -> None:
    await put_bytes(stage.store, "a", LARGE)
    await backup(stage, tmp_path / "backup")
    await remove(stage, "a")
    for n in range(200):
        await put_bytes(stage.store, f"b{n}", LARGE[:100])
    await reclaimed(stage)
    backups = Backups(store=stage.store, images=stage.images, staging=stage.root / "staging", member="walrus-1")
    steps = backups.make(tmp_path / "backup")
    while not (await anext(steps)).blobs:
        pass
    await steps.aclose()
    assert list((stage.root / "staging").iterdir()) == []
    await restored(tmp_path / "backup", tmp_path / "second")
    async with opened_store(tmp_path / "second" / "walrus") as store:
        assert await get_bytes(store, "a") == LARGE
    assert (await backup(stage, tmp_path / "backup"))[-1].complete


async def test_two_are_not_made_in_one_folder_at_once(stage: WalrusStage, tmp_path: Path) -> None:
    for n in range(100):
        await put_bytes(stage.store, f"k{n}", LARGE[:100])
    backups = Backups(store=stage.store, images=stage.images, staging=stage.root / "staging", member="walrus-1")
    first = backups.make(tmp_path / "backup")
    while not (await anext(first)).blobs:
        pass
    await refused("IncorrectState", anext(backups.make(tmp_path / "x" / ".." / "backup")))
    assert [step async for step in backups.make(tmp_path / "other")][-1].complete
    assert [step async for step in first][-1].complete
    await restored(tmp_path / "backup", tmp_path / "second")
    assert [step async for step in backups.make(tmp_path / "backup")][-1].complete


async def test_what_a_running_backup_needs_is_not_reclaimed(stage: WalrusStage, tmp_path: Path) -> None:
    for n in range(100):
        await put_bytes(stage.store, f"k{n}", LARGE[:100])
    backups = Backups(store=stage.store, images=stage.images, staging=stage.root / "staging", member="walrus-1")
    steps = backups.make(tmp_path / "backup")
    while not (await anext(steps)).blobs:
        pass
    for n in range(100):
        await remove(stage, f"k{n}")
    await reclaimed(stage)
    rest = [replace(step) async for step in steps]
    assert rest[-1].complete
    assert not any(step.findings for step in rest)
    assert rest[-1].blobs == 100
    await reclaimed(stage)
    assert files_of(stage.root) == []


async def test_snapshots_and_pins_are_restored(stage: WalrusStage, tmp_path: Path, certificates: Path) -> None:
    await upload(await stage.walrus("sc-a"), "snap-1", {0: a_block(1), 700: a_block(2)})
    (stage.root / "pins" / "ab").write_bytes(b"abc")
    pin = Pin(image_id="1", sha256="ab", size=3, format="raw", virtual_size=3, account_id="1", source="machine b/k")
    await stage.store.index.put_pin(pin)
    await backup(stage, tmp_path / "backup")
    said = await restored(tmp_path / "backup", tmp_path / "second")
    # Its name is no checksum of it.
    assert [line.get("what") for line in said[:-1]] == ["pin ab"]
    async with walrus_stage(tmp_path / "second" / "walrus", certificates, LIMITS) as second:
        assert await download(await second.walrus("sc-a"), "snap-1") == {0: a_block(1), 700: a_block(2)}
        assert (second.root / "pins" / "ab").read_bytes() == b"abc"


async def test_missing_damaged_and_surplus_blobs_are_told_and_the_rest_is_there(
    stage: WalrusStage, tmp_path: Path
) -> None:
    for key in ("gone", "flipped", "fine"):
        await put_bytes(stage.store, key, key.encode() + LARGE)
    files = {path.read_bytes()[:4]: path for path in files_of(stage.root)}
    missing = files[b"gone"].stem
    files[b"gone"].unlink()
    told = [finding for step in await backup(stage, tmp_path / "backup") for finding in step.findings]
    assert [(one.kind, one.what, list(one.owners)) for one in told] == [("missing", f"blob {missing}", ["bucket/gone"])]
    kept = {path.read_bytes()[:4]: path for path in files_of(tmp_path / "backup" / "walrus-1")}
    flip(kept[b"flip"], 7)
    (tmp_path / "backup" / "walrus-1" / "blobs" / "00").mkdir(exist_ok=True)
    (tmp_path / "backup" / "walrus-1" / "blobs" / "00" / f"{'0' * 32}.1").write_bytes(b"x")
    said = await restored(tmp_path / "backup", tmp_path / "second")
    found = {(line["kind"], line["what"]): line["owners"] for line in said[:-1]}
    assert found == {
        ("missing", f"blob {missing}"): ["bucket/gone"],
        ("damaged", f"blob {kept[b'flip'].stem}"): ["bucket/flipped"],
        ("surplus", f"blob {'0' * 32}"): [],
    }
    async with opened_store(tmp_path / "second" / "walrus") as store:
        assert await get_bytes(store, "fine") == b"fine" + LARGE


async def test_only_a_store_that_does_not_run_and_is_empty_is_restored_to(stage: WalrusStage, tmp_path: Path) -> None:
    await put_bytes(stage.store, "k", b"old")
    await backup(stage, tmp_path / "backup")
    (said,) = await restored(tmp_path / "backup", stage.root.parent)
    assert "runs" in said["refused"]
    home = tmp_path / "second"
    async with opened_store(home / "walrus") as store:
        await store.index.create_bucket("mine", account_id="1", owner_id="2", created_ms=3)
    (said,) = await restored(tmp_path / "backup", home)
    assert "not empty" in said["refused"]
    assert (await restored(tmp_path / "backup", home, "--replace"))[-1]["restored"] == 0
    async with opened_store(home / "walrus") as store:
        assert await get_bytes(store, "k") == b"old"
    (aside,) = home.glob("walrus.before-*")
    async with opened_store(aside) as store:
        assert await store.index.find_bucket("mine")
    # As a crash leaves it after the swap.
    aside.rename(home / "walrus.restored")
    assert (await restored(tmp_path / "backup", home, "--replace"))[-1]["restored"] == 0
    assert not (home / "walrus.restored").exists()
    mine = []
    for path in home.glob("walrus.before-*"):
        async with opened_store(path) as store:
            mine.append(await store.index.find_bucket("mine") is not None)
    assert sorted(mine) == [False, True]


@pytest.mark.parametrize("harm", ["no manifest", "index", "manifest"])
async def test_a_backup_that_is_not_whole_is_refused(stage: WalrusStage, tmp_path: Path, harm: str) -> None:
    await put_bytes(stage.store, "k", b"old")
    await backup(stage, tmp_path / "backup")
    kept = tmp_path / "backup" / "walrus-1"
    match harm:
        case "no manifest":
            (kept / "manifest.json").unlink()
        case "index":
            flip(next(kept.glob("index-*")), 5000)
        case "manifest":
            (kept / "manifest.json").write_text('{"format": 99}')
    (said,) = await restored(tmp_path / "backup", tmp_path / "second")
    assert said["refused"]
    assert not (tmp_path / "second" / "walrus.restoring").exists()


async def test_encrypted_objects_are_restored_and_read_once_their_master_keys_are_put_back(
    stage: WalrusStage, tmp_path: Path
) -> None:
    home, kept = tmp_path / "home", tmp_path / "object.keys"
    kept.write_text(bytes(range(32)).hex() + "\n")
    bodies = {"small": b"a secret", "large": b"a secret " * 50_000}
    for key, body in bodies.items():
        await put_bytes(stage.store, key, body, server_side_encryption="AES256")
    await put_bytes(stage.store, "plain", b"none")
    await backup(stage, tmp_path / "backup")
    assert not any(b"secret" in path.read_bytes() for path in (tmp_path / "backup").rglob("*") if path.is_file())
    assert (await restored(tmp_path / "backup", home))[-1]["restored"] == 1
    # A new cloud has made keys of its own.
    async with opened_store(home / "walrus", keyring=Keyring([os.urandom(32)])) as store:
        assert await get_bytes(store, "plain") == b"none"
        for key in bodies:
            error = await refused("InternalError", get_bytes(store, key))
            assert "cannot be decrypted: there is no master key" in error.message
        keys = MasterKeys(store=store, load=lambda: Keyring.load(kept))
        told = [
            one async for step in MasterKeys(store=store, load=lambda: store.keyring).reseal() for one in step.unopened
        ]
        assert told == ["bucket/large", "bucket/small"]
        add_line(kept)
        keys.read()
        assert [step async for step in keys.reseal()][-1].resealed == 2
        for key, body in bodies.items():
            assert await get_bytes(store, key) == body


async def test_the_operator_has_keys_sealed_anew_over_grpc(stage: WalrusStage) -> None:
    await put_bytes(stage.store, "k", b"a secret", server_side_encryption="AES256")
    stage.store.keyring = Keyring([os.urandom(32)])
    await put_bytes(stage.store, "lost", b"a secret", server_side_encryption="AES256")
    operator = UpkeepServiceStub(await stage.channel("admin"))
    answers = [answer async for answer in operator.ResealKeys(upkeep_pb2.ResealKeysRequest())]
    assert {answer.newest for answer in answers} == {KEYRING.newest}
    assert (answers[-1].complete, answers[-1].resealed) == (True, 0)
    assert [one for answer in answers for one in answer.unopened] == ["bucket/lost"]
    assert await get_bytes(stage.store, "k") == b"a secret"


async def test_the_operator_makes_one_over_grpc(stage: WalrusStage, tmp_path: Path) -> None:
    await put_bytes(stage.store, "k", LARGE)
    operator = UpkeepServiceStub(await stage.channel("admin"))
    request = upkeep_pb2.BackupStoreRequest(folder=str(tmp_path / "backup"))
    answers = [answer async for answer in operator.BackupStore(request)]
    assert (answers[-1].complete, answers[-1].blobs, answers[-1].new_blobs) == (True, 1, 1)
    (tmp_path / "file").write_bytes(b"")
    for folder in ("relative", str(tmp_path / "file")):
        with pytest.raises(InvalidArgument), cloud_errors():
            async for _ in operator.BackupStore(upkeep_pb2.BackupStoreRequest(folder=folder)):
                pass

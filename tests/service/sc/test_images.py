"""Disk images of users become snapshots, and snapshots disk images; what is hostile or broken leaves nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.blocks import BLOCK_BYTES
from common.errors import InvalidArgument
from common.ids import AccountId
from common.patience import ROOM_PATIENCE_S
from mallee.sc.v1 import service_pb2 as sc
from mallee.sc.v1 import snapshot_pb2
from services.sc.drivers.base import NbdSource
from tests.contract.volume_bench import served, started
from tests.eventually import eventually
from tests.service.sc.stage import ACCOUNT, COMPLETED, MIB, Objects, Stage, Zone, snapshot_id

FAILED, GONE = snapshot_pb2.SNAPSHOT_STATE_FAILED, snapshot_pb2.SNAPSHOT_STATE_GONE
RAW, QCOW2, VMDK = snapshot_pb2.DISK_FORMAT_RAW, snapshot_pb2.DISK_FORMAT_QCOW2, snapshot_pb2.DISK_FORMAT_VMDK
ANY = snapshot_pb2.DISK_FORMAT_UNSPECIFIED
CONTENT = bytes(BLOCK_BYTES) + os.urandom(BLOCK_BYTES) + bytes(2 * MIB - 2 * BLOCK_BYTES)
TASK = "export-ami-00000000000000001"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "raw").write_bytes(CONTENT)
    for name, options in (
        ("qcow2", ["-O", "qcow2"]),
        ("small-qcow2", ["-c", "-O", "qcow2"]),
        ("vmdk", ["-O", "vmdk"]),
        ("stream", ["-O", "vmdk", "-o", "subformat=streamOptimized"]),
        ("vpc", ["-O", "vpc"]),
        ("flat", ["-O", "vmdk", "-o", "subformat=twoGbMaxExtentFlat"]),
    ):
        subprocess.run(["qemu-img", "convert", *options, str(folder / "raw"), str(folder / name)], check=True)
    backing = ["-F", "raw", "-b", "/etc/hostname", str(folder / "backed"), "2M"]
    subprocess.run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", *backing], check=True)
    plain = (folder / "qcow2").read_bytes()
    # Its method of encryption: LUKS.
    (folder / "locked").write_bytes(plain[:32] + (2).to_bytes(4, "big") + plain[36:])
    data = ["-o", f"data_file={folder / 'outside'},data_file_raw=on"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *data, str(folder / "external"), "2M"], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(folder / "large"), "9G"], check=True)
    parent = (folder / "vmdk").read_bytes()
    (folder / "child").write_bytes(parent.replace(b"parentCID=ffffffff", b"parentCID=00000001"))
    (folder / "odd").write_bytes(b"x" * 1000)
    (folder / "empty").write_bytes(b"")
    (folder / "cut").write_bytes((folder / "small-qcow2").read_bytes()[:200_000])
    return folder


async def _import(
    zone: Zone, stage: Stage, image: bytes | None, *, said: snapshot_pb2.DiskFormat.ValueType = ANY
) -> snapshot_pb2.SnapshotObservation:
    """As it ended."""
    if image is not None:
        stage.objects.objects[b"disk"] = image
    place = snapshot_pb2.ObjectPlace(account_id=ACCOUNT, bucket="bucket", key=b"disk")
    wanted = snapshot_pb2.ImportSpec(
        snapshot_id=snapshot_id(1), account_id=ACCOUNT, source=place, format=said, most_bytes=8 << 30
    )
    await zone.clc.ImportSnapshot(sc.ImportSnapshotRequest(spec=wanted))
    await zone.clc.ImportSnapshot(sc.ImportSnapshotRequest(spec=wanted))
    await eventually(lambda: zone.snapshot_state(1) in (COMPLETED, FAILED))
    await eventually(lambda: not os.listdir(stage.folder / "work" / "snapshots"))
    return zone.snapshots[snapshot_id(1)]


@pytest.mark.parametrize("name", ["raw", "qcow2", "small-qcow2", "vmdk", "stream"])
async def test_an_image_becomes_a_snapshot(stage: Stage, images: Path, name: str) -> None:
    zone = await stage.zone()
    ended = await _import(zone, stage, (images / name).read_bytes())
    assert (ended.state, ended.size_bytes, ended.progress_percent) == (COMPLETED, len(CONTENT), 100)
    assert stage.blocks.snapshots[snapshot_id(1)] == {1: CONTENT[BLOCK_BYTES : 2 * BLOCK_BYTES]}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("backed", "backing file"),
        ("locked", "encrypted"),
        ("external", "external"),
        ("large", "too large"),
        ("child", "builds on another disk"),
        ("flat", "VMDK"),
        ("vpc", "sector|VHD|format"),
        ("odd", "sector"),
        ("empty", "empty"),
        ("cut", "qemu-img|image"),
    ],
)
async def test_an_image_that_is_hostile_or_broken_is_refused(
    stage: Stage, images: Path, name: str, reason: str
) -> None:
    zone = await stage.zone()
    ended = await _import(zone, stage, (images / name).read_bytes())
    assert ended.state == FAILED
    assert any(word in ended.message for word in reason.split("|")), ended.message
    assert stage.blocks.forgotten == [snapshot_id(1)]
    assert not stage.blocks.snapshots


async def test_an_image_is_what_the_user_says_or_refused(stage: Stage, images: Path) -> None:
    zone = await stage.zone()
    assert "it is qcow2, not raw" in (await _import(zone, stage, (images / "qcow2").read_bytes(), said=RAW)).message


async def test_an_object_that_is_not_there_ends_the_import(stage: Stage) -> None:
    zone = await stage.zone()
    assert (await _import(zone, stage, None)).reason_code == "NoSuchKey"


async def test_an_import_waits_for_room_and_is_told_when_none_comes(stage: Stage, images: Path) -> None:
    stage.reserve_bytes = 1 << 62
    zone = await stage.zone()
    running = asyncio.ensure_future(_import(zone, stage, (images / "raw").read_bytes()))
    await eventually(lambda: stage.objects.fetches > 2)
    assert zone.snapshot_state(1) not in (COMPLETED, FAILED)
    stage.now += ROOM_PATIENCE_S
    ended = await running
    assert (ended.state, ended.reason_code) == (FAILED, "ResourceLimitExceeded")
    assert "no room" in ended.message


async def test_an_import_goes_on_with_the_next_controller(stage: Stage, images: Path) -> None:
    zone = await stage.zone()
    stage.blocks.gate.clear()
    place = snapshot_pb2.ObjectPlace(account_id=ACCOUNT, bucket="bucket", key=b"disk")
    stage.objects.objects[b"disk"] = (images / "qcow2").read_bytes()
    wanted = snapshot_pb2.ImportSpec(snapshot_id=snapshot_id(1), account_id=ACCOUNT, source=place, most_bytes=MIB << 10)
    await zone.clc.ImportSnapshot(sc.ImportSnapshotRequest(spec=wanted))
    await eventually(lambda: stage.blocks.uploading)
    await zone.stop()
    # What was fetched is not fetched again.
    stage.objects.objects.clear()
    stage.blocks.gate.set()
    zone = await stage.zone()
    await eventually(lambda: zone.snapshot_state(1) == COMPLETED)
    assert stage.blocks.snapshots[snapshot_id(1)] == {1: CONTENT[BLOCK_BYTES : 2 * BLOCK_BYTES]}


async def test_an_import_that_is_given_up_leaves_nothing(stage: Stage, images: Path) -> None:
    zone = await stage.zone()
    stage.blocks.gate.clear()
    stage.objects.objects[b"disk"] = CONTENT
    place = snapshot_pb2.ObjectPlace(account_id=ACCOUNT, bucket="bucket", key=b"disk")
    wanted = snapshot_pb2.ImportSpec(snapshot_id=snapshot_id(1), account_id=ACCOUNT, source=place, most_bytes=MIB << 10)
    await zone.clc.ImportSnapshot(sc.ImportSnapshotRequest(spec=wanted))
    await eventually(lambda: stage.blocks.uploading)
    await zone.clc.DeleteSnapshot(sc.DeleteSnapshotRequest(snapshot_id=snapshot_id(1)))
    await eventually(lambda: snapshot_id(1) in zone.gone)
    assert not os.listdir(stage.folder / "work" / "snapshots")


class _Slow(Objects):
    """Nothing of them ever comes."""

    async def fetch(
        self, account_id: AccountId, bucket: str, key: bytes, into: Path, tell: Callable[[int, int], None]
    ) -> None:
        self.fetches += 1
        await asyncio.Event().wait()


async def test_images_that_take_long_keep_no_volume_from_its_snapshots(stage: Stage) -> None:
    stage.objects = _Slow()
    zone = await stage.zone()
    place = snapshot_pb2.ObjectPlace(account_id=ACCOUNT, bucket="bucket", key=b"disk")
    for number in range(2, 12):
        wanted = snapshot_pb2.ImportSpec(
            snapshot_id=snapshot_id(number), account_id=ACCOUNT, source=place, most_bytes=MIB << 10
        )
        await zone.clc.ImportSnapshot(sc.ImportSnapshotRequest(spec=wanted))
    await eventually(lambda: stage.objects.fetches > 3)
    await zone.make(1)
    await zone.snapshot(s1=1)
    await eventually(lambda: zone.snapshot_state(1) == COMPLETED)


def _compare(raw: Path, image: Path, image_format: str) -> None:
    command = ["qemu-img", "compare", "-f", "raw", "-F", image_format, str(raw), str(image)]
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def _snapshot_served(stage: Stage, images: Path, tmp_path: Path) -> Iterator[NbdSource]:
    with served(images / "raw", tmp_path / "source.sock") as source:
        stage.blocks.snapshots[snapshot_id(1)] = {}
        stage.blocks.places[snapshot_id(1)] = source
        yield source


def _export(task: str = TASK, image_format: snapshot_pb2.DiskFormat.ValueType = QCOW2) -> sc.ExportSnapshotRequest:
    place = snapshot_pb2.ObjectPlace(account_id=ACCOUNT, bucket="bucket", key=b"out")
    wanted = snapshot_pb2.ExportSpec(
        task_id=task, account_id=ACCOUNT, snapshot_id=snapshot_id(1), format=image_format, target=place
    )
    return sc.ExportSnapshotRequest(spec=wanted)


@pytest.mark.parametrize(("image_format", "name"), [(RAW, "raw"), (QCOW2, "qcow2"), (VMDK, "vmdk")])
async def test_a_snapshot_becomes_an_image(
    stage: Stage, images: Path, tmp_path: Path, image_format: snapshot_pb2.DiskFormat.ValueType, name: str
) -> None:
    with _snapshot_served(stage, images, tmp_path) as source:
        await started(source)
        zone = await stage.zone()
        await zone.clc.ExportSnapshot(_export(image_format=image_format))
        await eventually(lambda: TASK in zone.tasks and zone.tasks[TASK].state == COMPLETED)
        assert zone.tasks[TASK].progress_percent == 100
        await eventually(lambda: not stage.blocks.served)
    assert not os.listdir(stage.folder / "work" / "exports")
    (tmp_path / "out").write_bytes(stage.objects.objects[b"out"])
    await asyncio.to_thread(_compare, images / "raw", tmp_path / "out", name)
    await zone.clc.CancelExport(sc.CancelExportRequest(task_id=TASK))
    await eventually(lambda: TASK in zone.gone)
    assert b"out" in stage.objects.objects


async def test_an_export_takes_nothing_of_what_is_kept_and_is_told_when_no_room_comes(
    stage: Stage, images: Path, tmp_path: Path
) -> None:
    stage.reserve_bytes = 1 << 62
    with _snapshot_served(stage, images, tmp_path) as source:
        await started(source)
        zone = await stage.zone()
        await zone.clc.ExportSnapshot(_export())
        await eventually(lambda: stage.blocks.serves > 2)
        assert zone.tasks[TASK].state not in (COMPLETED, FAILED)
        assert not os.listdir(stage.folder / "work" / "exports" / TASK)
        stage.now += ROOM_PATIENCE_S
        await eventually(lambda: zone.tasks[TASK].state == FAILED)
    assert zone.tasks[TASK].reason_code == "ResourceLimitExceeded"
    assert "no room to write the image" in zone.tasks[TASK].message
    assert not os.listdir(stage.folder / "work" / "exports")
    assert stage.objects.objects == {}


async def test_an_export_of_a_snapshot_that_is_not_there_fails(stage: Stage) -> None:
    zone = await stage.zone()
    await zone.clc.ExportSnapshot(_export())
    await eventually(lambda: TASK in zone.tasks and zone.tasks[TASK].state == FAILED)
    assert zone.tasks[TASK].reason_code == "InvalidSnapshot.NotFound"


async def test_a_task_that_cannot_be_is_refused(stage: Stage) -> None:
    zone = await stage.zone()
    with pytest.raises(InvalidArgument):
        await zone.clc.ExportSnapshot(_export("../../etc"))
    with pytest.raises(InvalidArgument):
        await zone.clc.ExportSnapshot(_export(image_format=ANY))

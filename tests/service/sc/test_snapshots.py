"""Snapshots: the point in time is before the answer, the blocks travel afterwards, whatever is killed on the way."""

from __future__ import annotations

import os

import pytest
from prometheus_client import REGISTRY

from common.blocks import BLOCK_BYTES
from common.errors import CloudError, InvalidArgument, NoCapacity, NotFound, Unavailable, WrongState
from mallee.sc.v1 import service_pb2 as sc
from mallee.sc.v1 import snapshot_pb2
from tests.eventually import eventually
from tests.service.sc.stage import AVAILABLE, COMPLETED, FAILED, MIB, Stage, Zone, snapshot_id, spec, volume_id

PENDING, LOST = snapshot_pb2.SNAPSHOT_STATE_PENDING, snapshot_pb2.SNAPSHOT_STATE_FAILED


async def _zone_with_client(stage: Stage) -> Zone:
    zone = await stage.zone()
    await zone.make(1)
    await zone.grant(1, 1)
    await zone.redeem(1, 1)
    return zone


def _write(zone: Zone, block: int, content: bytes) -> None:
    zone.driver.client_writes(volume_id(1), "nc-1", block * BLOCK_BYTES, content)


async def _completed(zone: Zone, number: int) -> None:
    await eventually(lambda: zone.snapshot_state(number) == COMPLETED)


async def test_a_snapshot_is_what_was_there_when_it_was_asked_for(stage: Stage) -> None:
    zone = await _zone_with_client(stage)
    _write(zone, 0, b"before")
    stage.blocks.gate.clear()
    await zone.snapshot(s1=1)
    _write(zone, 0, b"after!")
    await eventually(lambda: zone.snapshot_state(1) == PENDING)
    stage.blocks.gate.set()
    await _completed(zone, 1)
    assert stage.blocks.snapshots[snapshot_id(1)][0][:6] == b"before"
    told = zone.snapshots[snapshot_id(1)]
    assert (told.size_bytes, told.progress_percent, told.full_bytes) == (4 * MIB, 100, BLOCK_BYTES)


def _counted() -> tuple[float, float]:
    """Bytes that were sent, and snapshots that were completed, as Prometheus is told."""
    sent = REGISTRY.get_sample_value("mallee_sc_snapshot_sent_bytes_total")
    completed = REGISTRY.get_sample_value("mallee_sc_snapshots_total", {"outcome": "completed"})
    return sent or 0.0, completed or 0.0


async def test_the_next_one_sends_what_changed_alone(stage: Stage) -> None:
    zone = await _zone_with_client(stage)
    for block in range(6):
        _write(zone, block, os.urandom(1000))
    await zone.snapshot(s1=1)
    await _completed(zone, 1)
    _write(zone, 3, b"new")
    before = _counted()
    await zone.snapshot(s2=1)
    await _completed(zone, 2)
    sent, completed = (now - then for now, then in zip(_counted(), before, strict=True))
    assert (sent, completed) == (BLOCK_BYTES, 1)
    assert stage.blocks.bases[snapshot_id(2)] == snapshot_id(1)
    assert stage.blocks.sent[snapshot_id(2)] == BLOCK_BYTES
    assert set(stage.blocks.snapshots[snapshot_id(2)]) == set(range(6))


async def test_two_on_their_way_travel_in_their_order(stage: Stage) -> None:
    zone = await _zone_with_client(stage)
    stage.blocks.gate.clear()
    for number in (1, 2, 3):
        _write(zone, number, b"x")
        await zone.snapshot(**{f"s{number}": 1})
    await eventually(lambda: stage.blocks.uploading == {snapshot_id(1)})
    stage.blocks.gate.set()
    await _completed(zone, 3)
    assert stage.blocks.bases == {
        snapshot_id(1): None,
        snapshot_id(2): snapshot_id(1),
        snapshot_id(3): snapshot_id(2),
    }
    assert set(stage.blocks.snapshots[snapshot_id(3)]) == {1, 2, 3}


async def test_a_base_that_walrus_forgot_is_done_without(stage: Stage) -> None:
    zone = await _zone_with_client(stage)
    _write(zone, 1, b"x")
    await zone.snapshot(s1=1)
    await _completed(zone, 1)
    del stage.blocks.snapshots[snapshot_id(1)]
    _write(zone, 2, b"y")
    await zone.snapshot(s2=1)
    await _completed(zone, 2)
    assert set(stage.blocks.snapshots[snapshot_id(2)]) == {1, 2}


async def test_several_volumes_at_once_all_or_none(stage: Stage) -> None:
    zone = await stage.zone()
    await zone.make(1, 2)
    with pytest.raises(NotFound):
        await zone.snapshot(s1=1, s3=3)
    stage.faults.failing_freezes = 1
    with pytest.raises(WrongState):
        await zone.snapshot(s1=1, s2=2)
    assert (await zone.clc.DescribeStorage(sc.DescribeStorageRequest())).snapshots == []
    await zone.snapshot(s1=1, s2=2)
    await _completed(zone, 1)
    await _completed(zone, 2)
    with pytest.raises(InvalidArgument):
        await zone.snapshot(s4=1, s5=1)


async def test_asking_again_fixes_no_other_moment(stage: Stage) -> None:
    zone = await _zone_with_client(stage)
    _write(zone, 0, b"before")
    stage.blocks.gate.clear()
    await zone.snapshot(s1=1)
    _write(zone, 0, b"after!")
    await zone.snapshot(s1=1)
    stage.blocks.gate.set()
    await _completed(zone, 1)
    await zone.snapshot(s1=1)
    assert stage.blocks.snapshots[snapshot_id(1)][0][:6] == b"before"


async def _settle(zone: Zone, number: int) -> None:
    await zone.clc.SettleSnapshot(sc.SettleSnapshotRequest(snapshot_id=snapshot_id(number)))


async def _remembered(zone: Zone) -> set[str]:
    known = (await zone.clc.DescribeStorage(sc.DescribeStorageRequest())).snapshots
    return {observation.snapshot_id for observation in known}


async def test_what_the_caller_knows_the_end_of_is_remembered_as_a_base_alone(stage: Stage) -> None:
    zone = await _zone_with_client(stage)
    _write(zone, 1, b"x")
    stage.blocks.gate.clear()
    await zone.snapshot(s1=1)
    with pytest.raises(WrongState):
        await _settle(zone, 1)
    stage.blocks.gate.set()
    await _completed(zone, 1)
    await _settle(zone, 1)
    await eventually(lambda: zone.snapshots[snapshot_id(1)].settled)
    # The next one builds on it, here and after a restart.
    assert await _remembered(zone) == {snapshot_id(1)}
    await zone.stop()
    zone = await stage.zone()
    _write(zone, 2, b"y")
    await zone.snapshot(s2=1)
    await _completed(zone, 2)
    assert stage.blocks.bases[snapshot_id(2)] == snapshot_id(1)
    await eventually(lambda: snapshot_id(1) in zone.gone)
    assert await _remembered(zone) == {snapshot_id(2)}
    await zone.revoke(1, 1)
    await zone.delete(1)
    # It stays until its end is known, and goes then, as no volume is left.
    assert await _remembered(zone) == {snapshot_id(2)}
    await _settle(zone, 2)
    await _settle(zone, 2)
    await eventually(lambda: snapshot_id(2) in zone.gone)
    assert set(stage.blocks.snapshots) == {snapshot_id(1), snapshot_id(2)}


async def test_the_base_of_a_deleted_volume_is_forgotten(stage: Stage) -> None:
    zone = await _zone_with_client(stage)
    await zone.snapshot(s1=1)
    await _completed(zone, 1)
    await _settle(zone, 1)
    await zone.revoke(1, 1)
    await zone.delete(1)
    await eventually(lambda: snapshot_id(1) in zone.gone)
    assert await _remembered(zone) == set()


async def test_a_full_walrus_is_waited_for_and_then_given_up(stage: Stage) -> None:
    stage.full_patience_s = 600.0
    zone = await _zone_with_client(stage)
    _write(zone, 1, b"x")
    stage.blocks.error = NoCapacity("The object store is full.", code="ServiceUnavailable")
    await zone.snapshot(s1=1)
    await eventually(lambda: stage.blocks.refused > 2)
    assert zone.snapshot_state(1) == PENDING
    # Time goes by while nobody is there, too.
    await zone.stop()
    stage.full_patience_s = 0.0
    zone = await stage.zone()
    await eventually(lambda: zone.snapshot_state(1) == LOST)
    told = zone.snapshots[snapshot_id(1)]
    assert (told.reason_code, told.message) == ("ServiceUnavailable", "The object store is full.")
    assert snapshot_id(1) in stage.blocks.forgotten
    assert not os.listdir(stage.folder / "work" / "snapshots")
    stage.blocks.error = None
    _write(zone, 2, b"y")
    await zone.snapshot(s2=1)
    await _completed(zone, 2)
    assert set(stage.blocks.snapshots[snapshot_id(2)]) == {1, 2}
    await _settle(zone, 1)
    await eventually(lambda: snapshot_id(1) in zone.gone)


async def test_a_volume_of_a_snapshot(stage: Stage) -> None:
    zone = await _zone_with_client(stage)
    _write(zone, 5, b"kept")
    await zone.snapshot(s1=1)
    await _completed(zone, 1)
    await zone.ensure(spec(2, size_bytes=8 * MIB, snapshot=snapshot_id(1)))
    await eventually(lambda: zone.state(2) == AVAILABLE)
    await zone.grant(2, 1, "nc-2")
    await zone.redeem(2, 1, "nc-2")
    assert zone.driver.client_reads(volume_id(2), "nc-2", 5 * BLOCK_BYTES, 4) == b"kept"
    await eventually(lambda: not stage.blocks.served)


async def test_a_volume_of_a_snapshot_that_is_not_there_fails(stage: Stage) -> None:
    zone = await stage.zone()
    await zone.ensure(spec(1, snapshot=snapshot_id(9)))
    await eventually(lambda: zone.state(1) == FAILED)
    assert zone.volumes[volume_id(1)].reason_code == "InvalidSnapshot.NotFound"
    assert stage.engine_files() == []


async def test_a_volume_goes_when_its_snapshots_are_done(stage: Stage) -> None:
    zone = await stage.zone()
    await zone.make(1)
    stage.blocks.gate.clear()
    await zone.snapshot(s1=1)
    await eventually(lambda: stage.blocks.uploading)
    await zone.clc.DeleteVolume(sc.DeleteVolumeRequest(volume_id=volume_id(1)))
    with pytest.raises(WrongState):
        await zone.snapshot(s2=1)
    assert stage.engine_files() == [volume_id(1)]
    stage.blocks.gate.set()
    await _completed(zone, 1)
    await eventually(lambda: volume_id(1) in zone.gone)
    assert stage.engine_files() == []


async def test_one_that_is_deleted_on_its_way_leaves_nothing(stage: Stage) -> None:
    zone = await stage.zone()
    await zone.make(1)
    stage.blocks.gate.clear()
    await zone.snapshot(s1=1)
    await eventually(lambda: stage.blocks.uploading)
    await zone.clc.DeleteSnapshot(sc.DeleteSnapshotRequest(snapshot_id=snapshot_id(1)))
    await eventually(lambda: snapshot_id(1) in zone.gone)
    assert stage.blocks.forgotten == [snapshot_id(1)]
    assert not (await zone.driver.observe())[volume_id(1)].frozen
    assert (await zone.clc.DeleteSnapshot(sc.DeleteSnapshotRequest(snapshot_id=snapshot_id(1)))).gone


async def test_a_point_that_is_lost_ends_the_snapshot_with_a_reason(stage: Stage) -> None:
    zone = await stage.zone()
    await zone.make(1)
    stage.blocks.error = Unavailable("Walrus is away")
    await zone.snapshot(s1=1)
    zone.driver.points_are_lost()
    stage.blocks.error = None
    await eventually(lambda: zone.snapshot_state(1) == LOST)
    assert "lost" in zone.snapshots[snapshot_id(1)].message
    assert stage.blocks.forgotten == [snapshot_id(1)]
    await zone.snapshot(s2=1)
    await _completed(zone, 2)


async def test_what_cannot_pass_by_itself_ends_the_snapshot(stage: Stage) -> None:
    zone = await stage.zone()
    await zone.make(1)
    stage.blocks.error = CloudError("a block is not what it was", code="Server.InternalError")
    await zone.snapshot(s1=1)
    await eventually(lambda: zone.snapshot_state(1) == LOST)
    assert not (await zone.driver.observe())[volume_id(1)].frozen


async def test_an_upload_goes_on_with_the_next_controller(stage: Stage) -> None:
    zone = await _zone_with_client(stage)
    _write(zone, 0, b"before")
    stage.blocks.gate.clear()
    await zone.snapshot(s1=1)
    await eventually(lambda: stage.blocks.uploading)
    await zone.stop()
    stage.blocks.gate.set()
    zone = await stage.zone()
    await _completed(zone, 1)
    assert stage.blocks.snapshots[snapshot_id(1)][0][:6] == b"before"
    await eventually(lambda: not os.listdir(stage.folder / "work" / "snapshots"))

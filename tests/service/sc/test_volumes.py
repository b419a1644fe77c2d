"""Volumes: made, changed, granted to one node at a time, gone."""

from __future__ import annotations

import asyncio

import pytest

from common.errors import Denied, InvalidArgument, NoCapacity, NotFound, Stale, Unavailable, WrongState
from common.patience import ROOM_PATIENCE_S
from mallee.sc.v1 import service_pb2 as sc
from tests.eventually import eventually
from tests.service.sc.stage import AVAILABLE, CREATING, FAILED, MIB, Stage, Steps, Zone, spec, volume_id


async def test_a_volume_is_made_grown_limited_and_removed(stage: Stage) -> None:
    zone = await stage.zone()
    await zone.make(1)
    assert zone.volumes[volume_id(1)].generation == 1
    await zone.ensure(spec(1, generation=2, size_bytes=8 * MIB, iops=100))
    await eventually(lambda: zone.volumes[volume_id(1)].generation == 2)
    assert zone.volumes[volume_id(1)].size_bytes == 8 * MIB
    assert zone.driver.limits_of(volume_id(1)).iops == 100
    await zone.delete(1)
    assert stage.engine_files() == []
    assert stage.volume_records() == {}


async def test_repeating_an_order_changes_nothing_and_an_old_one_is_refused(stage: Stage) -> None:
    zone = await stage.zone()
    await zone.make(1)
    await zone.ensure(spec(1))
    await zone.ensure(spec(1, generation=3, size_bytes=8 * MIB))
    with pytest.raises(Stale):
        await zone.ensure(spec(1, generation=2, size_bytes=12 * MIB))
    with pytest.raises(InvalidArgument):
        await zone.ensure(spec(1, generation=4, size_bytes=4 * MIB))
    with pytest.raises(InvalidArgument):
        await zone.ensure(spec(2, size_bytes=0))


async def test_what_does_not_fit_is_refused_before_anything_is_written(stage: Stage) -> None:
    stage.faults.total_bytes = 10 * MIB
    zone = await stage.zone()
    await zone.make(1, size_bytes=6 * MIB)
    with pytest.raises(NoCapacity):
        await zone.ensure(spec(2, size_bytes=6 * MIB))
    with pytest.raises(NoCapacity):
        await zone.ensure(spec(1, generation=2, size_bytes=11 * MIB))
    assert list(stage.volume_records()) == [volume_id(1)]
    assert stage.engine_files() == [volume_id(1)]
    assert (zone.capacity.promised_bytes, zone.capacity.free_bytes) == (6 * MIB, 4 * MIB)
    await zone.delete(1)
    await zone.make(2, size_bytes=10 * MIB)


async def test_volumes_asked_for_together_are_promised_no_more_than_there_is(stage: Stage) -> None:
    stage.faults.total_bytes = 10 * MIB
    zone = await stage.zone()
    answers = await asyncio.gather(
        *(zone.ensure(spec(number, size_bytes=2 * MIB)) for number in range(1, 9)), return_exceptions=True
    )
    assert sum(isinstance(answer, NoCapacity) for answer in answers) == 3
    assert len(stage.volume_records()) == 5


async def test_a_volume_that_cannot_be_made_fails_and_leaves_nothing(stage: Stage) -> None:
    stage.faults.failing_creates = 1000
    zone = await stage.zone()
    await zone.ensure(spec(1))
    await eventually(lambda: zone.state(1) == FAILED)
    assert zone.volumes[volume_id(1)].message
    assert stage.engine_files() == []
    await zone.delete(1)


async def test_a_passing_failure_is_tried_again(stage: Stage) -> None:
    stage.faults.failing_creates = 2
    await (await stage.zone()).make(1)


async def _admitted_and_refused(zone: Zone, stage: Stage, steps: Steps, number: int) -> None:
    """The disk filled up after its order was recorded."""
    stage.faults.silent = True
    await zone.ensure(spec(number))
    stage.faults.full, stage.faults.silent = True, False
    tried = steps.count
    await eventually(lambda: steps.count > tried + 2)


async def test_a_volume_that_was_admitted_waits_for_room(stage: Stage) -> None:
    steps = Steps(stop_at=0)
    zone = await stage.zone(steps)
    await _admitted_and_refused(zone, stage, steps, 1)
    stage.now += ROOM_PATIENCE_S - 1
    tried = steps.count
    await eventually(lambda: steps.count > tried)
    assert zone.state(1) == CREATING
    stage.faults.full = False
    await eventually(lambda: zone.state(1) == AVAILABLE)


async def test_a_volume_that_finds_no_room_for_long_fails_and_says_why(stage: Stage) -> None:
    steps = Steps(stop_at=0)
    zone = await stage.zone(steps)
    await _admitted_and_refused(zone, stage, steps, 1)
    stage.now += ROOM_PATIENCE_S
    await eventually(lambda: zone.state(1) == FAILED)
    assert zone.volumes[volume_id(1)].reason_code == "InsufficientVolumeCapacity"
    assert "full" in zone.volumes[volume_id(1)].message
    assert stage.engine_files() == []


async def test_a_volume_whose_data_is_lost_fails_and_is_not_made_anew(stage: Stage) -> None:
    zone = await stage.zone()
    await zone.make(1)
    zone.driver.data_is_lost(volume_id(1))
    await eventually(lambda: zone.state(1) == FAILED)
    assert stage.engine_files() == []


async def test_one_node_at_a_time_uses_a_volume(stage: Stage) -> None:
    zone = await stage.zone()
    await zone.make(1)
    await zone.grant(1, 1)
    export = await zone.redeem(1, 1)
    assert export.unix_socket
    assert await zone.redeem(1, 1) == export
    zone.driver.client_writes(volume_id(1), "nc-1", 0, b"one")
    with pytest.raises(WrongState):
        await zone.grant(1, 2, "nc-2")
    with pytest.raises(WrongState):
        await zone.clc.DeleteVolume(sc.DeleteVolumeRequest(volume_id=volume_id(1)))
    with pytest.raises(Denied):
        await zone.redeem(1, 1, "nc-2")
    await zone.revoke(1, 1)
    with pytest.raises(ConnectionError):
        zone.driver.client_writes(volume_id(1), "nc-1", 0, b"two")
    with pytest.raises(Denied):
        await zone.redeem(1, 1)
    with pytest.raises(Stale):
        await zone.grant(1, 1)
    await zone.grant(1, 2, "nc-2")
    await zone.redeem(1, 2, "nc-2")
    assert zone.driver.client_reads(volume_id(1), "nc-2", 0, 3) == b"one"


async def test_a_node_elsewhere_comes_over_tls(stage: Stage) -> None:
    zone = await stage.zone()
    await zone.make(1)
    await zone.grant(1, 1)
    export = await zone.redeem(1, 1, host_id="elsewhere")
    assert export.tls.server_name == "sc-1"
    assert not export.unix_socket


async def test_a_grant_that_is_late_is_waited_for(stage: Stage) -> None:
    zone = await stage.zone()
    await zone.make(1)
    waiting = asyncio.ensure_future(zone.redeem(1, 1))
    with pytest.raises(Unavailable):
        await zone.redeem(1, 1, "nc-2", timeout=1.2)
    await zone.grant(1, 1)
    assert (await waiting).unix_socket


async def test_a_grant_is_redeemed_when_its_volume_is_made(stage: Stage) -> None:
    stage.faults.failing_creates = 1
    zone = await stage.zone()
    await zone.ensure(spec(1))
    await zone.grant(1, 1)
    assert (await zone.redeem(1, 1)).size_bytes == 4 * MIB
    await eventually(lambda: zone.state(1) == AVAILABLE)


async def test_nobody_gets_a_volume_whose_client_may_still_write(stage: Stage) -> None:
    zone = await stage.zone()
    await zone.make(1)
    await zone.grant(1, 1)
    await zone.redeem(1, 1)
    stage.faults.stuck_clients = True
    with pytest.raises(Unavailable):
        await zone.revoke(1, 1)
    with pytest.raises(WrongState):
        await zone.grant(1, 2, "nc-2")
    with pytest.raises(Denied):
        await zone.redeem(1, 1)
    stage.faults.stuck_clients = False
    await zone.revoke(1, 1)
    await zone.grant(1, 2, "nc-2")


async def test_a_revocation_overtakes_its_grant(stage: Stage) -> None:
    zone = await stage.zone()
    await zone.make(1)
    await zone.revoke(1, 3)
    with pytest.raises(Stale):
        await zone.grant(1, 3)
    await zone.grant(1, 4)


async def test_a_grant_outlives_the_controller(stage: Stage) -> None:
    zone = await stage.zone()
    await zone.make(1)
    await zone.grant(1, 1)
    export = await zone.redeem(1, 1)
    await zone.stop()
    zone = await stage.zone()
    await eventually(lambda: zone.state(1) == AVAILABLE)
    assert zone.volumes[volume_id(1)].grant.node == "nc-1"
    assert await zone.redeem(1, 1) == export
    with pytest.raises(WrongState):
        await zone.grant(1, 2, "nc-2")


async def test_only_a_node_redeems_and_only_the_clc_grants(stage: Stage) -> None:
    zone = await stage.zone()
    with pytest.raises(Denied):
        await zone.clc.RedeemExport(sc.RedeemExportRequest(volume_id=volume_id(1)))
    with pytest.raises(Denied):
        await zone.nodes["nc-1"].GrantExport(sc.GrantExportRequest(volume_id=volume_id(1)))


async def test_what_is_unknown_is_not_granted_and_is_gone_already(stage: Stage) -> None:
    zone = await stage.zone()
    with pytest.raises(NotFound):
        await zone.grant(1, 1)
    await zone.revoke(1, 1)
    assert (await zone.clc.DeleteVolume(sc.DeleteVolumeRequest(volume_id=volume_id(1)))).gone

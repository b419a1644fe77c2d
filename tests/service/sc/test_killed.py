"""The controller dies between any two of its steps: the next one, and callers that ask again, bring all to its end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from common.blocks import BLOCK_BYTES
from mallee.sc.v1 import service_pb2 as sc
from tests.eventually import eventually
from tests.service.sc.stage import AVAILABLE, COMPLETED, MIB, Stage, Steps, Zone, snapshot_id, spec, volume_id

# More than the story has; those beyond its end are one run without a death.
_STEPS: Final = 72
_AT_ONCE: Final = 8

Order = Callable[[Zone], Awaitable[object]]


class _Play:
    """Orders, each repeated until it was answered, by one controller after another."""

    def __init__(self, stage: Stage, steps: Steps) -> None:
        self._stage, self._steps = stage, steps
        self.zone: Zone

    async def begin(self) -> None:
        self.zone = await self._stage.zone(self._steps)

    async def order(self, order: Order) -> None:
        while True:
            asked = asyncio.ensure_future(order(self.zone))
            died = asyncio.ensure_future(self._steps.dead.wait())
            await asyncio.wait({asked, died}, return_when=asyncio.FIRST_COMPLETED)
            died.cancel()
            if asked.done() and not asked.exception():
                return
            asked.cancel()
            await asyncio.wait({asked})
            if not self._steps.dead.is_set():
                asked.result()
            await self.zone.stop()
            # From here on nobody dies.
            self._steps = Steps(0)
            self.zone = await self._stage.zone()


async def _available(zone: Zone, number: int) -> None:
    await eventually(lambda: zone.state(number) == AVAILABLE)


async def _ended(zone: Zone) -> None:
    await eventually(lambda: zone.snapshot_state(1) == COMPLETED)


async def _settled(zone: Zone) -> None:
    await zone.clc.SettleSnapshot(sc.SettleSnapshotRequest(snapshot_id=snapshot_id(1)))


async def _gone(zone: Zone) -> None:
    if not (await zone.clc.DeleteVolume(sc.DeleteVolumeRequest(volume_id=volume_id(1)))).gone:
        await eventually(lambda: volume_id(1) in zone.gone)


async def _story(stage: Stage, steps: Steps) -> Zone:
    play = _Play(stage, steps)
    await play.begin()
    await play.order(lambda zone: zone.ensure(spec(1)))
    await play.order(lambda zone: _available(zone, 1))
    await play.order(lambda zone: zone.grant(1, 1))
    await play.order(lambda zone: zone.redeem(1, 1))
    play.zone.driver.client_writes(volume_id(1), "nc-1", 0, b"before")
    await play.order(lambda zone: zone.snapshot(s1=1))
    play.zone.driver.client_writes(volume_id(1), "nc-1", 0, b"after!")
    await play.order(lambda zone: zone.ensure(spec(1, generation=2, size_bytes=8 * MIB, iops=7)))
    await play.order(_ended)
    await play.order(_settled)
    await play.order(lambda zone: zone.ensure(spec(2, snapshot=snapshot_id(1))))
    await play.order(lambda zone: zone.revoke(1, 1))
    await play.order(lambda zone: zone.grant(1, 2, "nc-2"))
    await play.order(lambda zone: zone.redeem(1, 2, "nc-2"))
    assert play.zone.driver.client_reads(volume_id(1), "nc-2", 0, 6) == b"after!"
    with pytest.raises(ConnectionError):
        play.zone.driver.client_reads(volume_id(1), "nc-1", 0, 6)
    await play.order(lambda zone: zone.revoke(1, 2))
    await play.order(_gone)
    await play.order(lambda zone: _available(zone, 2))
    return play.zone


@pytest.mark.parametrize("first", range(1, _STEPS + 1, _AT_ONCE))
async def test_whenever_it_dies_nothing_is_lost_or_left(stage: Stage, first: int) -> None:
    for stop_at in range(first, first + _AT_ONCE):
        steps = Steps(stop_at)
        zone = await _story(stage, steps)
        steps.spare()
        assert stage.blocks.snapshots[snapshot_id(1)][0][:6] == b"before", steps.last
        assert stage.engine_files() == [volume_id(2)], steps.last
        await eventually(lambda: not os.listdir(stage.folder / "work" / "snapshots"))
        assert list(stage.volume_records()) == [volume_id(2)]
        content = (stage.folder / "engine" / "volumes" / volume_id(2) / "data").read_bytes()
        assert content[:BLOCK_BYTES].rstrip(b"\0") == b"before"
        await zone.delete(2)
        # Its volume is gone, and its end is known.
        await eventually(lambda: not stage.snapshot_records(), every_s=0.05)
        await zone.stop()


async def test_the_story_has_fewer_steps_than_deaths_are_tried(stage: Stage) -> None:
    steps = Steps(0)
    await _story(stage, steps)
    assert 30 < steps.count < _STEPS

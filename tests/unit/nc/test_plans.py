"""The plan of a VPC on its node: interfaces that are plugged at one time share one application of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from common.ids import InterfaceId, VpcId
from mallee.nc.v1 import network_pb2
from services.nc.drivers.base import Network
from services.nc.paths import NodePaths
from services.nc.plans import Plans

VPC = VpcId("vpc-0123456789abcdef0")


class SlowNetwork:
    """Notes which interfaces stood when an application began; each ends when it is let go."""

    def __init__(self) -> None:
        self.plugged: set[InterfaceId] = set()
        self.saw: list[set[InterfaceId]] = []
        self.began = asyncio.Semaphore(0)
        self.go_on = asyncio.Semaphore(0)

    async def apply_plan(self, plan: network_pb2.VpcPlan) -> None:
        self.saw.append(set(self.plugged))
        self.began.release()
        await self.go_on.acquire()


async def test_whoever_plugs_is_seen_by_an_application_that_began_after_it(tmp_path: Path) -> None:
    network, paths = SlowNetwork(), NodePaths(tmp_path)
    paths.make()
    plans = Plans(paths, cast(Network, network), node_address="10.9.0.1", is_used=lambda _: True)
    network.go_on.release()
    await plans.apply(network_pb2.VpcPlan(vpc_id=VPC, revision=1))
    await network.began.acquire()

    async def plug(interface_id: InterfaceId) -> bool:
        network.plugged.add(interface_id)
        await plans.apply_again(VPC)
        return any(interface_id in saw for saw in network.saw)

    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(plug(InterfaceId.new()))
        await network.began.acquire()
        # These come while the first is under way: too late for it, and in time for one more together.
        later = [tasks.create_task(plug(InterfaceId.new())) for _ in range(20)]
        for _ in range(2):
            network.go_on.release()
    assert first.result()
    assert all(task.result() for task in later)
    assert len(network.saw) == 3

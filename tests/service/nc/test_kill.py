"""kill -9 at any moment: what was acknowledged holds, and nothing is left that nobody ordered."""

from __future__ import annotations

import asyncio
import functools
import random
import signal
from pathlib import Path

import pytest

from common.errors import CloudError
from common.ids import InstanceId
from mallee.nc.v1 import instance_pb2, service_pb2
from services.nc.drivers.base import Power
from services.nc.drivers.fake import FakeHypervisor
from services.nc.drivers.network_fake import FakeNetwork
from tests.eventually import becomes, eventually
from tests.service.nc.stage import Client, Site, connected, make_site, process
from tests.unit.nc.specs import spec

COUNT = 8
KILLS = 6


class Orders:
    """What was acknowledged, and what was sent and may have arrived."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.wanted: set[str] = set()
        self.unsure: set[str] = set()

    async def give(self, client: Client) -> None:
        """Without end, until the node dies."""
        while True:
            made = spec(self.random.randrange(COUNT) + 1, generation=self.random.randrange(1, 1 << 40))
            goes = self.random.random() < 0.4
            self.unsure.add(made.instance_id)
            try:
                if goes:
                    await client.terminate(made.instance_id, generation=1 << 41)
                    self.wanted.discard(made.instance_id)
                else:
                    await client.ensure(made)
                    self.wanted.add(made.instance_id)
            except CloudError as error:
                if error.code == "Unavailable":
                    return
            self.unsure.discard(made.instance_id)


@pytest.mark.parametrize("seed", [1, 2])
async def test_acknowledged_orders_hold_and_nothing_else_is_left(tmp_path: Path, seed: int) -> None:
    site, orders = make_site(tmp_path), Orders(seed)
    for _ in range(KILLS):
        async with process(site) as node, connected(site) as client:
            await asyncio.wait_for(client.follows.wait(), 30)
            giving = asyncio.ensure_future(orders.give(client))
            await asyncio.wait([giving], timeout=orders.random.random() * 0.5)
            node.send_signal(signal.SIGKILL)
            await node.wait()
            giving.cancel()
            await asyncio.gather(giving, return_exceptions=True)
    async with process(site), connected(site) as client:
        for instance_id in sorted(orders.unsure):
            await client.terminate(instance_id, generation=1 << 41)
        wanted = orders.wanted - orders.unsure
        await _until_settled(site, wanted)
        for instance_id in wanted:
            await client.until(instance_id, instance_pb2.VM_STATE_RUNNING)
            await client.terminate(instance_id, generation=1 << 41)
        await _until_settled(site, set())
        assert not list(site.paths.plans.iterdir())


async def _until_settled(site: Site, wanted: set[str]) -> None:
    """Domains, folders and interfaces are those of the instances that are wanted, and no others."""
    engine = FakeHypervisor(site.paths.fake)
    network = FakeNetwork(site.paths.root / "fake-network", "127.0.0.1")
    cards = {spec(n).interface.interface_id for n in range(1, COUNT + 1) if spec(n).instance_id in wanted}

    async def are_those() -> bool:
        domains, interfaces = set(await engine.observe()), set(await network.observe())
        folders = {path.name for path in site.paths.instances.iterdir()}
        return domains == folders == wanted and interfaces == cards

    await becomes(are_those, within_s=30)


async def test_the_engine_outlives_the_node_controller(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    async with process(site), connected(site) as client:
        await client.ensure(spec())
        await client.until(spec().instance_id, instance_pb2.VM_STATE_RUNNING)
    engine = FakeHypervisor(site.paths.fake)
    engine.guest_powers_off(next(iter(await engine.observe())))
    async with process(site), connected(site) as client:
        told = await client.until(spec().instance_id, instance_pb2.VM_STATE_POWERED_OFF)
        assert told.reason_code == "Client.InstanceInitiatedShutdown"


async def test_a_guest_runs_after_its_rest_whenever_the_node_controller_dies(tmp_path: Path) -> None:
    site, chance = make_site(tmp_path), random.Random(3)
    made = spec()

    async def rest(client: Client, rest_s: int) -> None:
        order = service_pb2.RestInstanceRequest(
            epoch=1, instance_id=made.instance_id, generation=made.generation, grace_s=1, rest_s=rest_s
        )
        await client.stub.RestInstance(order)

    async with process(site), connected(site) as client:
        await client.ensure(made)
        await client.until(made.instance_id, instance_pb2.VM_STATE_RUNNING)
    for number in range(KILLS):
        async with process(site) as node, connected(site) as client:
            # To its owner it runs all the time.
            await client.until(made.instance_id, instance_pb2.VM_STATE_RUNNING)
            await rest(client, 0 if number % 2 else 60)
            dying = asyncio.ensure_future(node.wait())
            await asyncio.wait([dying], timeout=chance.random() * 0.1)
            node.send_signal(signal.SIGKILL)
            await dying
    engine = FakeHypervisor(site.paths.fake)
    async with process(site), connected(site) as client:
        await client.until(made.instance_id, instance_pb2.VM_STATE_RUNNING)
        await rest(client, 60)
        await eventually(lambda: client.seen[made.instance_id].at_rest)
        assert await engine.power_of(InstanceId(made.instance_id)) is Power.OFF_BY_GUEST
        await rest(client, 0)
        await becomes(functools.partial(_runs, engine, made.instance_id))


async def _runs(engine: FakeHypervisor, instance_id: str) -> bool:
    return await engine.power_of(InstanceId(instance_id)) is Power.RUNNING

"""A zone of a thousand nodes that die, hang, lie and come back while instances come and go, under each policy.

Everything is real but the nodes' VMs: etcd, the leader's term, gRPC with certificates. What the CLC would do (admission
by what the zone tells, asking again) is played here. MALLEE_SIM_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import typing
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from common.config import PlacementPolicy
from common.errors import NoCapacity, Unavailable
from common.etcd.client import Etcd
from mallee.cc.v1 import service_pb2 as cc
from mallee.cc.v1.record_pb2 import PlacementRecord
from mallee.nc.v1 import instance_pb2
from services.cc.placement import NOTHING, Room
from services.cc.term import ZoneRules
from services.clc import capacity
from tests.etcd_fixture import running_etcd
from tests.eventually import eventually
from tests.service.cc.sim_zone import SimNode, identities, many_nodes
from tests.service.cc.stage import RULES, Stage, Zone, instance_id, spec

NODES = 1000
STEPS = 14
PATIENCE_S = 90.0
POLICIES: tuple[PlacementPolicy, ...] = typing.get_args(PlacementPolicy)
RUNNING = instance_pb2.VM_STATE_RUNNING

pytestmark = pytest.mark.asyncio(loop_scope="module")


class World:
    """The nodes, for one cluster controller after the other."""

    def __init__(self, stage: Stage, nodes: list[SimNode]) -> None:
        self.stage = stage
        self.nodes = {node.name: node for node in nodes}
        self.next_number = 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    names = [f"nc-{number:04}" for number in range(NODES)]
    async with AsyncExitStack() as stack:
        etcd_server = stack.enter_context(running_etcd(tmp_path_factory.mktemp("etcd")))
        made = stack.enter_context(identities(names))
        etcd = await stack.enter_async_context(Etcd([etcd_server.address], None))
        nodes = await stack.enter_async_context(many_nodes(etcd, made, random.Random(NODES)))
        yield World(Stage(stack, etcd, etcd_address=etcd_server.address, identities=made), nodes)


@pytest_asyncio.fixture(loop_scope="module")
async def whole_world(world: World) -> AsyncIterator[World]:
    """As it was at first, also after a test that failed."""
    yield world
    for node in world.nodes.values():
        await node.restore()
    async with Etcd([world.stage.etcd_address], None) as etcd:
        await etcd.delete_prefix("/mallee/cc/")


class Simulation:
    def __init__(self, world: World, zone: Zone, dice: random.Random) -> None:
        self.world, self.zone, self.dice = world, zone, dice
        self.specs: dict[str, instance_pb2.InstanceSpec] = {}
        # Instance → node, as it was answered; and those about which the zone has not said yes or no.
        self.placed: dict[str, str] = {}
        self.open: set[str] = set()
        self.refused: set[str] = set()
        self.ending: set[str] = set()

    @property
    def well(self) -> list[SimNode]:
        return [node for node in self.world.nodes.values() if node.is_there and node.gate.is_set()]

    async def describe(self) -> list[cc.NodeCapacity]:
        return list((await self.zone.stub.DescribeNodes(cc.DescribeNodesRequest())).nodes)

    async def told(self) -> tuple[dict[str, PlacementRecord], list[cc.NodeCapacity]]:
        """What is written down and what the controller says of it, at one moment."""
        while True:
            records = self.world.stage.records()
            described = await self.describe()
            if self.world.stage.records() == records:
                return records, described

    async def launch(self, minimum: int, maximum: int, *, vcpus: int) -> int | None:
        """How many were ordered; None: fewer than the minimum are admitted."""
        shape = spec(0, vcpus=vcpus).shape
        count = capacity.admissible([_free(n) for n in await self.describe() if n.alive], [], _clc(shape), maximum)
        if count < minimum:
            return None
        numbers = range(self.world.next_number, self.world.next_number + count)
        self.world.next_number += count
        made = {instance_id(number): spec(number, vcpus=vcpus) for number in numbers}
        self.specs.update(made)
        await self.order(made)
        return count

    async def order(self, ids: Iterable[str]) -> None:
        wanted = sorted(ids)
        for start in range(0, len(wanted), 100):
            for placed in await self.zone.ensure(*(self.specs[i] for i in wanted[start : start + 100]), timeout=60):
                self.open.discard(placed.instance_id)
                match placed.error_code:
                    case "":
                        self.placed[placed.instance_id] = placed.node
                    case NoCapacity.default_code:
                        self.refused.add(placed.instance_id)
                    case code:
                        assert code == Unavailable.default_code, placed
                        self.open.add(placed.instance_id)

    async def settle(self) -> None:
        """Asks again as the CLC does, while all nodes are well: one that only was slow has recorded it by then."""
        for _ in range(20):
            await self.order(self.open)
        assert not self.open

    async def terminate(self, ids: Iterable[str]) -> set[str]:
        """Those of which something is left, now or since earlier."""
        self.ending.update(ids)
        wanted = sorted(self.ending)
        for start in range(0, len(wanted), 200):
            orders = [cc.InstanceGeneration(instance_id=i, generation=1) for i in wanted[start : start + 200]]
            gone = (await self.zone.stub.TerminateInstances(cc.TerminateInstancesRequest(instances=orders))).gone
            self.ending.difference_update(gone)
            for instance_id_ in gone:
                self.placed.pop(instance_id_, None)
        return self.ending

    async def gone(self) -> None:
        """Until nothing is left of what is to go."""
        await self.terminate([])
        await eventually(lambda: not self.ending & self.world.stage.records().keys(), within_s=PATIENCE_S, every_s=0.2)
        assert not await self.terminate([])

    async def hurt(self) -> None:
        for node in self.dice.sample(self.well, 12):
            match self.dice.choice(("dies", "hangs", "lies", "shrinks")):
                case "dies":
                    await node.stop()
                case "hangs":
                    node.gate.clear()
                case "lies":
                    node.has = node.used
                case "shrinks":
                    node.has = node.used
                    node.total.CopyFrom(node.has.to_proto())
                    await node.stop()
                    await node.start()

    async def heal(self) -> None:
        for node in self.world.nodes.values():
            node.gate.set()
            if not node.is_there:
                await node.start()

    async def check(self) -> None:
        """What must hold at any moment."""
        homes = defaultdict(list)
        for node in self.world.nodes.values():
            assert node.has.holds(node.used), f"{node.name} holds more than it has"
            for instance in node.specs:
                homes[instance].append(node.name)
        assert not {i: names for i, names in homes.items() if len(names) > 1}, "placed twice"
        assert not {i for i, name in self.placed.items() if i not in self.ending and homes[i] != [name]}
        assert not self.refused & homes.keys(), "refused, and there all the same"
        records, described = await self.told()
        used: defaultdict[str, Room] = defaultdict(Room)
        for record in records.values():
            used[record.node] += Room.of(record.resources)
        assert sum(node.instances for node in described) == len(records)
        for told in described:
            left = Room.of(told.total) - used[told.node]
            assert Room.of(told.free) in (Room.of(left.to_proto()), NOTHING), told


def _runs(zone: Zone, instance: str) -> bool:
    seen = zone.observations.get(instance)
    return seen is not None and seen.state == RUNNING


def _free(node: cc.NodeCapacity) -> capacity.Room:
    return _clc(node.free)


def _clc(of: typing.Any) -> capacity.Room:
    return capacity.Room(vcpus=of.vcpus, memory_bytes=of.memory_bytes, disk_bytes=of.disk_bytes)


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_thousand_nodes(whole_world: World, policy: PlacementPolicy) -> None:
    seed = int(os.environ.get("MALLEE_SIM_SEED", random.randrange(1 << 32)))
    print(f"MALLEE_SIM_SEED={seed}")
    async with AsyncExitStack() as stack:
        rules = ZoneRules(underlay_cidr=RULES.underlay_cidr, policy=policy)
        # A thousand nodes, their cluster controller and its client share one loop, on a busy machine.
        zone = Zone("cc-1", whole_world.stage, rules, ttl_s=60)
        stack.push_async_callback(zone.stop)
        await zone.start()
        await zone.leads()
        await zone.watch()
        await eventually(lambda: zone.connected_nodes == whole_world.nodes.keys(), within_s=PATIENCE_S)
        simulation = Simulation(whole_world, zone, random.Random(seed))
        await _the_policy_is_kept(simulation, policy)
        await _counts_are_kept(simulation)
        await _all_kinds_of_harm(simulation)
        await _an_end(simulation)


async def _the_policy_is_kept(simulation: Simulation, policy: PlacementPolicy) -> None:
    assert await simulation.launch(100, 100, vcpus=1) == 100
    await simulation.settle()
    nodes = set(simulation.placed.values())
    assert len(simulation.placed) == 100
    # The smallest has four.
    assert len(nodes) == 100 if policy in ("round-robin", "spread") else len(nodes) <= 25


async def _counts_are_kept(simulation: Simulation) -> None:
    """All are well: what is admitted is placed, to the last place."""
    dice, before = simulation.dice, len(simulation.placed)
    while (ordered := await simulation.launch(1, dice.randrange(1, 400), vcpus=16)) is not None:
        await simulation.settle()
        assert len(simulation.placed) == before + ordered
        before += ordered
    assert not any((node.has - node.used).holds(Room.needed_by(spec(0, vcpus=16))) for node in simulation.well)
    assert not simulation.refused
    await simulation.check()
    simulation.ending.update(dice.sample(sorted(simulation.placed), before // 2))
    await simulation.gone()


async def _all_kinds_of_harm(simulation: Simulation) -> None:
    dice = simulation.dice
    for _ in range(STEPS):
        match dice.choice(("launch", "launch", "launch", "terminate", "hurt", "heal", "again")):
            case "launch":
                most = dice.randrange(1, 150)
                await simulation.launch(dice.randrange(1, most + 1), most, vcpus=dice.choice((1, 2, 4)))
            case "terminate":
                await simulation.terminate(dice.sample(sorted(simulation.placed), len(simulation.placed) // 5))
            case "hurt":
                await simulation.hurt()
            case "heal":
                await simulation.heal()
            case "again":
                await simulation.order(simulation.open)
        await simulation.check()


async def _an_end(simulation: Simulation) -> None:
    """All nodes come back: every instance has its final state, and when all are taken away nothing is left."""
    zone, nodes = simulation.zone, simulation.world.nodes
    await simulation.heal()
    await eventually(lambda: zone.connected_nodes == nodes.keys(), within_s=PATIENCE_S)
    await simulation.settle()
    await simulation.gone()
    await simulation.check()
    there = simulation.placed.keys()
    assert there | simulation.refused <= simulation.specs.keys()
    await eventually(lambda: all(_runs(zone, i) for i in there), within_s=PATIENCE_S)
    simulation.ending.update(there)
    await simulation.gone()
    assert not simulation.placed
    assert not any(node.specs for node in nodes.values())
    assert not simulation.world.stage.records()
    assert all(node.instances == 0 for node in await simulation.describe())
    # What was told as it came, to whom follows the zone, sums up to the same.
    followed = zone.nodes.values()
    await eventually(lambda: all(n.alive and not n.instances and n.free == n.total for n in followed))
    assert len(followed) == NODES

"""What every network driver promises (services/nc/drivers/base.py), shown on the fake and, as root, on the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from common.errors import InvalidArgument, NotFound, Unavailable, WrongState
from common.ids import InterfaceId, VpcId, mac_of
from mallee.nc.v1 import instance_pb2, network_pb2
from services.nc.drivers.base import Network
from services.nc.drivers.network_fake import FakeNetwork, Faults
from services.nc.net.policy import TCP, Packet
from tests.contract import netlab
from tests.contract.netlab import group, rule

WEB = "sg-0000000000000000a"
CLIENTS = "sg-0000000000000000b"
NODES = ("100.64.201.11", "100.64.201.12")


class World(Protocol):
    """Two nodes and what can be tried on them."""

    networks: list[Network]

    async def add(self, spec: instance_pb2.NetworkInterface, node: int) -> None: ...

    def passes(
        self, source: instance_pb2.NetworkInterface, target: instance_pb2.NetworkInterface, port: int
    ) -> bool: ...

    def silence(self, guest: instance_pb2.NetworkInterface) -> None: ...

    async def restart(self) -> None: ...


class FakeWorld:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fakes = [FakeNetwork(folder / node, node) for node in NODES]
        self.networks: list[Network] = list(self._fakes)

    async def add(self, spec: instance_pb2.NetworkInterface, node: int) -> None:
        await self.networks[node].prepare_interface(spec)
        await self.networks[node].plug_interface(spec)

    def passes(self, source: instance_pb2.NetworkInterface, target: instance_pb2.NetworkInterface, port: int) -> bool:
        packet = Packet(protocol=TCP, port=port)
        return any(
            fake.passes(InterfaceId(source.interface_id), InterfaceId(target.interface_id), packet)
            for fake in self._fakes
        )

    def silence(self, guest: instance_pb2.NetworkInterface) -> None:
        for fake in self._fakes:
            fake.faults.deaf = {guest.interface_id}

    async def restart(self) -> None:
        self.__init__(self._folder)  # type: ignore[misc]
        for network in self.networks:
            await network.open()


class HostWorld:
    def __init__(self, lab: netlab.Lab) -> None:
        self._lab = lab
        self.networks: list[Network] = list(lab.networks.values())
        self._guests: dict[str, netlab.Guest] = {}

    async def add(self, spec: instance_pb2.NetworkInterface, node: int) -> None:
        guest = await self._lab.plug(spec, node=node)
        guest.ask_dhcp()
        self._guests[spec.interface_id] = guest

    def passes(self, source: instance_pb2.NetworkInterface, target: instance_pb2.NetworkInterface, port: int) -> bool:
        asker = self._guests[source.interface_id]
        # A guest that asked in vain for a card, before the plan told of it, asks again no sooner than a second later.
        asker.run("ip", "neigh", "flush", "dev", "eth0")
        with self._guests[target.interface_id].listen(port):
            return asker.reaches(target.private_ipv4, port)

    def silence(self, guest: instance_pb2.NetworkInterface) -> None:
        self._guests[guest.interface_id].run("ip", "link", "set", "eth0", "down")

    async def restart(self) -> None:
        for node in self._lab.nodes:
            await self._lab.restart(node)
        self.networks = list(self._lab.networks.values())


@pytest.fixture(params=["fake", pytest.param("host", marks=pytest.mark.root)])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "fake":
        made = FakeWorld(tmp_path)
        for network in made.networks:
            await network.open()
        yield made
    else:
        async with netlab.laboratory() as lab:
            yield HostWorld(lab)


def spec(vpc: VpcId, private: str, *groups: str) -> instance_pb2.NetworkInterface:
    interface_id = InterfaceId.new()
    return instance_pb2.NetworkInterface(
        interface_id=interface_id,
        vpc_id=vpc,
        mac=mac_of(interface_id),
        private_ipv4=private,
        subnet_cidr="172.31.0.0/20",
        vpc_cidr="172.31.0.0/16",
        security_group_ids=groups,
    )


def plan(
    vpc: VpcId, revision: int, members: dict[int, list[instance_pb2.NetworkInterface]], *groups: network_pb2.PlanGroup
) -> network_pb2.VpcPlan:
    return network_pb2.VpcPlan(
        vpc_id=vpc,
        revision=revision,
        vni=77,
        cidr="172.31.0.0/16",
        groups=groups,
        interfaces=[
            network_pb2.PlanInterface(
                interface_id=member.interface_id,
                mac=member.mac,
                private_ipv4=member.private_ipv4,
                node_address=NODES[node],
                group_ids=member.security_group_ids,
            )
            for node, here in members.items()
            for member in here
        ],
    )


async def apply(world: World, made: network_pb2.VpcPlan) -> None:
    for network in world.networks:
        await network.apply_plan(made)


async def test_groups_decide_what_passes_and_change_live(world: World) -> None:
    vpc = VpcId.new()
    server, friend, stranger = (
        spec(vpc, "172.31.0.10", WEB),
        spec(vpc, "172.31.0.11", CLIENTS),
        spec(vpc, "172.31.0.12"),
    )
    members = {0: [server, stranger], 1: [friend]}
    for node, here in members.items():
        for member in here:
            await world.add(member, node)
    assert not world.passes(friend, server, 80), "no plan, no packet"

    clients = group(CLIENTS)
    await apply(world, plan(vpc, 1, members, group(WEB, rule("tcp", 80, peer=CLIENTS)), clients))
    assert world.passes(friend, server, 80)
    assert not world.passes(friend, server, 81)
    assert not world.passes(stranger, server, 80)
    assert not world.passes(server, friend, 80), "a group without ingress rules lets nothing in"

    await apply(world, plan(vpc, 2, members, group(WEB, rule("tcp", 80, peer="172.31.0.12/32")), clients))
    assert not world.passes(friend, server, 80)
    assert not world.passes(stranger, server, 80), "an interface without a group may send nothing"

    await apply(world, plan(vpc, 1, members, group(WEB, rule("-1")), clients))
    assert not world.passes(friend, server, 80), "an older plan changes nothing"

    await apply(world, plan(vpc, 3, members, group(WEB, rule("-1")), group(CLIENTS, egress=(rule("tcp", 80, 90),))))
    assert world.passes(friend, server, 90)
    assert not world.passes(friend, server, 91), "egress is asked too"


async def test_a_restarted_driver_finds_and_removes_what_stands(world: World) -> None:
    vpc, other = VpcId.new(), VpcId.new()
    first, second, unplugged = spec(vpc, "172.31.0.10", WEB), spec(vpc, "172.31.0.11", WEB), spec(other, "172.31.0.10")
    await world.add(first, 0)
    await world.add(second, 0)
    await world.networks[0].prepare_interface(unplugged)
    made = plan(vpc, 1, {0: [first, second]}, group(WEB, rule("-1")))
    await apply(world, made)

    await world.restart()
    network = world.networks[0]
    assert await network.observe() == {
        InterfaceId(first.interface_id): vpc,
        InterfaceId(second.interface_id): vpc,
        InterfaceId(unplugged.interface_id): other,
    }
    assert world.passes(first, second, 80), "what stood goes on"
    await network.apply_plan(made)
    assert world.passes(first, second, 80)

    for interface, home in (await network.observe()).items():
        await network.remove_interface(interface, home)
        await network.remove_interface(interface, home)
    assert await network.observe() == {}
    with pytest.raises(NotFound):
        await network.metadata_socket(vpc)


async def test_it_is_seen_which_guests_answer(world: World) -> None:
    vpc, other = VpcId.new(), VpcId.new()
    lively, silent, alone = spec(vpc, "172.31.0.10"), spec(vpc, "172.31.0.11"), spec(other, "172.31.0.10")
    absent = spec(vpc, "172.31.0.12")
    for guest in (lively, silent, alone):
        await world.add(guest, 0)
    network, asked = world.networks[0], (lively, silent, alone, absent)
    assert await network.answering(asked) == {InterfaceId(i.interface_id) for i in (lively, silent, alone)}
    world.silence(silent)
    assert await network.answering(asked) == {InterfaceId(i.interface_id) for i in (lively, alone)}
    assert await network.answering([spec(VpcId.new(), "172.31.0.10")]) == set()


async def test_every_step_may_be_repeated(world: World) -> None:
    vpc = VpcId.new()
    member = spec(vpc, "172.31.0.10", WEB)
    await world.add(member, 0)
    network = world.networks[0]
    tap = await network.prepare_interface(member)
    assert tap == await network.prepare_interface(member)
    assert 0 < len(tap) <= 15
    await network.plug_interface(member)
    assert await network.observe() == {InterfaceId(member.interface_id): vpc}
    await network.destroy()
    await network.destroy()
    assert await network.observe() == {}


async def test_an_interface_that_was_not_prepared_cannot_be_plugged(world: World) -> None:
    with pytest.raises(WrongState):
        await world.networks[0].plug_interface(spec(VpcId.new(), "172.31.0.10"))


async def test_a_plan_may_come_before_its_interface(world: World) -> None:
    vpc = VpcId.new()
    first, second = spec(vpc, "172.31.0.10", WEB), spec(vpc, "172.31.0.11", WEB)
    await apply(world, plan(vpc, 1, {0: [first, second]}, group(WEB, rule("tcp", 80))))
    assert await world.networks[0].observe() == {}
    await world.add(first, 0)
    await world.add(second, 0)
    assert world.passes(first, second, 80)


async def test_the_metadata_service_listens_where_the_vpc_is(world: World) -> None:
    vpc = VpcId.new()
    await world.add(spec(vpc, "172.31.0.10"), 0)
    with await world.networks[0].metadata_socket(vpc) as listening:
        assert not listening.getblocking()
    with await world.networks[0].metadata_socket(vpc):
        pass
    with pytest.raises(NotFound):
        await world.networks[1].metadata_socket(vpc)


@pytest.mark.parametrize(
    "hostile",
    [
        {"private_ipv4": "1.2.3.4 } drop"},
        {"mac": "d0:0d:00:00:00:zz"},
        {"mac": "ff:ff:ff:ff:ff:ff"},
        {"subnet_cidr": "172.31.0.1/20"},
    ],
)
async def test_a_malformed_interface_is_refused(world: World, hostile: dict[str, str]) -> None:
    member = spec(VpcId.new(), "172.31.0.10")
    for name, value in hostile.items():
        setattr(member, name, value)
    with pytest.raises(InvalidArgument):
        await world.networks[0].prepare_interface(member)
    assert await world.networks[0].observe() == {}


async def test_a_malformed_plan_is_refused_and_the_old_one_holds(world: World) -> None:
    vpc = VpcId.new()
    first, second = spec(vpc, "172.31.0.10", WEB), spec(vpc, "172.31.0.11", WEB)
    for member in (first, second):
        await world.add(member, 0)
    await apply(world, plan(vpc, 1, {0: [first, second]}, group(WEB, rule("tcp", 80))))
    for bad in (rule("tcp", 80, peer="10.0.0.0/33"), rule("tcp; accept"), rule("tcp", 80, 70000), rule("icmp", 300)):
        with pytest.raises(InvalidArgument):
            await world.networks[0].apply_plan(plan(vpc, 2, {0: [first, second]}, group(WEB, bad)))
    assert world.passes(first, second, 80)


async def test_the_fake_fails_when_told_to(tmp_path: Path) -> None:
    member = spec(VpcId.new(), "172.31.0.10")
    network = FakeNetwork(tmp_path, NODES[0], Faults(failing_prepares=1))
    await network.open()
    with pytest.raises(Unavailable):
        await network.prepare_interface(member)
    await network.prepare_interface(member)
    (tmp_path / "faults.json").write_text('{"silent": true}')
    with pytest.raises(Unavailable):
        await network.observe()
    (tmp_path / "faults.json").write_text('{"silent": false}')
    assert replace(network.faults, silent=False) == Faults(failing_prepares=0)
    assert len(await network.observe()) == 1

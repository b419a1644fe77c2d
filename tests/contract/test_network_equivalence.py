"""The kernel lets pass exactly what the model allows: random groups and rules, every port tried from every guest."""

from __future__ import annotations

import random

import pytest

from common.ids import VpcId
from mallee.nc.v1 import network_pb2
from services.nc.net import policy
from services.nc.net.policy import TCP, Packet
from tests.contract import netlab
from tests.contract.netlab import group, rule
from tests.contract.traffic import Server, reaches

pytestmark = [pytest.mark.root]

GROUPS = tuple(f"sg-0000000000000000{letter}" for letter in "abc")
PORTS = (20, 21, 22)
PLACES = (0, 0, 1)
ROUNDS = 6


def some_rule(chance: random.Random, privates: list[str]) -> network_pb2.PlanRule:
    peers = (
        *GROUPS,
        *(f"{p}/32" for p in privates),
        "172.31.0.0/16",
        "0.0.0.0/0",
        f"{netlab.MANAGEMENT}/32",
        "10.0.0.0/8",
    )
    peer = chance.choice(peers)
    match chance.randrange(6):
        case 0:
            return rule("-1", peer=peer)
        case 1:
            return rule("udp", 1, 65535, peer=peer)
        case 2:
            return rule("icmp", 8, -1, peer=peer)
        case _:
            low, high = sorted(chance.choices(PORTS, k=2))
            return rule("tcp", low, high, peer=peer)


def some_group(chance: random.Random, group_id: str, privates: list[str]) -> network_pb2.PlanGroup:
    ingress = [some_rule(chance, privates) for _ in range(chance.randrange(3))]
    everything = chance.random() < 0.6
    egress = None if everything else tuple(some_rule(chance, privates) for _ in range(chance.randrange(3)))
    return group(group_id, *ingress, egress=egress)


async def test_the_kernel_and_the_model_agree() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    vpc = VpcId.new()
    async with netlab.laboratory() as lab:
        guests = [await lab.guest(vpc, f"172.31.0.{10 + n}", node=node, public="new") for n, node in enumerate(PLACES)]
        servers = [Server(guest.namespace, port) for guest in guests for port in PORTS]
        for revision in range(1, ROUNDS + 1):
            for guest in guests:
                del guest.interface.security_group_ids[:]
                guest.interface.security_group_ids.extend(chance.sample(GROUPS, chance.randrange(3)))
            groups = {g: some_group(chance, g, [guest.private for guest in guests]) for g in GROUPS}
            plan = lab.plan(vpc, revision, groups)
            await lab.apply(plan)
            for target in guests:
                view = policy.view_of(plan, target.node.address)
                receiver = view.members[target.private]
                for port in PORTS:
                    packet = Packet(protocol=TCP, port=port)
                    case = f"seed {seed}, round {revision}, to {target.private}:{port}"
                    for source in guests:
                        if source is not target:
                            sender = view.members[source.private]
                            inside = view.may_leave(sender, target.private, packet) and view.may_enter(
                                receiver, source.private, packet
                            )
                            assert source.reaches(target.private, port, within_s=wait(inside)) is inside, case
                            outside = view.may_leave(sender, target.public, packet) and view.may_enter(
                                receiver, source.public, packet
                            )
                            assert source.reaches(target.public, port, within_s=wait(outside)) is outside, case
                    from_host = view.may_enter(receiver, netlab.MANAGEMENT, packet)
                    assert reaches("", target.public, port, within_s=wait(from_host)) is from_host, case
        for server in servers:
            server.__exit__()


def wait(expected: bool) -> float:
    """Long where an answer must come, short where none may."""
    return 3.0 if expected else 0.05

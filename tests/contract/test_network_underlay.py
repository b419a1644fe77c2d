"""The wire between nodes: VXLAN is not signed, so a frame counts only if it comes from a node that the plan names."""

from __future__ import annotations

import socket

import pytest

from common import netns
from common.ids import VpcId
from services.nc.net import names
from tests.contract.frames import ethernet, hears, udp, vxlan
from tests.contract.netlab import Guest, Lab
from tests.contract.network_fixtures import ALL, OPEN, lab, opened, whole_lab

__all__ = ["lab", "whole_lab"]

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]


def inject(namespace: str, vni: int, near: Guest, far: Guest, body: bytes, *, source: str = "0.0.0.0") -> None:
    """Sends from `namespace` (empty: the host's), as VXLAN, what `far` could have said to `near`."""
    macs = names.overlay_mac(near.node.address), names.overlay_mac(far.node.address)
    frame = ethernet(*macs, 0x0800, udp(far.private, near.private, 9, 9, body))

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((source, 0))
        return made

    with netns.inside(namespace, make) if namespace else make() as wire:
        wire.sendto(vxlan(vni, frame), (near.node.address, names.VXLAN_PORT))


def known_senders(lab: Lab) -> list[str]:
    listed = (netns.run(["nft", "list", "set", "inet", "wire", "senders"], namespace=n.namespace) for n in lab.nodes)
    return [line.strip() for text in listed for line in text.splitlines() if "elements" in line]


async def test_frames_of_a_vpc_come_from_its_nodes_alone(lab: Lab) -> None:
    vpc = VpcId.new()
    near, far = await opened(lab, vpc, 0, 1)
    vni = lab.plan(vpc, 1, ALL).vni
    stray = "100.64.201.77"
    netns.links([f"addr replace {stray}/32 dev {netns.UNDERLAY}"], namespace=far.node.namespace)
    try:
        with near.raw() as ear:
            for round_number in range(2):
                mark = f"round {round_number} ".encode()
                inject("", vni, near, far, mark + b"of the host")
                inject(far.node.namespace, vni, near, far, mark + b"of no node", source=stray)
                inject(near.node.namespace, vni, near, far, mark + b"of its own")
                inject(far.namespace, vni, near, far, mark + b"of a guest")
                assert not hears(ear, mark)
                inject(far.node.namespace, vni, near, far, mark + b"of a node")
                assert hears(ear, mark + b"of a node", within_s=3)
                await lab.restart(near.node)
    finally:
        netns.links([f"addr del {stray}/32 dev {netns.UNDERLAY}"], namespace=far.node.namespace)


async def test_only_nodes_with_members_are_listened_to(lab: Lab) -> None:
    vpc = VpcId.new()
    near, far = await opened(lab, vpc, 0, 1)
    assert len(known_senders(lab)) == 2
    await lab.remove(far)
    await lab.apply(lab.plan(vpc, 2, ALL))
    assert known_senders(lab) == []
    back = await lab.guest(vpc, "172.31.0.30", node=1, groups=(OPEN,))
    await lab.apply(lab.plan(vpc, 3, ALL))
    with near.listen(80):
        assert back.reaches(near.private, 80, within_s=3)
    await lab.clear()
    assert known_senders(lab) == []

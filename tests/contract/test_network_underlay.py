"""The wire between nodes: VXLAN is not signed, so a frame counts only if it comes from a node that the plan names."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from common import netns
from common.ids import VpcId
from mallee.nc.v1 import network_pb2
from services.nc.net import names
from tests.contract.frames import arp, ethernet, hears, udp, vxlan
from tests.contract.netlab import Guest, Lab, group, rule
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


async def test_a_new_members_first_words_can_be_answered_at_once(lab: Lab) -> None:
    """By the time that the rules let them in, the way back stands: a guest that asks in vain for a neighbour's card
    asks again no sooner than a second later."""
    vpc = VpcId.new()
    listener, speaker = await opened(lab, vpc, 0, 1)
    here = lab.network(listener)
    without = [i for i in lab.plan(vpc, 0, ALL).interfaces if i.interface_id == listener.interface_id]
    question = arp(1, listener.interface.mac, listener.private, speaker.private)
    over = threading.Event()

    def speak() -> None:
        with speaker.udp() as wire:
            while not over.wait(0.0005):
                wire.sendto(b"a word", (listener.private, 9))

    def answer(wire: socket.socket) -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                wire.sendto(b"an answer", wire.recvfrom(100)[1])

    def asked_until_answered(ear: socket.socket) -> int:
        asked = 0
        while b"an answer" not in (frame := ear.recv(4096)):
            asked += question in frame
        return asked

    with listener.udp() as wire:
        wire.bind((listener.private, 9))
        wire.settimeout(0.1)
        threads = [threading.Thread(target=speak), threading.Thread(target=answer, args=[wire])]
        for thread in threads:
            thread.start()
        try:
            for revision in range(2, 12, 2):
                plan = lab.plan(vpc, revision + 1, ALL)
                before = network_pb2.VpcPlan(
                    vpc_id=vpc, vni=plan.vni, revision=revision, interfaces=without, groups=plan.groups
                )
                await here.apply_plan(before)
                listener.run("ip", "neigh", "flush", "dev", "eth0")
                with listener.raw() as ear:
                    ear.settimeout(10)
                    await here.apply_plan(plan)
                    assert asked_until_answered(ear) == 1
        finally:
            over.set()
            for thread in threads:
                thread.join()


async def test_datagrams_too_long_for_the_wire_arrive_whole(lab: Lab) -> None:
    """Their pieces name no port but in the first; the rules that name one are asked when they are together again."""
    vpc = VpcId.new()
    near, beside, far = await opened(lab, vpc, 0, 0, 1)
    await lab.apply(lab.plan(vpc, 2, {OPEN: group(OPEN, rule("udp", 9), rule("udp", 10, peer=f"{near.private}/32"))}))
    word = bytes(range(256)) * 32
    with near.udp() as wire:
        wire.settimeout(5)
        wire.bind((near.private, 9))
        for speaker, address in (
            (beside, near.private),
            (far, near.private),
            (beside, near.public),
            (far, near.public),
        ):
            with speaker.udp() as speaking:
                speaking.settimeout(5)
                speaking.sendto(word, (address, 9))
                heard, peer = wire.recvfrom(len(word) + 1)
                assert heard == word, (speaker.private, address)
                wire.sendto(word[::-1], peer)
                assert speaking.recvfrom(len(word) + 1) == (word[::-1], (address, 9))
    with near.udp() as shut, near.raw() as ear:
        shut.bind((near.private, 10))
        for speaker in (beside, far):
            with speaker.udp() as speaking:
                speaking.sendto(word, (near.private, 10))
        assert not hears(ear, word[:256])


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

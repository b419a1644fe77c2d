"""Guests leave the machine only by the interface that the operator names, and the host forwards for nobody else."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from common import netns
from common.ids import VpcId
from deploy import fabric
from tests.contract import netlab
from tests.contract.netlab import group, rule
from tests.contract.traffic import Server, reaches
from tests.eventually import eventually

pytestmark = [pytest.mark.root]

OPEN = "sg-0000000000000000a"
ALL = {OPEN: group(OPEN, rule("-1"))}
UPLINK = f"w{netlab.CLOUD}up"
WORLD = f"world-{netlab.CLOUD}"
HOST_OUTSIDE, WORLD_ADDRESS = "198.18.202.1", "198.18.202.2"


@contextmanager
def world() -> Iterator[None]:
    """A namespace in the place of everything outside, cabled to a link of the host."""
    remove_world()
    netns.ensure_namespace(WORLD)
    try:
        netns.links(
            [
                f"link add {UPLINK} type veth peer name eth0 netns {WORLD}",
                f"addr add {HOST_OUTSIDE}/24 dev {UPLINK}",
                f"link set {UPLINK} up",
            ]
        )
        netns.links(
            [
                f"addr add {WORLD_ADDRESS}/24 dev eth0",
                "link set eth0 up",
                "link set lo up",
                f"route add {netlab.POOL} via {HOST_OUTSIDE}",
            ],
            namespace=WORLD,
        )
        yield
    finally:
        remove_world()


def remove_world() -> None:
    netns.quietly(["ip", "link", "del", UPLINK])
    netns.delete_namespace(WORLD)


def forwards(link: str) -> str:
    return Path(f"/proc/sys/net/ipv4/conf/{link}/forwarding").read_text().strip()


async def test_only_the_named_uplink_leads_out() -> None:
    with world():
        before = forwards(UPLINK)
        async with netlab.laboratory(uplink=UPLINK) as lab:
            vpc = VpcId.new()
            published = await lab.guest(vpc, "172.31.0.10", public="new", groups=(OPEN,))
            inner = await lab.guest(vpc, "172.31.0.11", groups=(OPEN,))
            await lab.apply(lab.plan(vpc, 1, ALL))
            with Server(WORLD, 80) as outside, Server("", 81) as at_host, published.listen(80):
                assert published.reaches(WORLD_ADDRESS, 80)
                assert not inner.reaches(WORLD_ADDRESS, 80), "no public address, no way out"
                assert outside.peers == [HOST_OUTSIDE], "masqueraded"
                assert not published.reaches(HOST_OUTSIDE, 81)
                assert not published.reaches(netlab.MANAGEMENT, 81)
                assert at_host.peers == []
                assert reaches(WORLD, published.public, 80)
            await lab.apply(lab.plan(vpc, 2, {OPEN: group(OPEN, egress=(rule("tcp", 443),))}))
            assert not published.reaches(WORLD_ADDRESS, 80), "egress rules hold for the world too"
        assert forwards(UPLINK) == before


class NameServer:
    """Of the world: has one address for every name, and remembers what it was asked."""

    def __init__(self) -> None:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind((WORLD_ADDRESS, 53))
            return made

        self.asked: set[str] = set()
        self._socket = netns.inside(WORLD, make)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while (received := self._socket.recvfrom(4096))[0]:
                query, peer = received
                end = query.index(0, 12) + 5
                self.asked.add(bytes(c if c > 32 else 46 for c in query[13 : end - 5]).decode())
                has_address = query[end - 4 : end - 2] == b"\x00\x01"
                answer = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04" + bytes([198, 18, 202, 77])
                head = query[:2] + b"\x81\x80\x00\x01" + bytes([0, has_address]) + bytes(4)
                self._socket.sendto(head + query[12:end] + (answer if has_address else b""), peer)

    def __enter__(self) -> NameServer:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


async def test_named_resolvers_answer_every_guest_for_the_worlds_names_alone() -> None:
    with world(), NameServer() as server:
        async with netlab.laboratory(uplink=UPLINK, resolvers=(WORLD_ADDRESS,)) as lab:
            inner = await lab.guest(VpcId.new(), "172.31.0.11", groups=(OPEN,))

            def told(name: str) -> str:
                return netns.run(["sh", "-c", f"busybox nslookup {name} 172.31.0.2 || true"], namespace=inner.namespace)

            await eventually(lambda: "198.18.202.77" in told("mallee.test"))
            for name in ("ip-172-31-0-99.ec2.internal", "172.31.0.99"):
                assert "198.18.202.77" not in told(name)
            assert server.asked == {"mallee.test"}
            # The guest itself reaches the world no more than before.
            with inner.udp() as wire:
                wire.sendto(b"\0" * 12 + b"\x03own\0\0\x01\0\x01", (WORLD_ADDRESS, 53))
            told("again.test")
            assert server.asked == {"mallee.test", "again.test"}


async def test_without_resolvers_nothing_is_asked_of_the_world() -> None:
    with world(), NameServer() as server:
        async with netlab.laboratory(uplink=UPLINK) as lab:
            guest = await lab.guest(VpcId.new(), "172.31.0.11", groups=(OPEN,))
            said = netns.run(
                ["sh", "-c", "busybox nslookup mallee.test 172.31.0.2 2>&1 || true"], namespace=guest.namespace
            )
            assert "REFUSED" in said
            assert server.asked == set()


async def test_without_an_uplink_nobody_gets_out() -> None:
    with world():
        async with netlab.laboratory() as lab:
            vpc = VpcId.new()
            guest = await lab.guest(vpc, "172.31.0.10", public="new", groups=(OPEN,))
            await lab.apply(lab.plan(vpc, 1, ALL))
            with Server(WORLD, 80) as outside, guest.listen(80):
                assert not guest.reaches(WORLD_ADDRESS, 80)
                assert outside.peers == []
                assert not reaches(WORLD, guest.public, 80)


async def test_a_range_in_use_is_refused_in_one_line() -> None:
    with world(), netlab.only_one():
        cloud = netlab.config()
        clash = replace(
            cloud,
            management_address="198.18.202.9",
            network=replace(cloud.network, underlay_cidr="198.18.202.0/24"),
        )
        with pytest.raises(
            fabric.FabricError, match=r"198\.18\.202\.0/24 is routed to w7e51up.*network\.underlay_cidr"
        ):
            fabric.ensure(clash)
        assert fabric.host_link(cloud) not in netns.link_kinds()

"""Guests leave the machine only by the interface that the operator names, and the host forwards for nobody else."""

from __future__ import annotations

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

"""A node controller that dies anywhere leaves nothing that the next one does not find, finish or take away."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common import netns
from common.ids import InterfaceId, VpcId, mac_of
from deploy import fabric
from mallee.nc.v1 import instance_pb2, network_pb2
from services.nc.drivers.network import state_folder
from tests.contract import netlab
from tests.contract.netlab import Guest, Lab, group, rule
from tests.contract.traffic import reaches

pytestmark = [pytest.mark.root]

OPEN = "sg-0000000000000000a"
REPOSITORY = Path(__file__).parents[2]

# Dies, as by kill -9, just before it starts its n-th tool.
MORTAL = """
    import asyncio, os, sys
    from common.ids import InterfaceId, VpcId
    from mallee.nc.v1 import instance_pb2, network_pb2
    from services.nc.drivers.network import HostNetwork
    from tests.contract import netlab

    left = int(sys.argv[1])

    def count(event, _):
        global left
        if event == "subprocess.Popen":
            left -= 1
            if left < 0:
                os._exit(9)

    async def main():
        cloud = netlab.config()
        network = HostNetwork(cloud, cloud.zones[0].nodes[0])
        spec = instance_pb2.NetworkInterface.FromString(bytes.fromhex(sys.argv[2]))
        plan = network_pb2.VpcPlan.FromString(bytes.fromhex(sys.argv[3]))
        sys.addaudithook(count)
        await network.open()
        await network.prepare_interface(spec)
        await network.plug_interface(spec)
        await network.apply_plan(plan)
        if sys.argv[4] == "remove":
            await network.remove_interface(InterfaceId(spec.interface_id), VpcId(spec.vpc_id))
        os._exit(0)

    asyncio.run(main())
"""


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with netlab.laboratory() as made:
        yield made


def die_after(tools: int, spec: instance_pb2.NetworkInterface, plan: network_pb2.VpcPlan, until: str) -> bool:
    """Whether it got to the end before it died."""
    hexed = (spec.SerializeToString().hex(), plan.SerializeToString().hex())
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MORTAL), str(tools), *hexed, until],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'gen'}"},
        check=False,
        timeout=60,
    )
    assert done.returncode in (0, 9)
    return done.returncode == 0


def member(vpc: VpcId, lab: Lab) -> tuple[Guest, network_pb2.VpcPlan]:
    interface_id = InterfaceId.new()
    spec = instance_pb2.NetworkInterface(
        interface_id=interface_id,
        vpc_id=vpc,
        mac=mac_of(interface_id),
        private_ipv4="172.31.0.10",
        subnet_cidr="172.31.0.0/20",
        vpc_cidr="172.31.0.0/16",
        public_ipv4=lab.public(),
        security_group_ids=[OPEN],
    )
    guest = Guest(spec, lab.nodes[0], f"m{netlab.CLOUD}-guest-mortal")
    lab.guests.append(guest)
    return guest, lab.plan(vpc, 1, {OPEN: group(OPEN, rule("-1"))}, vni=5)


async def test_a_start_cut_short_anywhere_is_finished_by_the_next(lab: Lab) -> None:
    for tools in range(3, 60, 5):
        guest, plan = member(VpcId.new(), lab)
        lab.add_cable(guest)
        finished = die_after(tools, guest.interface, plan, "plan")
        await lab.restart(lab.nodes[0])
        network = lab.network(guest)
        await network.prepare_interface(guest.interface)
        await network.plug_interface(guest.interface)
        await network.apply_plan(plan)
        guest.ask_dhcp()
        with guest.listen(80):
            assert reaches("", guest.public, 80, within_s=2), tools
        await lab.remove(guest)
        assert await network.observe() == {}
        if finished:
            return
    raise AssertionError("a start takes more tools than this test thought of")


async def test_what_a_dead_one_left_is_seen_and_removed(lab: Lab) -> None:
    for tools in range(5, 90, 7):
        guest, plan = member(VpcId.new(), lab)
        finished = die_after(tools, guest.interface, plan, "remove")
        await lab.restart(lab.nodes[0])
        network = lab.network(guest)
        for interface, vpc in (await network.observe()).items():
            await network.remove_interface(interface, vpc)
        lab.guests.remove(guest)
        node = guest.node.namespace
        assert [name for name in netns.namespaces() if name.startswith(f"{node}-")] == [], tools
        links, proxies = netns.show("link show", "neigh show proxy", namespace=node)
        assert sorted(link["ifname"] for link in links) == ["lo", "underlay0"], tools
        assert proxies == []
        assert netlab.dnsmasq_processes() == []
        if finished:
            return
    raise AssertionError("it takes more tools than this test thought of")


async def test_destroying_takes_everything_away_also_half_made_things() -> None:
    cloud = netlab.config()
    with netlab.only_one():
        fabric.destroy(cloud)
        fabric.ensure(cloud)
        fabric.ensure(cloud)
        lab = Lab(cloud)
        await lab.networks["nc-1"].open()
        guest, plan = member(VpcId.new(), lab)
        for tools in (12, 25, 100):
            die_after(tools, guest.interface, plan, "plan")
        assert netlab.dnsmasq_processes() != []
        fabric.destroy(cloud)
        fabric.destroy(cloud)
        assert [name for name in netns.namespaces() if netlab.CLOUD in name] == []
        assert [link for link in netns.link_kinds() if netlab.CLOUD in link] == []
        assert netlab.CLOUD not in netns.run(["nft", "list", "tables"])
        assert netlab.dnsmasq_processes() == []
        assert not state_folder(cloud).exists()
        assert not [r for r in netns.show("route show")[0] if r["dst"] == netlab.POOL]

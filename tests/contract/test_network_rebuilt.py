"""A node is rebuilt whole: every rule, address, route and neighbour, as it was, from what is on its disk; and flows of
what still stood go on meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common import netns
from common.config import NodeConfig
from common.ids import VpcId
from deploy import fabric
from mallee.nc.v1 import network_pb2
from services.nc.paths import NodePaths
from services.nc.plans import Plans
from tests.contract.netlab import Guest, Lab, group, rule
from tests.contract.network_fixtures import lab, whole_lab
from tests.contract.traffic import dial, echoes, reaches
from tests.eventually import eventually

__all__ = ["lab", "whole_lab"]

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

WEB = "sg-0000000000000000b"
APP = "sg-0000000000000000c"
GROUPS = {
    WEB: group(WEB, rule("tcp", 80), rule("icmp", 8), rule("-1", peer=APP)),
    APP: group(APP, rule("udp", 53, peer=WEB), egress=(rule("tcp", 80, peer=WEB), rule("-1", peer="10.0.0.0/8"))),
}


def standing(node: str) -> dict[str, Any]:
    """All that the node's namespaces hold, by namespace and kind."""
    found: dict[str, Any] = {}
    for name in netns.namespaces():
        if name == node or name.startswith(f"{node}-vpc"):
            addresses, routes, neighbours, proxies = netns.show(
                "addr show", "route show", "neigh show nud permanent", "neigh show proxy", namespace=name
            )
            found[name.removeprefix(node)] = {
                "rules": netns.run(["nft", "-s", "list", "ruleset"], namespace=name),
                "links": sorted((each["ifname"], each["address"], each["mtu"], each["flags"]) for each in addresses),
                "addresses": sorted((e["ifname"], a["local"]) for e in addresses for a in e["addr_info"]),
                "routes": sorted(str(route) for route in routes),
                "neighbours": sorted(str(entry) for entry in [*neighbours, *proxies]),
                "forwarding": sorted(netns.run(["bridge", "fdb", "show"], namespace=name).splitlines()),
            }
    return found


async def populated(lab: Lab) -> tuple[list[Guest], dict[VpcId, network_pb2.VpcPlan]]:
    """Two VPCs with one range, on both nodes."""
    guests, plans = [], {}
    for vpc in (VpcId.new(), VpcId.new()):
        for number, (node, groups) in enumerate(((0, (WEB,)), (0, (APP,)), (1, (WEB, APP)))):
            public = "new" if number != 1 else ""
            guests.append(await lab.guest(vpc, f"172.31.0.{10 + number}", node=node, public=public, groups=groups))
        plans[vpc] = lab.plan(vpc, 1, GROUPS)
    return guests, plans


async def test_a_node_that_lost_its_rules_is_as_before_and_its_flows_go_on(lab: Lab) -> None:
    guests, plans = await populated(lab)
    for plan in plans.values():
        await lab.apply(plan)
    server, near, far = guests[:3]
    node = server.node.namespace
    before = standing(node)
    with (
        server.listen(80),
        near.dial(server.private, 80) as beside,
        far.dial(server.private, 80) as across,
        dial("", server.public, 80) as public,
    ):
        flows = (beside, across, public)
        assert [echoes(flow) for flow in flows] == [True] * 3
        for name in netns.namespaces():
            if name == node or name.startswith(f"{node}-vpc"):
                netns.rules("flush ruleset\n", namespace=name)
        assert standing(node) != before
        await lab.restart(server.node)
        assert standing(node) == before
        assert [echoes(flow) for flow in flows] == [True] * 3
        # As `mallee up` does, also with the host's own rules gone.
        netns.rules(f"delete table inet {fabric.table_name(lab.cloud)}\n")
        for _ in range(2):
            fabric.ensure(lab.cloud)
            assert standing(node) == before
            assert [echoes(flow) for flow in flows] == [True] * 3


async def test_rules_that_somebody_flushes_come_back_by_themselves(lab: Lab) -> None:
    guests, plans = await populated(lab)
    for plan in plans.values():
        await lab.apply(plan)
    node = guests[0].node.namespace
    before = standing(node)
    places = [name for name in netns.namespaces() if name == node or name.startswith(f"{node}-vpc")]
    for flushed in (places[:1], places[1:]):
        for name in flushed:
            netns.rules("flush ruleset\n", namespace=name)
        assert standing(node) != before
        await eventually(lambda: standing(node) == before, every_s=0.5)


async def test_a_rebooted_node_is_as_before(lab: Lab, tmp_path: Path) -> None:
    guests, given = await populated(lab)
    for node in lab.nodes:
        kept = plans_of(lab, node, tmp_path)
        for plan in given.values():
            await kept.apply(plan)
    before = {node.name: standing(node.namespace) for node in lab.nodes}
    assert {len(namespaces) for namespaces in before.values()} == {3}

    for network in lab.networks.values():
        await network.close()
    fabric.destroy(lab.cloud)
    assert not any(standing(node.namespace) for node in lab.nodes)
    fabric.ensure(lab.cloud)

    # What services/nc/main.py and host.py do at a start, whose instances' records say that they should run.
    for node in lab.nodes:
        await lab.restart(node)
        kept = plans_of(lab, node, tmp_path)
        kept.open()
        await kept.apply_all(given.keys())
        for guest in guests:
            if guest.node is node:
                lab.add_cable(guest)
                await lab.network(guest).prepare_interface(guest.interface)
                await lab.network(guest).plug_interface(guest.interface)
                await kept.apply_again(VpcId(guest.interface.vpc_id))
                guest.ask_dhcp()
    assert {node.name: standing(node.namespace) for node in lab.nodes} == before
    for guest in guests:
        with guest.listen(80):
            assert not guest.public or reaches("", guest.public, 80, within_s=3)


def plans_of(lab: Lab, node: NodeConfig, folder: Path) -> Plans:
    paths = NodePaths(folder / node.name)
    paths.plans.mkdir(parents=True, exist_ok=True)
    return Plans(paths, lab.networks[node.name], node_address=node.address, is_used=lambda _: True)

"""The real network between bare namespaces: two nodes, VPCs with one and the same range, and guests that mean harm."""

from __future__ import annotations

import socket

import pytest

from common import netns
from common.ids import InterfaceId, VpcId, mac_of
from mallee.nc.v1 import instance_pb2
from services.nc.net import names
from tests import processes
from tests.contract import netlab
from tests.contract.netlab import FACADE_PORT, MANAGEMENT, Lab, group, rule
from tests.contract.network_fixtures import ALL, OPEN, lab, opened, whole_lab
from tests.contract.traffic import Server, dial, echoes, pings, reaches
from tests.eventually import eventually

__all__ = ["lab", "whole_lab"]

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

WEB = "sg-0000000000000000b"


async def test_a_guest_learns_its_place_by_dhcp(lab: Lab) -> None:
    vpc = VpcId.new()
    guest = await lab.guest(vpc, "172.31.16.9", subnet="172.31.16.0/20")
    lease = guest.lease
    assert (lease["ip"], lease["mask"], lease["router"]) == ("172.31.16.9", "20", "172.31.16.1")
    assert (lease["dns"], lease["domain"], lease["mtu"]) == ("172.31.0.2", "ec2.internal", "1500")
    assert lease["hostname"] == "ip-172-31-16-9"
    routes = lease["staticroutes"].split()
    assert dict(zip(routes[::2], routes[1::2], strict=True)) == dict.fromkeys(
        ("0.0.0.0/0", "169.254.169.254/32", "169.254.169.250/32"), "172.31.16.1"
    )


async def test_an_address_goes_to_its_next_card_at_once(lab: Lab) -> None:
    vpc = VpcId.new()
    await lab.guest(vpc, "172.31.0.9")
    first = await lab.guest(vpc, "172.31.0.10")
    await lab.remove(first)
    second = await lab.guest(vpc, "172.31.0.10")
    assert second.lease["ip"] == "172.31.0.10"
    assert second.interface.mac != first.interface.mac


async def test_an_address_whose_old_card_lingers_goes_to_the_new_one(lab: Lab) -> None:
    vpc = VpcId.new()
    peer = await lab.guest(vpc, "172.31.0.9", groups=(OPEN,))
    old = await lab.guest(vpc, "172.31.0.10", groups=(OPEN,))
    new = await lab.guest(vpc, "172.31.0.10", groups=(OPEN,))
    made = lab.plan(vpc, 1, ALL)
    made.interfaces.remove(next(found for found in made.interfaces if found.interface_id == old.interface_id))
    await lab.apply(made)
    with new.listen(80), peer.dial(new.private, 80) as flow:
        assert echoes(flow)
        await lab.remove(old)
        assert echoes(flow), "taking the old card away does not touch the new one's flows"
    new.ask_dhcp()


async def test_members_find_each_other_by_name(lab: Lab) -> None:
    vpc = VpcId.new()
    a, b = await opened(lab, vpc, 0, 1)
    await eventually(
        lambda: f"Address: {b.private}" in a.run("busybox", "nslookup", "ip-172-31-0-11.ec2.internal", "172.31.0.2")
    )
    assert f"Address: {b.private}" in a.run("busybox", "nslookup", "ip-172-31-0-11.ec2.internal", "169.254.169.253")


async def test_everyone_reaches_everyone_on_both_nodes(lab: Lab) -> None:
    guests = await opened(lab, VpcId.new(), 0, 0, 1)
    for target in guests:
        with target.listen(80) as server:
            for source in guests:
                if source is not target:
                    assert source.reaches(target.private, 80), (source.private, target.private)
                    assert source.pings(target.private)
            assert server.peers == [source.private for source in guests if source is not target]


async def test_public_addresses_are_reached_from_everywhere(lab: Lab) -> None:
    target, neighbour, remote = await opened(lab, VpcId.new(), 0, 0, 1)
    [stranger] = await opened(lab, VpcId.new(), 1)
    [close_stranger] = await opened(lab, VpcId.new(), 0)
    with target.listen(80) as server:
        callers = (neighbour, remote, stranger, close_stranger, target)
        for caller in callers:
            assert caller.reaches(target.public, 80), caller.namespace
        assert reaches("", target.public, 80)
        assert pings("", target.public)
        assert server.peers == [*(caller.public for caller in callers), MANAGEMENT]


async def test_two_vpcs_with_one_range_never_meet(lab: Lab) -> None:
    red, blue = VpcId.new(), VpcId.new()
    red_a, red_b = await opened(lab, red, 0, 1)
    blue_a, blue_b = await opened(lab, blue, 0, 1)
    lonely = await lab.guest(red, "172.31.0.99", groups=(OPEN,))
    await lab.apply(lab.plan(red, 2, ALL))
    with red_b.listen(80) as in_red, blue_b.listen(80) as in_blue, lonely.listen(80) as only_red:
        assert red_a.reaches("172.31.0.11", 80)
        assert (len(in_red.peers), len(in_blue.peers)) == (1, 0)
        assert blue_a.reaches("172.31.0.11", 80)
        assert (len(in_red.peers), len(in_blue.peers)) == (1, 1)
        assert not blue_a.reaches("172.31.0.99", 80)
        assert not blue_b.reaches("172.31.0.99", 80)
        assert only_red.peers == []


async def test_a_revoked_rule_cuts_its_flows_and_no_other(lab: Lab) -> None:
    vpc = VpcId.new()
    groups = {OPEN: group(OPEN), WEB: group(WEB, rule("tcp", 80), rule("tcp", 81))}
    server = await lab.guest(vpc, "172.31.0.10", public="new", groups=(WEB,))
    near = await lab.guest(vpc, "172.31.0.11", groups=(OPEN,))
    far = await lab.guest(vpc, "172.31.0.12", node=1, groups=(OPEN,))
    await lab.apply(lab.plan(vpc, 1, groups))
    with server.listen(80), server.listen(81):
        cut = [near.dial(server.private, 80), far.dial(server.private, 80), dial("", server.public, 80)]
        kept = [near.dial(server.private, 81), far.dial(server.private, 81), dial("", server.public, 81)]
        assert all(echoes(flow) for flow in cut + kept)
        await lab.apply(lab.plan(vpc, 2, {OPEN: groups[OPEN], WEB: group(WEB, rule("tcp", 81))}))
        assert [echoes(flow, within_s=0.4) for flow in cut] == [False] * 3
        assert [echoes(flow) for flow in kept] == [True] * 3
        await lab.apply(lab.plan(vpc, 3, groups))
        assert near.reaches(server.private, 80)
        for flow in cut + kept:
            flow.close()


async def test_the_answering_end_of_a_revoked_flow_is_silent_too(lab: Lab) -> None:
    vpc = VpcId.new()
    a = await lab.guest(vpc, "172.31.0.10", groups=(WEB,))
    b = await lab.guest(vpc, "172.31.0.11", groups=(OPEN,))
    await lab.apply(lab.plan(vpc, 1, {WEB: group(WEB, rule("tcp", 80)), OPEN: group(OPEN)}))

    def listener() -> socket.socket:
        made = socket.socket()
        made.bind((a.private, 80))
        made.listen()
        return made

    with netns.inside(a.namespace, listener) as listening, b.dial(a.private, 80) as caller:
        answering, _ = listening.accept()
        with answering:
            await lab.apply(lab.plan(vpc, 2, {WEB: group(WEB), OPEN: group(OPEN)}))
            answering.sendall(b"still there?")
            caller.settimeout(0.5)
            with pytest.raises(TimeoutError):
                caller.recv(100)


async def test_leaving_a_group_counts_at_once(lab: Lab) -> None:
    vpc = VpcId.new()
    groups = {WEB: group(WEB, rule("-1", peer=OPEN)), OPEN: group(OPEN)}
    server = await lab.guest(vpc, "172.31.0.10", groups=(WEB,))
    friend = await lab.guest(vpc, "172.31.0.11", node=1, groups=(OPEN,))
    await lab.apply(lab.plan(vpc, 1, groups))
    with server.listen(80), friend.dial(server.private, 80) as flow:
        assert echoes(flow)
        changed = lab.plan(vpc, 2, groups)
        del changed.interfaces[1].group_ids[:]
        changed.interfaces[1].group_ids.append(WEB)
        await lab.apply(changed)
        assert not echoes(flow, within_s=0.4)


async def test_a_moved_public_address_is_found_by_whoever_knew_it(lab: Lab) -> None:
    """In whatever order the nodes hear of it, and while the one that had it has not (bench.address has the time)."""
    vpc = VpcId.new()
    a, b, c = await opened(lab, vpc, 0, 0, 1)
    strangers = [(await opened(lab, VpcId.new(), node))[0].namespace for node in (0, 1)]
    address = a.public

    async def leads_to(server: Server, *callers: str) -> None:
        for caller in callers:
            seen = len(server.peers)
            await eventually(
                lambda seen=seen, caller=caller: (  # type: ignore[misc]
                    reaches(caller, address, 80, within_s=0.1) and len(server.peers) > seen
                ),
                within_s=5,
            )

    with a.listen(80) as at_a, b.listen(80) as at_b, c.listen(80) as at_c:
        await leads_to(at_a, "", *strangers)
        moves = ((c, at_c, (1, 0)), (a, at_a, (1, 0)), (b, at_b, (0,)), (c, at_c, (0, 1)), (b, at_b, (0, 1)))
        for revision, (holder, server, order) in enumerate(moves, 2):
            plan = lab.plan(vpc, revision, ALL, public={g.private: "" for g in (a, b, c)} | {holder.private: address})
            for node in order:
                await lab.networks[lab.nodes[node].name].apply_plan(plan)
                if lab.nodes[node] is holder.node:
                    await leads_to(server, "", strangers[node])
            await leads_to(server, "", *strangers)


async def test_an_interface_without_public_address_stays_inside(lab: Lab) -> None:
    vpc = VpcId.new()
    target, _ = await opened(lab, vpc, 0, 1)
    inner = await lab.guest(vpc, "172.31.0.50", groups=(OPEN,))
    await lab.apply(lab.plan(vpc, 2, ALL))
    with target.listen(80) as server:
        assert not inner.reaches(target.public, 80)
        assert inner.reaches(target.private, 80)
        assert server.peers == [inner.private]


async def test_guests_reach_metadata_and_facade(lab: Lab) -> None:
    vpc, other = VpcId.new(), VpcId.new()
    a, b = await opened(lab, vpc, 0, 1)
    [stranger] = await opened(lab, other, 0)
    network = lab.network(a)
    with await network.metadata_socket(vpc) as ours, await network.metadata_socket(other) as theirs:
        ours.setblocking(True)
        theirs.setblocking(True)
        for listening, guest in ((ours, a), (theirs, stranger)):
            with guest.dial(names.METADATA, 80):
                connection, peer = listening.accept()
                connection.close()
                assert peer[0] == guest.private
    with Server("", FACADE_PORT, MANAGEMENT) as facade:
        for guest in (a, b, stranger):
            assert guest.reaches("169.254.169.250", FACADE_PORT)
        assert facade.peers == [a.node.address, b.node.address, stranger.node.address], "masqueraded"


async def test_nothing_else_of_host_and_nodes_is_reached(lab: Lab) -> None:
    """etcd, gRPC, metrics, a service bound to every address: none of it exists for a guest, by any address."""
    [guest, _] = await opened(lab, VpcId.new(), 0, 1)
    outside = next(r for r in netns.show("route show default")[0])["dev"]
    own = [
        a["local"]
        for link in netns.show(f"addr show dev {outside}")[0]
        for a in link["addr_info"]
        if a["family"] == "inet"
    ]
    ports = (2379, 8774, 8776, 9776, FACADE_PORT)
    node = guest.node.namespace
    link = [
        a["local"]
        for e in netns.show("addr show dev up0", namespace=f"{node}-{guest.interface.vpc_id}")[0]
        for a in e["addr_info"]
    ]
    with_everything = [
        *(Server("", port) for port in ports[:-1]),
        *(Server(n.namespace, port) for port in ports for n in lab.nodes),
        *(Server(f"{node}-{guest.interface.vpc_id}", port) for port in ports),
    ]
    addresses = [MANAGEMENT, *own, *(n.address for n in lab.nodes), "172.31.0.1", "172.31.0.2", "169.254.169.253"]
    addresses += [names.METADATA, "169.254.169.250", names.NODE_HOP, "127.0.0.1", *link]
    try:
        for address in dict.fromkeys(addresses):
            for port in ports:
                if (address, port) != ("169.254.169.250", FACADE_PORT):
                    assert not guest.reaches(address, port, within_s=0.08), (address, port)
            if address != "127.0.0.1":
                assert not pings(guest.namespace, address, within_s=0.08), address
        # Nor by what serves the VPC: the node keeps its own door.
        for address in (MANAGEMENT, *own, *(n.address for n in lab.nodes)):
            for port in ports:
                assert not reaches(f"{node}-{guest.interface.vpc_id}", address, port, within_s=0.08), (address, port)
        assert [server.peers for server in with_everything] == [[]] * len(with_everything)
    finally:
        for server in with_everything:
            server.__exit__()


async def test_no_guest_packet_leaves_by_the_machines_own_interface(lab: Lab) -> None:
    guests = await opened(lab, VpcId.new(), 0, 1)
    outside = next(r for r in netns.show("route show default")[0])["dev"]
    ours = f"172.31.0.0/16, {netlab.POOL}, 100.64.201.0/24, 169.254.0.0/16"
    netns.rules(
        f"""table inet mallee_test_{netlab.CLOUD}
        delete table inet mallee_test_{netlab.CLOUD}
        table inet mallee_test_{netlab.CLOUD} {{
          chain out {{ type filter hook postrouting priority 300; policy accept;
            oifname "{outside}" ip saddr {{ {ours} }} counter drop
            oifname "{outside}" ip daddr 198.51.100.77 counter drop
          }}
        }}
        """
    )
    try:
        for guest in guests:
            for address in ("198.51.100.77", "192.0.2.99", "10.9.8.7"):
                assert not guest.reaches(address, 80, within_s=0.2)
        counted = netns.run(["nft", "list", "table", "inet", f"mallee_test_{netlab.CLOUD}"])
        assert counted.count("counter packets 0 bytes 0") == 2, counted
    finally:
        netns.rules(f"delete table inet mallee_test_{netlab.CLOUD}\n")


# Node controllers come and go.


async def test_a_new_node_controller_cuts_no_flow(lab: Lab) -> None:
    vpc = VpcId.new()
    a, near, far = await opened(lab, vpc, 0, 0, 1)
    with (
        a.listen(80),
        near.dial(a.private, 80) as beside,
        far.dial(a.private, 80) as across,
        dial("", a.public, 80) as public,
    ):
        flows = (beside, across, public)
        for _ in range(2):
            for node in lab.nodes:
                await lab.restart(node)
                assert all(echoes(flow) for flow in flows)
            await lab.apply(lab.plan(vpc, 1, ALL))
            assert all(echoes(flow) for flow in flows)
        await lab.apply(lab.plan(vpc, 2, ALL))
        assert all(echoes(flow) for flow in flows)


async def test_a_dead_dnsmasq_comes_back_by_itself(lab: Lab) -> None:
    guest = await lab.guest(VpcId.new(), "172.31.0.10")
    [pid] = netlab.dnsmasq_processes()
    processes.kill(pid)
    await eventually(lambda: netlab.dnsmasq_processes() not in ([], [pid]), within_s=20)
    guest.ask_dhcp()


async def test_a_link_that_went_down_and_up_carries_everything_again(lab: Lab) -> None:
    a, far = await opened(lab, VpcId.new(), 0, 1)
    node = a.node.namespace
    netns.links([f"link set {netns.UNDERLAY} down", f"link set {netns.UNDERLAY} up"], namespace=node)

    def answers() -> bool:
        return a.reaches(far.public, 80, within_s=0.3) and a.reaches(far.private, 80, within_s=0.3)

    with far.listen(80), a.listen(80):
        await eventually(answers, within_s=20)
        assert reaches("", a.public, 80)


async def test_what_somebody_took_away_comes_back(lab: Lab) -> None:
    vpc = VpcId.new()
    a, far = await opened(lab, vpc, 0, 1)
    node, inside = a.node.namespace, f"{a.node.namespace}-{vpc}"
    netns.rules("delete table inet plan\ndelete table inet guard\n", namespace=inside)
    netns.links(["link del vx0", "addr del 169.254.169.254/32 dev lo"], namespace=inside)
    netns.links([f"link del {names.uplink_name(vpc)}"], namespace=node)
    await lab.restart(a.node)
    with a.listen(80):
        assert far.reaches(a.private, 80)
        assert reaches("", a.public, 80)
    a.ask_dhcp()


async def test_removed_interfaces_leave_nothing(lab: Lab) -> None:
    vpc = VpcId.new()
    guests = await opened(lab, vpc, 0, 0, 1)
    published = [guest.public for guest in guests]
    await lab.clear()
    for node in lab.nodes:
        assert [name for name in netns.namespaces() if name.startswith(f"{node.namespace}-")] == []
        links, routes, proxies = netns.show("link show", "route show", "neigh show proxy", namespace=node.namespace)
        assert sorted(link["ifname"] for link in links) == ["lo", "underlay0"]
        assert not {route["dst"] for route in routes} & set(published)
        assert proxies == []
    assert netlab.dnsmasq_processes() == []
    for network in lab.networks.values():
        assert await network.observe() == {}


async def test_a_tap_is_kept_while_held_and_made_anew_after(lab: Lab) -> None:
    """What libvirt and QEMU do with it: opened in the node's namespace, moved while held, left behind at the end."""
    interface_id = InterfaceId.new()
    spec = instance_pb2.NetworkInterface(
        interface_id=interface_id,
        vpc_id=VpcId.new(),
        mac=mac_of(interface_id),
        private_ipv4="172.31.0.10",
        subnet_cidr="172.31.0.0/20",
        vpc_cidr="172.31.0.0/16",
    )
    node = lab.nodes[0]
    network, inside = lab.networks[node.name], f"{node.namespace}-{spec.vpc_id}"
    tap = await network.prepare_interface(spec)
    with netlab.hold_tap(node.namespace, tap):
        await network.plug_interface(spec)
        assert tap in netns.link_kinds(inside)
        index = netns.link_kinds(inside)[tap]["ifindex"]
        assert await network.prepare_interface(spec) == tap
        await network.plug_interface(spec)
        assert netns.link_kinds(inside)[tap]["ifindex"] == index
        assert tap not in netns.link_kinds(node.namespace)
    assert await network.prepare_interface(spec) == tap
    assert tap in netns.link_kinds(node.namespace)
    assert tap not in netns.link_kinds(inside)
    await network.remove_interface(interface_id, VpcId(spec.vpc_id))
    assert await network.observe() == {}
    assert tap not in netns.link_kinds(node.namespace)

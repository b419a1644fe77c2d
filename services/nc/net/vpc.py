"""One VPC on one node: its namespace, taps, overlay, rules and dnsmasq.

Crash-only: every method reads what stands and adds or takes what differs, so the way after a crash is the everyday way.
Methods block and must not overlap for one VPC; the driver sees to both.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterable
from typing import Any

from common import netns
from common.errors import NotFound, WrongState
from common.ids import InterfaceId, VpcId
from mallee.nc.v1 import instance_pb2, network_pb2
from services.nc.net import arp, dhcp, flows, names, policy, ruleset
from services.nc.net.records import Record, Records, record_of
from services.nc.net.site import ROUTER_SETTINGS, Site

_METADATA_BACKLOG = 128


class Vpc:
    def __init__(self, site: Site, vpc_id: VpcId) -> None:
        self.vpc_id = vpc_id
        self._site = site
        self._namespace = names.vpc_namespace(site.namespace, vpc_id)
        self._folder = site.folder / vpc_id
        self._records = Records(self._folder, vpc_id, site.address)
        self._dnsmasq = dhcp.Dnsmasq(self._folder, self._namespace)

    # What the driver asks for.

    def prepare(self, interface: instance_pb2.NetworkInterface) -> str:
        record = record_of(interface)
        tap = record.card.tap
        self._records.write(record)
        if not self._site.is_whole(self.vpc_id):
            self.repair()
        if tap in netns.link_kinds(self._site.namespace):
            return tap
        plugged = netns.link_kinds(self._namespace).get(tap)
        if plugged:
            if _is_held(plugged):
                return tap
            # Its engine has gone and a new one will look for it in the node's namespace.
            netns.links([f"link del {tap}"], namespace=self._namespace)
        owner = f" user {self._site.tap_owner}" if self._site.tap_owner else ""
        netns.links(
            [
                f"tuntap add dev {tap} mode tap vnet_hdr{owner}",
                f"link set {tap} alias {record.interface_id}@{self.vpc_id}",
            ],
            namespace=self._site.namespace,
        )
        return tap

    def plug(self, interface: instance_pb2.NetworkInterface) -> None:
        record = record_of(interface)
        tap, mac = record.card.tap, record.mac
        if not netns.namespace_stands(self._namespace):
            raise WrongState(f"{record.interface_id} was not prepared on this node")
        self._records.write(record)
        if tap in netns.link_kinds(self._site.namespace):
            netns.links([f"link set {tap} netns {self._namespace}"], namespace=self._site.namespace)
        elif tap not in netns.link_kinds(self._namespace):
            raise WrongState(f"the tap of {record.interface_id} has gone")
        self._render_guard()
        mtu = self._site.guest_mtu
        netns.links(
            [
                f"link set {tap} address {names.tap_mac(mac)} mtu {mtu} alias {record.interface_id}@{self.vpc_id} up",
                f"addr replace {names.gateway_of(record.subnet_cidr)}/32 dev {tap}",
                f"route replace {record.private_ipv4}/32 dev {tap}",
                # Known without asking; what it says by ARP afterwards passed the guard.
                f"neigh replace {record.private_ipv4} lladdr {mac} dev {tap} nud permanent",
            ],
            namespace=self._namespace,
        )
        # Answer for the guest's neighbours, and without the delay that proxies have by default (0.8 s).
        netns.settings(
            {f"ipv4/neigh/{tap}/proxy_delay": "0", f"ipv4/conf/{tap}/proxy_arp": "1"}, namespace=self._namespace
        )
        self._serve_dhcp(self._records.view())

    def remove(self, interface_id: InterfaceId) -> None:
        tap = names.tap_name(interface_id)
        for namespace in (self._site.namespace, self._namespace):
            if netns.namespace_stands(namespace) and tap in netns.link_kinds(namespace):
                netns.links([f"link del {tap}"], namespace=namespace)
        if netns.namespace_stands(self._namespace):
            self._withdraw(interface_id)
        self._records.drop(interface_id)
        if self.observe():
            self._render_guard()
            self._serve_dhcp(self._records.view())
        else:
            self.destroy()

    def apply(self, plan: network_pb2.VpcPlan) -> list[str]:
        """Returns the public addresses that are new here. They are announced; who missed it is to hear it again."""
        view = policy.view_of(plan, self._site.address)
        if view.revision < self._records.view().revision:
            return []
        standing = netns.namespace_stands(self._namespace)
        if not standing and not view.local:
            shutil.rmtree(self._folder, ignore_errors=True)
            return []
        self._records.write_plan(plan)
        return self._enforce(view) if standing else []

    def repair(self) -> None:
        """Makes everything but the taps stand as records and plan say; packets and flows go on meanwhile."""
        records = self._records.all()
        if not records:
            return
        vpc_cidr = records[0].vpc_cidr
        made_now = netns.ensure_namespace(self._namespace)
        view = self._records.view()
        netns.rules(self._guard(records) + ruleset.plan(view, self._site.doors), namespace=self._namespace)
        # Packets may be forwarded only now that rules stand.
        netns.settings(_KERNEL, namespace=self._namespace)
        netns.links(
            [
                "link set lo up",
                *(f"addr replace {a}/32 dev lo" for a in ruleset.own_addresses(vpc_cidr, self._site.doors)),
                # Nobody answers for a member that is not there.
                f"route replace unreachable {vpc_cidr}",
            ],
            namespace=self._namespace,
        )
        self._site.ensure_uplink(self.vpc_id, self._namespace)
        if view.vni:
            self._site.take_from(view.vni, come={member.node for member in view.remote})
        self._reach_members(view)
        self._follow(view)
        if not made_now:
            self._cut_revoked(view)
        self._site.note_whole(self.vpc_id, True)

    def observe(self) -> set[InterfaceId]:
        return self._records.ids() | self.taps()

    def taps(self) -> set[InterfaceId]:
        """Those in its namespace; none if there is no namespace."""
        if not netns.namespace_stands(self._namespace):
            return set()
        return {i for link in netns.link_kinds(self._namespace) if (i := names.interface_of(link))}

    def answering(self, interfaces: Iterable[InterfaceId], *, within_s: float) -> set[InterfaceId]:
        """Those plugged here whose guests answer ARP. Changes nothing, so nothing need wait for it."""
        here = {record.card.tap: record for record in self._records.all() if record.interface_id in set(interfaces)}
        if not netns.namespace_stands(self._namespace):
            return set()
        asked = [
            arp.Asked(
                link=tap,
                address=record.private_ipv4,
                asker_mac=names.tap_mac(record.mac),
                asker_address=names.gateway_of(record.subnet_cidr),
            )
            for tap, record in here.items()
        ]
        taps = netns.inside(self._namespace, lambda: arp.answering(asked, within_s=within_s))
        return {InterfaceId(here[tap].interface_id) for tap in taps}

    def keep_serving(self) -> None:
        """Starts dnsmasq again if it has died, and makes rules again that somebody flushed."""
        if netns.namespace_stands(self._namespace):
            if not (self._site.is_whole(self.vpc_id) and netns.tables(self._namespace) >= ruleset.TABLES):
                self.repair()
            self._serve_dhcp(self._records.view())

    def metadata_socket(self) -> socket.socket:
        def listen() -> socket.socket:
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((names.METADATA, 80))
                listener.listen(_METADATA_BACKLOG)
                listener.setblocking(False)
            except OSError:
                listener.close()
                raise
            return listener

        if not netns.namespace_stands(self._namespace):
            raise NotFound(f"{self.vpc_id} is not on this node")
        return netns.inside(self._namespace, listen)

    def destroy(self) -> None:
        """Nothing of it is left on this node."""
        self._site.note_whole(self.vpc_id, False)
        self._dnsmasq.stop()
        view = self._records.view()
        self._site.take_from(view.vni, go={member.node for member in view.remote})
        self._site.drop_uplink(self.vpc_id)
        if netns.namespace_stands(self._namespace):
            # The kernel takes a namespace's links away some time after it; a VXLAN id must be free at once.
            present = netns.link_kinds(self._namespace)
            ours = [link for link in present if link == names.OVERLAY or names.interface_of(link)]
            netns.links((f"link del {link}" for link in ours), namespace=self._namespace)
            netns.delete_namespace(self._namespace)
        shutil.rmtree(self._folder, ignore_errors=True)

    # How it is done.

    def _enforce(self, view: policy.View) -> list[str]:
        # Before the rules let a new member's packets in: a guest whose question for that member's card is not answered
        # asks again no sooner than a second later.
        self._reach_members(view)
        netns.rules(ruleset.plan(view, self._site.doors), namespace=self._namespace)
        fresh = self._follow(view)
        self._cut_revoked(view)
        return fresh

    def _cut_revoked(self, view: policy.View) -> None:
        flows.cut_revoked(view, self._site.doors.facade_address, namespace=self._namespace)

    def _follow(self, view: policy.View) -> list[str]:
        """Public addresses, names and DHCP."""
        fresh = self._site.publish(self.vpc_id, (member.public for member in view.local if member.public))
        self._serve_dhcp(view)
        return fresh

    def _withdraw(self, interface_id: InterfaceId) -> None:
        """Its addresses, private and public, are no longer here."""
        others = [member for member in self._records.view().local if member.interface_id != interface_id]
        self._site.publish(self.vpc_id, (member.public for member in others if member.public))
        records = self._records.all()
        mine = {record.private_ipv4 for record in records if record.interface_id == interface_id}
        for address in mine - {record.private_ipv4 for record in records if record.interface_id != interface_id}:
            flows.cut_address(address, namespace=self._namespace)

    def _reach_members(self, view: policy.View) -> None:
        """Routes to the members on other nodes, with static neighbours: the overlay neither learns nor floods."""
        if not view.vni:
            return
        dev = names.OVERLAY
        links, routes, neighbours = netns.show("link show", "route show", "neigh show", namespace=self._namespace)
        if all(link["ifname"] != dev for link in links):
            self._make_overlay(view.vni)
        had = {route["dst"]: route.get("gateway", "") for route in routes if route.get("dev") == dev}
        want = {member.private: member.node for member in view.remote}
        known = {entry["dst"] for entry in neighbours if entry.get("dev") == dev}
        nodes = set(want.values())
        # First, so that the neighbours never tell of nodes that the wire's rules do not know.
        self._site.take_from(view.vni, come=nodes - known, go=known - nodes)
        mac = names.overlay_mac
        netns.forwarding(
            [
                *(f"fdb replace {mac(n)} dev {dev} dst {n} self permanent" for n in sorted(nodes - known)),
                *(f"fdb del {mac(n)} dev {dev} dst {n} self" for n in sorted(known - nodes)),
            ],
            namespace=self._namespace,
        )
        netns.links(
            [
                *(f"neigh replace {n} lladdr {mac(n)} dev {dev} nud permanent" for n in sorted(nodes - known)),
                *(f"route replace {a}/32 via {n} dev {dev} onlink" for a, n in want.items() if had.get(a) != n),
                *(f"route del {address}/32 dev {dev}" for address in had.keys() - want.keys()),
                *(f"neigh del {n} dev {dev}" for n in sorted(known - nodes)),
            ],
            namespace=self._namespace,
        )

    def _make_overlay(self, vni: int) -> None:
        """Born in the node's namespace, where its UDP socket stays, then moved into the VPC's."""
        outside = names.overlay_name(self.vpc_id)
        node = self._site.namespace
        if outside not in netns.link_kinds(node):
            netns.links(
                [
                    f"link add {outside} address {names.overlay_mac(self._site.address)} type vxlan id {vni} "
                    f"local {self._site.address} dev {netns.UNDERLAY} dstport {names.VXLAN_PORT} nolearning"
                ],
                namespace=node,
            )
        mtu = self._site.guest_mtu
        netns.links([f"link set {outside} netns {self._namespace} name {names.OVERLAY}"], namespace=node)
        netns.links([f"link set {names.OVERLAY} mtu {mtu} up"], namespace=self._namespace)

    def _render_guard(self) -> None:
        if records := self._records.all():
            netns.rules(self._guard(records), namespace=self._namespace)

    def _guard(self, records: list[Record]) -> str:
        return ruleset.guard([record.card for record in records], records[0].vpc_cidr, self._site.doors)

    def _serve_dhcp(self, view: policy.View) -> None:
        if records := self._records.all():
            cards = [record.card for record in records]
            self._dnsmasq.serve(
                dhcp.configuration(self._scope(records), self._folder),
                dhcp.dhcp_hosts(cards),
                dhcp.dns_hosts(view, cards, self._site.region),
            )

    def _scope(self, records: list[Record]) -> dhcp.Scope:
        return dhcp.Scope(
            vpc_cidr=records[0].vpc_cidr,
            subnets=tuple(sorted({record.subnet_cidr for record in records})),
            domain=names.internal_domain(self._site.region),
            facade_address=self._site.doors.facade_address,
            mtu=self._site.guest_mtu,
            resolvers=self._site.doors.resolvers,
        )


_KERNEL = {
    "ipv4/ip_forward": "1",
    **{f"ipv4/conf/{scope}/{name}": value for scope in ("all", "default") for name, value in ROUTER_SETTINGS.items()},
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
    # A revoked connection must not be taken up again in the middle, from either end.
    "netfilter/nf_conntrack_tcp_loose": "0",
    "netfilter/nf_conntrack_tcp_be_liberal": "1",
}


def _is_held(link: dict[str, Any]) -> bool:
    """A tap has carrier while an engine has it open; any other kind of link is somebody's own business."""
    return link.get("linkinfo", {}).get("info_kind") != "tun" or "LOWER_UP" in link["flags"]

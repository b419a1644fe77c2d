"""A node's own part of the network: its namespace, the uplinks of its VPCs and the public addresses it answers for.

The kernel is the record: an uplink's hardware addresses carry its link address, a route to an uplink says whose a
public address is.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from common import netns
from common.errors import NoCapacity, Unavailable
from common.ids import InterfaceId, VpcId
from services.nc.net import arp, names, node_rules
from services.nc.net.ruleset import Doors

_LARGEST_GUEST_MTU: Final = 9000

# A new namespace takes over what the host has, and a hardened host has much that would keep a router from its work:
# each of these is said, below ipv4/conf/<all, default, link>.
ROUTER_SETTINGS: Final = {
    "rp_filter": "0",
    "proxy_arp": "0",
    "arp_ignore": "0",
    "arp_filter": "0",
    "arp_announce": "0",
    "send_redirects": "0",
    "accept_redirects": "0",
    "accept_source_route": "0",
    "accept_local": "0",
    "route_localnet": "0",
}


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a node's VPCs are made."""

    namespace: str
    # Its underlay address.
    address: str
    region: str
    doors: Doors
    # Records and dnsmasq's files, lost with the namespaces when the host reboots.
    folder: Path
    # Who may open the taps; empty: root alone.
    tap_owner: str
    # Guards what VPCs share here: link addresses, public routes.
    lock: threading.Lock = field(default_factory=threading.Lock)
    _whole: set[VpcId] = field(default_factory=set)

    def open(self) -> None:
        """Raises Unavailable without the namespace and its leg on the underlay (deploy/fabric.py makes both)."""
        if not netns.namespace_stands(self.namespace):
            raise Unavailable(f"network namespace {self.namespace} is missing; `mallee up` makes it")
        make_folder(self.folder.parent)
        make_folder(self.folder)
        netns.settings(
            {
                "ipv4/ip_forward": "1",
                **{
                    f"ipv4/conf/{scope}/{name}": value
                    for scope in ("all", "default", netns.UNDERLAY)
                    for name, value in ROUTER_SETTINGS.items()
                },
                # Answer for public addresses at once, and believe a moved address at once.
                f"ipv4/neigh/{netns.UNDERLAY}/proxy_delay": "0",
                f"ipv4/neigh/{netns.UNDERLAY}/locktime": "0",
                "ipv6/conf/all/disable_ipv6": "1",
                "ipv6/conf/default/disable_ipv6": "1",
            },
            namespace=self.namespace,
        )
        self._make_rules()

    def mend(self) -> None:
        """What goes when the underlay's link goes down and does not come back with it: the way to public addresses
        elsewhere, and the answering for those here. And the rules, where somebody flushed them: then no VPC is whole.
        """
        if not netns.tables(self.namespace) >= node_rules.TABLES:
            self._whole.clear()
            self._make_rules()
        underlay = f"link show dev {netns.UNDERLAY}"
        with self.lock:
            links, routes, proxies = netns.show(underlay, "route show", "neigh show proxy", namespace=self.namespace)
            if "UP" not in links[0]["flags"]:
                return
            lines = []
            if all(route["dst"] != self.doors.public_pool for route in routes):
                lines = [f"route replace {self.doors.public_pool} dev {netns.UNDERLAY} src {self.address}"]
            unanswered = _published(routes) - {entry["dst"] for entry in proxies}
            lines += [f"neigh add proxy {address} dev {netns.UNDERLAY}" for address in sorted(unanswered)]
            netns.links(lines, namespace=self.namespace)

    @cached_property
    def guest_mtu(self) -> int:
        underlay = int(netns.link_kinds(self.namespace)[netns.UNDERLAY]["mtu"])
        return min(underlay - netns.VXLAN_OVERHEAD_BYTES, _LARGEST_GUEST_MTU)

    def is_whole(self, vpc_id: VpcId) -> bool:
        """Whether this process has made the VPC's namespace stand and it still does: it need not look again."""
        return vpc_id in self._whole and netns.namespace_stands(names.vpc_namespace(self.namespace, vpc_id))

    def note_whole(self, vpc_id: VpcId, whole: bool) -> None:
        if whole:
            self._whole.add(vpc_id)
        else:
            self._whole.discard(vpc_id)

    def vpcs(self) -> list[VpcId]:
        """Those whose namespace stands."""
        found = (names.vpc_of_namespace(self.namespace, name) for name in netns.namespaces())
        return [vpc for vpc in found if vpc]

    def ensure_uplink(self, vpc_id: VpcId, namespace: str) -> None:
        """A veth pair between the VPC and the node, each end the other's next hop, known without ARP."""
        mtu = self.guest_mtu
        node_end = names.uplink_name(vpc_id)
        with self.lock:
            mine = netns.link_kinds(self.namespace)
            theirs = netns.link_kinds(namespace)
            if names.UPLINK in theirs and node_end in mine:
                link = _link_address(theirs[names.UPLINK])
            else:
                if node_end in mine:
                    netns.links([f"link del {node_end}"], namespace=self.namespace)
                link = _free_link_address(vpc_id, mine)
                inner, outer = names.uplink_macs(link)
                netns.links(
                    [
                        f"link add {node_end} address {outer} mtu {mtu} type veth "
                        f"peer name {names.UPLINK} address {inner} mtu {mtu} netns {namespace}"
                    ],
                    namespace=self.namespace,
                )
        inner, outer = names.uplink_macs(link)
        netns.links(
            [
                f"link set {node_end} mtu {mtu} up alias {vpc_id}",
                f"route replace {link}/32 dev {node_end}",
                f"neigh replace {link} lladdr {inner} dev {node_end} nud permanent",
            ],
            namespace=self.namespace,
        )
        netns.links(
            [
                f"link set {names.UPLINK} mtu {mtu} up",
                f"addr replace {link}/32 dev {names.UPLINK}",
                f"neigh replace {names.NODE_HOP} lladdr {outer} dev {names.UPLINK} nud permanent",
                f"route replace default via {names.NODE_HOP} dev {names.UPLINK} onlink",
            ],
            namespace=namespace,
        )

    def published(self) -> set[str]:
        """Public addresses that this node answers for now."""
        [proxies] = netns.show("neigh show proxy", namespace=self.namespace)
        return {entry["dst"] for entry in proxies}

    def waiting_taps(self) -> dict[InterfaceId, VpcId]:
        """Taps that stand in the node's namespace, not plugged yet."""
        found = {}
        if netns.namespace_stands(self.namespace):
            for name, link in netns.link_kinds(self.namespace).items():
                vpc = str(link.get("ifalias", "")).rpartition("@")[2]
                if (interface := names.interface_of(name)) and VpcId.matches(vpc):
                    found[interface] = VpcId(vpc)
        return found

    def drop_uplink(self, vpc_id: VpcId) -> None:
        if not netns.namespace_stands(self.namespace):
            return
        with self.lock:
            present = netns.link_kinds(self.namespace)
            stale = [link for link in (names.uplink_name(vpc_id), names.overlay_name(vpc_id)) if link in present]
            netns.links((f"link del {link}" for link in stale), namespace=self.namespace)
            self._forget_proxies()

    def publish(self, vpc_id: VpcId, addresses: Iterable[str]) -> list[str]:
        """The node answers for exactly these addresses of the VPC; returns those that are new, and announced."""
        link = names.uplink_name(vpc_id)
        wanted = set(addresses)
        with self.lock:
            present, routes, proxies = netns.show(
                "link show", "route show", "neigh show proxy", namespace=self.namespace
            )
            hop = next((_link_address(found) for found in present if found["ifname"] == link), "")
            if not hop:
                return []
            held = {route["dst"] for route in routes if route.get("dev") == link} - {hop}
            answered = {entry["dst"] for entry in proxies}
            fresh = sorted(wanted - held)
            netns.links(
                [
                    *(f"route del {address}/32 dev {link}" for address in sorted(held - wanted)),
                    *(
                        f"neigh del proxy {address} dev {netns.UNDERLAY}"
                        for address in sorted((held - wanted) & answered)
                    ),
                    *(f"route replace {address}/32 via {hop} dev {link} onlink" for address in fresh),
                    *(f"neigh add proxy {address} dev {netns.UNDERLAY}" for address in sorted(wanted - answered)),
                ],
                namespace=self.namespace,
            )
        self.announce(fresh)
        return fresh

    def take_from(self, vni: int, *, come: Iterable[str] = (), go: Iterable[str] = ()) -> None:
        """From which nodes frames of a VPC are taken from now on, and from which no longer."""
        if netns.namespace_stands(self.namespace) and (text := node_rules.senders(vni, come=come, go=go)):
            netns.rules(text, namespace=self.namespace)

    def announce(self, addresses: Iterable[str]) -> None:
        """Gratuitous ARP: whoever knows the address believes from now on that it is here (RFC 5227)."""
        frames = list(addresses)
        if frames:
            netns.inside(self.namespace, lambda: _send_announcements(frames))

    def _make_rules(self) -> None:
        netns.rules(node_rules.node(self.doors) + node_rules.wire(), namespace=self.namespace)

    def _forget_proxies(self) -> None:
        routes, proxies = netns.show("route show", "neigh show proxy", namespace=self.namespace)
        orphans = sorted({entry["dst"] for entry in proxies} - _published(routes))
        netns.links(
            (f"neigh del proxy {address} dev {netns.UNDERLAY}" for address in orphans), namespace=self.namespace
        )


def _published(routes: list[dict[str, Any]]) -> set[str]:
    """Public addresses that lead to a VPC here."""
    return {r["dst"] for r in routes if "gateway" in r and names.vpc_of_uplink(str(r.get("dev", "")))}


def make_folder(path: Path) -> None:
    """dnsmasq reads here as a user of its own, whatever our umask is."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o755)


def _link_address(link: dict[str, Any]) -> str:
    high, low = link["address"].split(":")[4:]
    return f"169.254.{int(high, 16)}.{int(low, 16)}"


def _free_link_address(vpc_id: VpcId, links: dict[str, dict[str, Any]]) -> str:
    """Starts where the id points, so that repeated runs look alike, and steps over what is taken."""
    used = {_link_address(link) for name, link in links.items() if names.vpc_of_uplink(name)}
    size = names.LINK_RANGE.num_addresses - 512
    start = int(vpc_id[-8:], 16) % size
    for step in range(size):
        address = str(names.LINK_RANGE[256 + (start + step) % size])
        if address not in used:
            return address
    raise NoCapacity("this node has no link address left for another VPC")


def _send_announcements(addresses: list[str]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((netns.UNDERLAY, arp.ETHERTYPE))
        mac: bytes = wire.getsockname()[4]
        for address in addresses:
            wire.send(arp.request(mac=mac, sender=address, target=address))

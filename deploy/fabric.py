"""The host's part of the network: the bridge that joins this machine's virtual hosts, their namespaces, its firewall.

`ensure` is what `mallee up` calls as root, on a new host and on one that a reboot or a crash left half made; `destroy`
is what `mallee clean-cloud` calls: it also takes what node controllers left in their namespaces. All names carry the
cloud id. The host forwards packets only if the operator names an uplink, and then between that and our bridge alone.
"""

from __future__ import annotations

import ipaddress
import shutil
from pathlib import Path
from typing import Final

from common import netns
from common.config import CloudConfig, NodeConfig
from common.errors import CloudError

# Guests get the customary 1500 beside VXLAN's headers; the bridge is ours, so it can carry both.
UNDERLAY_MTU: Final = 1500 + netns.VXLAN_OVERHEAD_BYTES
_BRIDGE: Final = "br0"
_NO_IPV6: Final = {"ipv6/conf/all/disable_ipv6": "1", "ipv6/conf/default/disable_ipv6": "1"}


class FabricError(CloudError):
    """The host does not let the network be made. The message is one line that says what to do."""

    default_code = "InvalidConfiguration"


def host_link(config: CloudConfig) -> str:
    """The host's leg on the bridge: it bears the management address."""
    return f"m{config.cloud_id}br"


def switch_namespace(config: CloudConfig) -> str:
    return f"m{config.cloud_id}-switch"


def table_name(config: CloudConfig) -> str:
    return f"mallee_{config.cloud_id}"


def ensure(config: CloudConfig) -> None:
    """The fabric stands on return; what already stands is kept and no flow is cut. Raises FabricError."""
    check(config)
    leg = host_link(config)
    underlay = ipaddress.IPv4Network(config.network.underlay_cidr)
    _ensure_switch(config)
    netns.settings({f"ipv6/conf/{leg}/disable_ipv6": "1", f"ipv4/neigh/{leg}/locktime": "0"})
    # The rules stand before the first guest can speak.
    netns.rules(host_rules(config))
    netns.links(
        [
            f"link set {leg} mtu {UNDERLAY_MTU} up",
            f"addr replace {config.management_address}/{underlay.prefixlen} dev {leg}",
            f"route replace {config.network.public_pool} dev {leg} src {config.management_address}",
        ]
    )
    for node in _nodes(config):
        _ensure_node(config, node)
    _open_uplink(config)


def check(config: CloudConfig) -> None:
    """Raises FabricError if the underlay or the public pool is somebody else's on this host."""
    leg = host_link(config)
    ours = [
        (ipaddress.IPv4Network(config.network.underlay_cidr), "--underlay (network.underlay_cidr)"),
        (ipaddress.IPv4Network(config.network.public_pool), "--public-pool (network.public_pool)"),
    ]
    present = netns.link_kinds()
    for address in config.network.resolvers:
        if not _is_beyond(address, ours[0][0]):
            raise FabricError(f"network.resolvers names {address}, which is no IPv4 address beyond this machine")
    if config.network.uplink and config.network.uplink not in present:
        raise FabricError(f"network.uplink names {config.network.uplink}, and this machine has no such interface")
    for route in netns.show("route show table main")[0]:
        if route["dst"] == "default" or route.get("dev") == leg:
            continue
        for network, option in ours:
            if network.overlaps(ipaddress.IPv4Network(route["dst"])):
                where = route.get("dev", "nowhere")
                raise FabricError(f"{network} is routed to {where} on this host: choose a free range with {option}")
    underlay = ours[0][0]
    if ipaddress.IPv4Address(config.management_address) not in underlay:
        raise FabricError(f"management_address {config.management_address} is not in network.underlay_cidr {underlay}")


def destroy(config: CloudConfig) -> None:
    """Nothing that the cloud's network made on this host is left. Repeating it is safe."""
    prefix = f"m{config.cloud_id}-"
    state = Path(f"/run/mallee-{config.cloud_id}")
    # Longest first: VPCs before their nodes.
    for name in sorted((n for n in netns.namespaces() if n.startswith(prefix)), key=len, reverse=True):
        if "-vpc-" in name:
            netns.end_processes(name)
        # The kernel takes a namespace's links away some time after it; they are to be gone now.
        for link in netns.link_kinds(name):
            if link != "lo":
                netns.quietly(["ip", "-n", name, "link", "del", link])
        netns.delete_namespace(name)
    netns.quietly(["ip", "link", "del", host_link(config)])
    _close_uplink(config)
    netns.rules(f"table inet {table_name(config)}\ndelete table inet {table_name(config)}\n")
    shutil.rmtree(state, ignore_errors=True)


def host_rules(config: CloudConfig) -> str:
    """The host's own table. Pure. It drops on our leg alone and says nothing about any other interface, save that
    an uplink which forwards for our sake forwards to us alone."""
    leg, pool, uplink = host_link(config), config.network.public_pool, config.network.uplink
    table = table_name(config)
    passing, translation = "", ""
    if uplink:
        passing = f"""\
    iifname "{leg}" oifname "{uplink}" ip saddr {pool} accept
    iifname "{uplink}" oifname "{leg}" ip daddr {pool} accept
    iifname "{uplink}" oifname "{leg}" ct state established,related accept"""
        asking = ""
        if config.network.resolvers:
            # The nodes, in the name of their VPCs' name servers.
            asked = f"ip daddr {{ {', '.join(config.network.resolvers)} }} meta l4proto {{ tcp, udp }} th dport 53"
            asking = f'ip saddr {config.network.underlay_cidr} oifname "{uplink}" {asked}'
            passing += f'\n    iifname "{leg}" {asking} accept'
            asking = f"\n    {asking} masquerade"
        translation = f"""\
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {pool} oifname "{uplink}" masquerade{asking}
  }}"""
    return f"""\
table inet {table}
delete table inet {table}
table inet {table} {{
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname != "{leg}" accept
    meta nfproto ipv6 drop
    ct state established,related accept
    ip saddr {config.network.underlay_cidr} accept
    counter drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
{passing}
    iifname "{leg}" counter drop
    oifname "{leg}" counter drop
  }}
{translation}
}}
"""


def _is_beyond(address: str, underlay: ipaddress.IPv4Network) -> bool:
    try:
        found = ipaddress.IPv4Address(address)
    except ValueError:
        return False
    return found not in underlay and not (found.is_loopback or found.is_link_local or found.is_multicast)


def _mac(address: str) -> str:
    """Told from the underlay address, so that nobody's neighbour table is wrong after a repair."""
    return "02:4e:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(address).packed)


def _nodes(config: CloudConfig) -> list[NodeConfig]:
    return [node for zone in config.zones for node in zone.nodes if node.namespace]


def _ensure_switch(config: CloudConfig) -> None:
    """The bridge has a namespace to itself, so that the host's own rules for bridged packets (br_netfilter, on any host
    with containers) never meet the traffic between nodes."""
    switch, leg = switch_namespace(config), host_link(config)
    netns.ensure_namespace(switch)
    netns.settings({**_NO_IPV6, "ipv4/ip_forward": "0"}, namespace=switch)
    if _BRIDGE not in netns.link_kinds(switch):
        netns.links([f"link add {_BRIDGE} mtu {UNDERLAY_MTU} type bridge"], namespace=switch)
    netns.links(
        [
            f"link set {_BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {_BRIDGE} mtu {UNDERLAY_MTU} up",
        ],
        namespace=switch,
    )
    number = config.cloud_id[:2] + ":" + config.cloud_id[2:]
    _ensure_cable(switch, "host", namespace="", link=leg, mac=f"02:4d:42:00:{number}")


def _ensure_cable(switch: str, port: str, *, namespace: str, link: str, mac: str) -> None:
    """A veth pair from the bridge's `port` to `link` in a namespace (empty: the host's). Half a pair cannot stand."""
    if link not in netns.link_kinds(namespace):
        if port in netns.link_kinds(switch):
            netns.links([f"link del {port}"], namespace=switch)
        ends = f"link add {link} address {mac} mtu {UNDERLAY_MTU} type veth peer name {port} mtu {UNDERLAY_MTU}"
        netns.links([f"{ends} netns {switch}"], namespace=namespace)
    netns.links([f"link set {port} mtu {UNDERLAY_MTU} master {_BRIDGE} up"], namespace=switch)


def _ensure_node(config: CloudConfig, node: NodeConfig) -> None:
    underlay = ipaddress.IPv4Network(config.network.underlay_cidr)
    port = f"n{int(ipaddress.IPv4Address(node.address)) - int(underlay.network_address):x}"
    netns.ensure_namespace(node.namespace)
    netns.settings(_NO_IPV6, namespace=node.namespace)
    mac = _mac(node.address)
    _ensure_cable(switch_namespace(config), port, namespace=node.namespace, link=netns.UNDERLAY, mac=mac)
    lines = [
        "link set lo up",
        f"link set {netns.UNDERLAY} mtu {UNDERLAY_MTU} up",
        f"addr replace {node.address}/{underlay.prefixlen} dev {netns.UNDERLAY}",
        f"route replace {config.network.public_pool} dev {netns.UNDERLAY} src {node.address}",
    ]
    if config.network.uplink:
        lines.append(f"route replace default via {config.management_address} dev {netns.UNDERLAY}")
    elif any(route["dst"] == "default" for route in netns.show("route show", namespace=node.namespace)[0]):
        lines.append("route del default")
    netns.links(lines, namespace=node.namespace)


def _open_uplink(config: CloudConfig) -> None:
    """Forwarding on the two interfaces concerned, not on the whole host; what it was before is written down."""
    note = _uplink_note(config)
    uplink = config.network.uplink
    if note.exists() and note.read_text().split()[0] != uplink:
        _close_uplink(config)
    if not uplink:
        return
    if not note.exists():
        before = Path(f"/proc/sys/net/ipv4/conf/{uplink}/forwarding").read_text().strip()
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(f"{uplink} {before}\n")
    if note.read_text().split()[1] == "0":
        netns.rules(
            f'add rule inet {table_name(config)} forward iifname "{uplink}" oifname != "{host_link(config)}" drop\n'
        )
    for link in (host_link(config), uplink):
        netns.settings({f"ipv4/conf/{link}/forwarding": "1"})


def _close_uplink(config: CloudConfig) -> None:
    note = _uplink_note(config)
    if note.exists():
        uplink, before = note.read_text().split()
        if uplink in netns.link_kinds():
            netns.settings({f"ipv4/conf/{uplink}/forwarding": before})
        note.unlink()


def _uplink_note(config: CloudConfig) -> Path:
    return Path(f"/run/mallee-{config.cloud_id}/uplink")

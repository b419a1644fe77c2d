"""The host's part of the network: the bridge that joins this machine's virtual hosts, their namespaces, its firewall.

`ensure` is what `mallee up` calls as root, on a new host and on one that a reboot or a crash left half made; `destroy`
is what `mallee clean-cloud` calls: it also takes what node controllers left in their namespaces. All names carry the
cloud id. The host forwards packets only if the operator names an uplink, and then between that and our bridge alone.
"""

from __future__ import annotations

import ipaddress
import shutil
from pathlib import Path
from typing import Any, Final

from common.config import CloudConfig, NodeConfig
from common.errors import CloudError
from services.nc.net import dhcp, host, names

# Guests get the customary 1500 beside VXLAN's headers; the bridge is ours, so it can carry both.
UNDERLAY_MTU: Final = 1500 + names.VXLAN_OVERHEAD_BYTES


class FabricError(CloudError):
    """The host does not let the network be made. The message is one line that says what to do."""

    default_code = "InvalidConfiguration"


def bridge_name(config: CloudConfig) -> str:
    return f"m{config.cloud_id}br"


def table_name(config: CloudConfig) -> str:
    return f"mallee_{config.cloud_id}"


def ensure(config: CloudConfig) -> None:
    """The fabric stands on return; what already stands is kept and no flow is cut. Raises FabricError."""
    check(config)
    bridge = bridge_name(config)
    underlay = ipaddress.IPv4Network(config.network.underlay_cidr)
    tail = f"{int(config.cloud_id[:2], 16):02x}:{int(config.cloud_id[2:], 16):02x}"
    if bridge not in host.link_kinds():
        host.links([f"link add {bridge} address 02:4d:42:00:{tail} mtu {UNDERLAY_MTU} type bridge"])
    host.settings({f"ipv6/conf/{bridge}/disable_ipv6": "1", f"ipv4/neigh/{bridge}/locktime": "0"})
    # The rules stand before the first guest can speak.
    host.rules(host_rules(config))
    host.links(
        [
            f"link set {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {bridge} mtu {UNDERLAY_MTU} up",
            f"addr replace {config.management_address}/{underlay.prefixlen} dev {bridge}",
            f"route replace {config.network.public_pool} dev {bridge} src {config.management_address}",
        ]
    )
    for node in _nodes(config):
        _ensure_node(config, node)
    _open_uplink(config)


def check(config: CloudConfig) -> None:
    """Raises FabricError if the underlay or the public pool is somebody else's on this host."""
    bridge = bridge_name(config)
    ours = [
        (ipaddress.IPv4Network(config.network.underlay_cidr), "network.underlay_cidr"),
        (ipaddress.IPv4Network(config.network.public_pool), "network.public_pool"),
    ]
    present = host.link_kinds()
    if config.network.uplink and config.network.uplink not in present:
        raise FabricError(f"network.uplink names {config.network.uplink}, and this machine has no such interface")
    for route in host.show("route show table main")[0]:
        if route["dst"] == "default" or route.get("dev") == bridge:
            continue
        for network, key in ours:
            if network.overlaps(ipaddress.IPv4Network(route["dst"])):
                raise FabricError(
                    f"{network} is routed to {route.get('dev', 'nowhere')} on this host: set {key} to a free range"
                )
    for network, key in ours[:1]:
        if ipaddress.IPv4Address(config.management_address) not in network:
            raise FabricError(f"management_address {config.management_address} is not in {key} {network}")


def destroy(config: CloudConfig) -> None:
    """Nothing that the cloud's network made on this host is left. Repeating it is safe."""
    prefix = f"m{config.cloud_id}-"
    state = Path(f"/run/mallee-{config.cloud_id}")
    for pid in dhcp.processes_of(state):
        dhcp.end_process(pid)
    # Longest first: VPCs before their nodes.
    for name in sorted((n for n in host.namespaces() if n.startswith(prefix)), key=len, reverse=True):
        links = [link for link in host.link_kinds(name) if link[0] in "tpx" or link in (names.OVERLAY, names.UNDERLAY)]
        for link in links:
            host.quietly(["ip", "-n", name, "link", "del", link])
        host.delete_namespace(name)
    bridge = bridge_name(config)
    stale = [link for link in host.link_kinds() if link == bridge or link.startswith(f"m{config.cloud_id}v")]
    for link in stale:
        host.quietly(["ip", "link", "del", link])
    _close_uplink(config)
    host.rules(f"table inet {table_name(config)}\ndelete table inet {table_name(config)}\n")
    shutil.rmtree(state, ignore_errors=True)


def host_rules(config: CloudConfig) -> str:
    """The host's own table. Pure. It drops on our bridge alone and says nothing about any other interface, save that
    an uplink which forwards for our sake forwards to us alone."""
    bridge, pool, uplink = bridge_name(config), config.network.public_pool, config.network.uplink
    table = table_name(config)
    passing, translation = "", ""
    if uplink:
        passing = f"""\
    iifname "{bridge}" oifname "{uplink}" ip saddr {pool} accept
    iifname "{uplink}" oifname "{bridge}" ip daddr {pool} accept
    iifname "{uplink}" oifname "{bridge}" ct state established,related accept"""
        translation = f"""\
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {pool} oifname "{uplink}" masquerade
  }}"""
    return f"""\
table inet {table}
delete table inet {table}
table inet {table} {{
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname != "{bridge}" accept
    meta nfproto ipv6 drop
    ct state established,related accept
    ip saddr {config.network.underlay_cidr} accept
    counter drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
{passing}
    iifname "{bridge}" counter drop
    oifname "{bridge}" counter drop
  }}
{translation}
}}
"""


def _nodes(config: CloudConfig) -> list[NodeConfig]:
    return [node for zone in config.zones for node in zone.nodes if node.namespace]


def _ensure_node(config: CloudConfig, node: NodeConfig) -> None:
    bridge = bridge_name(config)
    underlay = ipaddress.IPv4Network(config.network.underlay_cidr)
    outer = f"m{config.cloud_id}v{int(ipaddress.IPv4Address(node.address)) - int(underlay.network_address):x}"
    host.ensure_namespace(node.namespace)
    inside, outside = host.link_kinds(node.namespace), host.link_kinds()
    if names.UNDERLAY not in inside:
        if outer in outside:
            host.links([f"link del {outer}"])
        mac = names.overlay_mac(node.address).replace("02:4d", "02:4e", 1)
        host.links(
            [
                f"link add {outer} mtu {UNDERLAY_MTU} type veth "
                f"peer name {names.UNDERLAY} address {mac} mtu {UNDERLAY_MTU} netns {node.namespace}"
            ]
        )
    host.settings({f"ipv6/conf/{outer}/disable_ipv6": "1"})
    host.links([f"link set {outer} mtu {UNDERLAY_MTU} master {bridge} up"])
    host.settings({"ipv6/conf/all/disable_ipv6": "1", "ipv6/conf/default/disable_ipv6": "1"}, namespace=node.namespace)
    lines = [
        "link set lo up",
        f"link set {names.UNDERLAY} mtu {UNDERLAY_MTU} up",
        f"addr replace {node.address}/{underlay.prefixlen} dev {names.UNDERLAY}",
        f"route replace {config.network.public_pool} dev {names.UNDERLAY} src {node.address}",
    ]
    if config.network.uplink:
        lines.append(f"route replace default via {config.management_address} dev {names.UNDERLAY}")
    elif any(route["dst"] == "default" for route in host.show("route show", namespace=node.namespace)[0]):
        lines.append("route del default")
    host.links(lines, namespace=node.namespace)


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
        host.rules(
            f'add rule inet {table_name(config)} forward iifname "{uplink}" oifname != "{bridge_name(config)}" drop\n'
        )
    for link in (bridge_name(config), uplink):
        host.settings({f"ipv4/conf/{link}/forwarding": "1"})


def _close_uplink(config: CloudConfig) -> None:
    note = _uplink_note(config)
    if note.exists():
        uplink, before = note.read_text().split()
        if uplink in host.link_kinds():
            host.settings({f"ipv4/conf/{uplink}/forwarding": before})
        note.unlink()


def _uplink_note(config: CloudConfig) -> Path:
    return Path(f"/run/mallee-{config.cloud_id}/uplink")


def describe(config: CloudConfig) -> dict[str, Any]:
    """What stands, for `mallee status` and for error reports."""
    return {
        "bridge": bridge_name(config) in host.link_kinds(),
        "namespaces": [name for name in host.namespaces() if name.startswith(f"m{config.cloud_id}-")],
    }

"""The nftables rulesets of a VPC's namespace, as text. Pure: what stands in them is what is enforced.

`guard` (one in family inet, one in arp) knows the interfaces plugged into this node: who may use which addresses, and
what of the namespace itself a guest may reach. `plan` knows the VPC's plan: groups and public addresses. Each replaces
its predecessor in one transaction, so that no packet meets half a ruleset.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.nc.net import names
from services.nc.net.policy import ICMP, TCP, UDP, Rule, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What the cloud lets guests reach beyond their VPC; the same for every VPC."""

    facade_address: str
    management_address: str
    facade_port: int
    public_pool: str
    underlay_cidr: str
    # Guests with a public address may talk to the world.
    leads_out: bool
    # Name servers of the world that a VPC's own one asks.
    resolvers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A guest's network card: what it may send as."""

    tap: str
    mac: str
    private: str


# Before fragments are put together (-400): a piece is asked where it comes from like a whole packet, so that nobody can
# slip pieces under a neighbour's address into that neighbour's datagrams.
_BEFORE_DEFRAGMENTATION = -450

# Where no guest may ever go through an uplink: link-local, loopback, multicast, reserved.
NEVER = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
RESOLVER_LINK_LOCAL = "169.254.169.253"

# As `guard` and `plan` make them.
TABLES = frozenset({"arp guard", "inet guard", "inet plan"})


def guard(cards: Sequence[Card], vpc_cidr: str, doors: Doors) -> str:
    """Drops what no plugged interface may send, and what the namespace itself need not hear.

    Guests see the VPC's range, the metadata service, the resolver and the facade by ARP, and nothing else. The DHCP
    server hears of a card (BOOTP's chaddr, 28 bytes into it) from that card alone and through no relay (giaddr): else
    a guest could decline its neighbour's address, and the server would withhold it.
    """
    resolver = names.resolver_of(vpc_cidr)
    heard = ", ".join([str(ipaddress.IPv4Network(vpc_cidr)), *_service_addresses(doors)])
    bound = _elements(f'"{card.tap}" . {card.mac} . {card.private}' for card in cards)
    owned = _elements(f'"{card.tap}" . {card.mac}' for card in cards)
    asking = _elements(f'"{card.tap}" . 0x{card.mac.replace(":", "")}' for card in cards)
    return f"""\
table arp guard
delete table arp guard
table arp guard {{
  set bound {{ typeof iifname . arp saddr ether . arp saddr ip; {bound} }}
  set cards {{ typeof iifname . arp saddr ether; {owned} }}
  set frames {{ typeof iifname . ether saddr; {owned} }}
  chain input {{
    type filter hook input priority filter; policy drop;
    arp operation != {{ request, reply }} drop
    iifname . ether saddr != @frames drop
    arp daddr ip != {{ {heard} }} drop
    iifname . arp saddr ether . arp saddr ip @bound accept
    arp saddr ip 0.0.0.0 iifname . arp saddr ether @cards accept
  }}
}}
table inet guard
delete table inet guard
table inet guard {{
  set bound {{ typeof iifname . ether saddr . ip saddr; {bound} }}
  set cards {{ typeof iifname . ether saddr; {owned} }}
  set asking {{ typeof iifname . @th,288,48; {asking} }}
  chain prerouting {{
    type filter hook prerouting priority {_BEFORE_DEFRAGMENTATION}; policy drop;
    meta nfproto ipv6 drop
    iifname {{ "lo", "{names.UPLINK}", "{names.OVERLAY}" }} accept
    iifname . ether saddr @cards ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept
    udp sport 67 counter drop
    udp dport 68 counter drop
    iifname . ether saddr . ip saddr @bound accept
    counter
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    ct state invalid drop
    ct state established,related accept
    iifname "t*" udp dport 67 @th,256,32 0 iifname . @th,288,48 @asking accept
    iifname "t*" ip daddr {{ {resolver}, {RESOLVER_LINK_LOCAL} }} meta l4proto {{ tcp, udp }} th dport 53 accept
    iifname "t*" ip daddr {names.METADATA} tcp dport 80 accept
  }}
}}
"""


def plan(view: View, doors: Doors) -> str:
    """Groups, members and public addresses of a VPC on one node; an empty view lets nothing pass.

    The rules are asked for every packet of a flow's original direction, so a revoked rule holds at once; replies pass
    while conntrack knows the flow, and `flows` takes the revoked ones away.
    """
    local = sorted(view.local, key=lambda member: member.private)
    combinations = sorted({member.groups for member in local})
    index = {groups: number for number, groups in enumerate(combinations)}
    published = [member for member in local if member.public]
    return "\n".join(
        [
            "table inet plan",
            "delete table inet plan",
            "table inet plan {",
            _named_set("local", (member.private for member in local)),
            _named_set("remote", (member.private for member in view.remote)),
            _named_set("published", (member.private for member in published)),
            *(_named_set(_set_name(group), view.in_group(group)) for group in _referenced(view, combinations)),
            _map("public_to_private", "ipv4_addr", (f"{m.public} : {m.private}" for m in published)),
            _map("private_to_public", "ipv4_addr", (f"{m.private} : {m.public}" for m in published)),
            *(_chain(f"out_{index[c]}", view.egress_of(c), "daddr") for c in combinations),
            *(_chain(f"in_{index[c]}", view.ingress_of(c), "saddr") for c in combinations),
            _map("egress", "verdict", (f"{m.private} : jump out_{index[m.groups]}" for m in local)),
            _map("ingress", "verdict", (f"{m.private} : jump in_{index[m.groups]}" for m in local)),
            _forward(doors),
            _translation(doors),
            "}",
            "",
        ]
    )


def _forward(doors: Doors) -> str:
    up, overlay = names.UPLINK, names.OVERLAY
    out = ""
    if doors.leads_out:
        never = ", ".join([doors.underlay_cidr, *NEVER])
        out = f'iifname "t*" oifname "{up}" ip saddr @published ip daddr != {{ {never} }} accept'
    return f"""\
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state invalid drop
    ct state established ct direction reply accept
    ct state related meta l4proto icmp accept
    iifname "{overlay}" ip saddr != @remote drop
    iifname "t*" ip saddr != @local drop
    iifname "t*" oifname "{up}" ct original ip daddr {doors.facade_address} ct status dnat accept
    iifname "t*" ip saddr vmap @egress
    iifname "t*" oifname "{up}" ip saddr @published ip daddr {doors.public_pool} accept
    {out}
    iifname "t*" oifname "{overlay}" ip daddr @remote accept
    oifname "t*" ip daddr != @local drop
    oifname "t*" ip daddr vmap @ingress
    iifname "t*" oifname "t*" accept
    iifname "{overlay}" oifname "t*" accept
    iifname "{up}" oifname "t*" ct status dnat accept
  }}"""


def _translation(doors: Doors) -> str:
    """Public addresses are translated at the uplink alone: a packet to a neighbour's public address goes out and comes
    back, so its source is a public one wherever the neighbour runs, as on AWS."""
    up = names.UPLINK
    target = f"{doors.management_address}:{doors.facade_port}"
    return f"""\
  chain dstnat {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "{up}" dnat ip to ip daddr map @public_to_private
    iifname "t*" ip daddr {doors.facade_address} tcp dport {doors.facade_port} dnat ip to {target}
  }}
  chain srcnat {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "{up}" ct original ip daddr {doors.facade_address} masquerade
    oifname "{up}" snat ip to ip saddr map @private_to_public
  }}"""


def _chain(name: str, rules: Iterable[Rule], peer_field: str) -> str:
    """Returns to the caller what a rule allows and drops the rest."""
    lines = dict.fromkeys(f"    {_match(rule, peer_field)} return" for rule in rules)
    return "\n".join([f"  chain {name} {{", *lines, "    counter drop", "  }"])


def _match(rule: Rule, peer_field: str) -> str:
    peer = f"@{_set_name(rule.peer)}" if isinstance(rule.peer, str) else str(rule.peer)
    parts = [f"ip {peer_field} {peer}"]
    match rule.protocol:
        case None:
            pass
        case protocol if protocol in (TCP, UDP):
            parts.append(f"meta l4proto {protocol}")
            if rule.first != -1:
                parts.append(
                    f"th dport {rule.first}-{rule.last}" if rule.first != rule.last else f"th dport {rule.first}"
                )
        case protocol if protocol == ICMP:
            parts.append("meta l4proto icmp")
            if rule.first != -1:
                parts.append(f"icmp type {rule.first}")
                if rule.last != -1:
                    parts.append(f"icmp code {rule.last}")
        case protocol:
            parts.append(f"meta l4proto {protocol}")
    return " ".join(parts)


def _referenced(view: View, combinations: Iterable[tuple[str, ...]]) -> list[str]:
    rules = (rule for groups in combinations for rule in (*view.ingress_of(groups), *view.egress_of(groups)))
    return sorted({rule.peer for rule in rules if isinstance(rule.peer, str)})


def _set_name(group_id: str) -> str:
    return group_id.replace("-", "_")


def _service_addresses(doors: Doors) -> tuple[str, ...]:
    return (names.METADATA, RESOLVER_LINK_LOCAL, doors.facade_address)


def _elements(items: Iterable[str]) -> str:
    joined = ", ".join(items)
    return f"elements = {{ {joined} }};" if joined else ""


def _named_set(name: str, addresses: Iterable[str]) -> str:
    return f"  set {name} {{ type ipv4_addr; {_elements(sorted(addresses))} }}"


def _map(name: str, value: str, items: Iterable[str]) -> str:
    return f"  map {name} {{ type ipv4_addr : {value}; {_elements(sorted(items))} }}"


def own_addresses(vpc_cidr: str, doors: Doors) -> list[str]:
    """Addresses that the VPC's namespace itself answers for, beside the gateways."""
    return [names.resolver_of(vpc_cidr), *_service_addresses(doors)]

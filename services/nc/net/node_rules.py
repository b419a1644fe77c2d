"""The nftables rulesets of a node's namespace, as text. Pure.

`node`: between the VPCs' uplinks and the underlay only public addresses and the way to the facade pass; the node itself
hears nothing from a guest. Taps that wait here to be plugged are deaf.
`wire`: a VPC's frames are taken from the nodes that have a member of it, by its plan, and from nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from common import netns
from services.nc.net import names
from services.nc.net.ruleset import NEVER, Doors

# As `node` and `wire` make them.
TABLES: Final = frozenset({"arp node", "inet node", "inet wire"})


def node(doors: Doors) -> str:
    under = netns.UNDERLAY
    out = ""
    if doors.leads_out:
        never = ", ".join([doors.underlay_cidr, *NEVER])
        out = f'iifname "p*" oifname "{under}" ip saddr {doors.public_pool} ip daddr != {{ {never} }} accept'
    if doors.resolvers:
        # The VPCs' own name servers ask, nobody else in a VPC has such an address.
        out += f"""
    iifname "p*" oifname "{under}" ip saddr {names.LINK_RANGE} ip daddr {{ {", ".join(doors.resolvers)} }} \
meta l4proto {{ tcp, udp }} th dport 53 accept"""
    return f"""\
table arp node
delete table arp node
table arp node {{
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "t*" drop
    iifname "p*" drop
  }}
}}
table inet node
delete table inet node
table inet node {{
  chain prerouting {{
    type filter hook prerouting priority raw; policy accept;
    iifname "t*" drop
    iifname "{under}" ip saddr {names.LINK_RANGE} drop
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "p*" drop
    ct state established,related accept
    iifname "{under}" ip saddr != {doors.underlay_cidr} drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state invalid drop
    ct state established,related accept
    iifname "p*" oifname "{under}" ip saddr {names.LINK_RANGE} ip daddr {doors.management_address} \
tcp dport {doors.facade_port} accept
    iifname "p*" ip saddr {doors.public_pool} ip daddr {doors.public_pool} accept
    iifname "{under}" oifname "p*" ip daddr {doors.public_pool} accept
    {out}
  }}
  chain srcnat {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "{under}" ip saddr {names.LINK_RANGE} masquerade
  }}
}}
"""


def wire() -> str:
    """What it knows of VPCs stays when it is made anew: a new node controller must not cut their flows meanwhile.

    A VXLAN header begins 8 bytes into UDP, its VNI another 4 later (RFC 7348).
    """
    return f"""\
{_SENDERS}
table inet wire {{
  chain input {{
    type filter hook input priority filter; policy accept;
  }}
}}
flush chain inet wire input
table inet wire {{
  chain input {{
    udp dport {names.VXLAN_PORT} iifname != "{netns.UNDERLAY}" drop
    udp dport {names.VXLAN_PORT} @th,96,24 . ip saddr != @senders counter drop
  }}
}}
"""


def senders(vni: int, *, come: Iterable[str] = (), go: Iterable[str] = ()) -> str:
    """Underlay addresses by which frames of a VPC come from now on, and no longer. Repeating it changes nothing."""
    gone = sorted(go)
    lines = [f"add element inet wire senders {{ {vni} . {node} }}" for node in [*sorted(come), *gone]]
    lines += [f"delete element inet wire senders {{ {vni} . {node} }}" for node in gone]
    return "\n".join([_SENDERS, *lines, ""]) if lines else ""


_SENDERS: Final = "table inet wire {\n  set senders { typeof @th,96,24 . ip saddr; }\n}"

"""The nftables ruleset of a node's namespace, as text. Pure.

Between the VPCs' uplinks and the underlay only public addresses and the way to the facade pass; the node itself hears
nothing from a guest. Taps that wait here to be plugged are deaf.
"""

from __future__ import annotations

from common import netns
from services.nc.net import names
from services.nc.net.ruleset import NEVER, Doors


def node(doors: Doors) -> str:
    under = netns.UNDERLAY
    out = ""
    if doors.leads_out:
        never = ", ".join([doors.underlay_cidr, *NEVER])
        out = f'iifname "p*" oifname "{under}" ip saddr {doors.public_pool} ip daddr != {{ {never} }} accept'
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

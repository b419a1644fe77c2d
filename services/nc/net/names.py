"""What the network is called on a host: namespaces, links, hardware addresses and internal DNS names. Pure.

A link's name has 15 characters, an id 17 hex digits (68 bits): base 32 makes them fit, so every name can be read back
into its id and the host alone says what is there.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from common.ids import InterfaceId, VpcId

# Inside a VPC's namespace.
UPLINK: Final = "up0"
OVERLAY: Final = "vx0"

METADATA: Final = "169.254.169.254"
# Uplink veths of VPC namespaces take their addresses from here; no VPC range may collide with link-local.
LINK_RANGE: Final = ipaddress.IPv4Network("169.254.0.0/17")
# The two ends as each other's next hop; they stand only in static neighbour entries.
NODE_HOP: Final = "169.254.127.254"
VXLAN_PORT: Final = 4789

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuv"
_WIDTH: Final = 14


def tap_name(interface_id: InterfaceId) -> str:
    return "t" + _pack(interface_id)


def uplink_name(vpc_id: VpcId) -> str:
    """The node's end of the VPC's uplink."""
    return "p" + _pack(vpc_id)


def overlay_name(vpc_id: VpcId) -> str:
    """The VXLAN device before it has moved into the VPC's namespace."""
    return "x" + _pack(vpc_id)


def interface_of(link: str) -> InterfaceId | None:
    tail = _unpack("t", link)
    return InterfaceId(f"eni-{tail}") if tail else None


def vpc_of_uplink(link: str) -> VpcId | None:
    tail = _unpack("p", link)
    return VpcId(f"vpc-{tail}") if tail else None


def vpc_namespace(node_namespace: str, vpc_id: VpcId) -> str:
    return f"{node_namespace}-{vpc_id}"


def vpc_of_namespace(node_namespace: str, name: str) -> VpcId | None:
    tail = name.removeprefix(f"{node_namespace}-")
    return VpcId(tail) if tail != name and VpcId.matches(tail) else None


def overlay_mac(node_address: str) -> str:
    """Every node's overlay devices have one address, told from its underlay address."""
    return "02:4d:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(node_address).packed)


def uplink_macs(link_address: str) -> tuple[str, str]:
    """(VPC's end, node's end) of the uplink whose VPC end has `link_address`."""
    tail = ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(link_address).packed[2:])
    return f"02:4d:56:01:{tail}", f"02:4d:56:02:{tail}"


def tap_mac(guest_mac: str) -> str:
    """The router's side of a guest's link: higher than the guest's, and the same for the guest's whole life."""
    return "fe:" + guest_mac.split(":", 1)[1]


def gateway_of(subnet_cidr: str) -> str:
    return str(ipaddress.IPv4Network(subnet_cidr)[1])


def resolver_of(vpc_cidr: str) -> str:
    return str(ipaddress.IPv4Network(vpc_cidr)[2])


def internal_domain(region: str) -> str:
    """https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/hostname-types.html"""
    return "ec2.internal" if region == "us-east-1" else f"{region}.compute.internal"


def private_host(private_ipv4: str) -> str:
    return "ip-" + private_ipv4.replace(".", "-")


def _pack(resource_id: str) -> str:
    number = int(resource_id.rpartition("-")[2], 16)
    digits = []
    for _ in range(_WIDTH):
        number, digit = divmod(number, 32)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def _unpack(kind: str, link: str) -> str:
    """The 17 hex digits in a link's name; empty if it is none of ours."""
    body = link[1:]
    if not link.startswith(kind) or len(body) != _WIDTH or any(c not in _DIGITS for c in body):
        return ""
    number = int(body, 32)
    return f"{number:017x}" if number < 1 << 68 else ""

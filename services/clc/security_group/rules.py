"""Security group rules: from EC2's permissions to records, one per peer, and back. Pure.

(API reference: IpPermission, AuthorizeSecurityGroupIngress; VPC User Guide, "Security group rules".)
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from common.errors import InvalidArgument, Unsupported
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import security_group_pb2 as ec2

Rule = record_pb2.SecurityGroupRuleRecord

MAX_RULES: Final = 60
_NAMES: Final = {"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6", "all": "-1"}
_WITH_PORTS: Final = frozenset({"tcp", "udp"})
_ICMP: Final = frozenset({"icmp", "icmpv6"})
_NUMBER: Final = re.compile(r"[0-9]{1,3}\Z")
# An address and a number of bits: Python takes netmasks and scopes too.
_CIDR: Final = re.compile(r"[0-9a-fA-F.:]+/[0-9]{1,3}\Z")
_DESCRIPTION: Final = re.compile(r"[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{0,255}\Z")

# A UserIdGroupPair → (group id, its account), or NotFound.
FindGroup = Callable[[ec2.UserIdGroupPair], tuple[str, str]]


def rules_of(permissions: Iterable[ec2.IpPermission], *, egress: bool, find_group: FindGroup) -> list[Rule]:
    """One rule per CIDR or group, without ids. Raises InvalidArgument in EC2's words."""
    found: list[Rule] = []
    for permission in permissions:
        found += _rules_of(permission, egress=egress, find_group=find_group)
    if len({meaning(rule) for rule in found}) < len(found):
        raise InvalidArgument("The same permission must not appear multiple times")
    return found


def _rules_of(permission: ec2.IpPermission, *, egress: bool, find_group: FindGroup) -> list[Rule]:
    if permission.prefix_list_ids:
        raise Unsupported("PrefixListIds is not supported: this cloud has no prefix lists.")
    protocol = _protocol(permission.ip_protocol)
    from_port, to_port = _ports(protocol, permission)

    def rule(description: str) -> Rule:
        check_description(description)
        return Rule(egress=egress, protocol=protocol, from_port=from_port, to_port=to_port, description=description)

    found = []
    for ip_range in permission.ip_ranges:
        new = rule(ip_range.description)
        new.cidr_ipv4 = _cidr(ip_range.cidr_ip, ipaddress.IPv4Network)
        found.append(new)
    for ipv6_range in permission.ipv6_ranges:
        new = rule(ipv6_range.description)
        new.cidr_ipv6 = _cidr(ipv6_range.cidr_ipv6, ipaddress.IPv6Network)
        found.append(new)
    for pair in permission.user_id_group_pairs:
        new = rule(pair.description)
        new.group_id, new.group_account_id = find_group(pair)
        found.append(new)
    if not found:
        raise InvalidArgument("The permission names no CIDR block and no security group", code="MissingParameter")
    return found


def check_description(description: str) -> None:
    if not _DESCRIPTION.match(description):
        raise InvalidArgument("Invalid rule description. Valid descriptions are strings less than 256 characters.")


def _protocol(given: str) -> str:
    if not given:
        raise InvalidArgument("The request must contain the parameter IpProtocol", code="MissingParameter")
    name = _NAMES.get(given.lower(), given.lower())
    if name in _WITH_PORTS or name in _ICMP or name == "-1":
        return name
    if _NUMBER.match(name) and int(name) <= 255:
        return _NAMES.get(str(int(name)), str(int(name)))
    raise InvalidArgument(f"Invalid value '{given}' for IP protocol. Unknown protocol.")


def _ports(protocol: str, permission: ec2.IpPermission) -> tuple[int, int]:
    if protocol not in _WITH_PORTS and protocol not in _ICMP:
        return -1, -1
    if not permission.HasField("from_port") or not permission.HasField("to_port"):
        if protocol in _ICMP:
            return -1, -1
        raise InvalidArgument("Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange.")
    low, high = permission.from_port, permission.to_port
    if protocol in _ICMP:
        if not -1 <= low <= 255 or not -1 <= high <= 255:
            raise InvalidArgument(f"ICMP code ({high}) and type ({low}) must be between -1 and 255")
        return low, high
    if (low, high) == (-1, -1):
        return 0, 65535
    if not 0 <= low <= 65535 or not 0 <= high <= 65535:
        raise InvalidArgument(
            f"Invalid value '{low if not 0 <= low <= 65535 else high}' for portRange. Must be 0-65535."
        )
    if low > high:
        raise InvalidArgument(f"Invalid TCP/UDP port range ({low}:{high})")
    return low, high


def _cidr(given: str, network: type[ipaddress.IPv4Network] | type[ipaddress.IPv6Network]) -> str:
    """Its canonical form: host bits cut off, as EC2 keeps it."""
    try:
        if not _CIDR.match(given):
            raise ValueError(given)
        return str(network(given, strict=False))
    except ValueError:
        raise InvalidArgument(f"CIDR block {given} is malformed") from None


def meaning(rule: Rule) -> tuple[object, ...]:
    """What it allows: id, description and tags do not count."""
    return (
        rule.egress,
        rule.protocol,
        rule.from_port,
        rule.to_port,
        rule.cidr_ipv4,
        rule.cidr_ipv6,
        rule.group_id,
    )


def words(rule: Rule) -> str:
    """As in InvalidPermission.Duplicate."""
    peer = rule.cidr_ipv4 or rule.cidr_ipv6 or rule.group_id
    if rule.protocol == "-1":
        return f"peer: {peer}, ALL, ALLOW"
    ports = f", from port: {rule.from_port}, to port: {rule.to_port}" if rule.protocol in _WITH_PORTS else ""
    return f"peer: {peer}, {rule.protocol.upper()}{ports}, ALLOW"


def permissions_of(rules: Sequence[Rule], *, egress: bool) -> list[ec2.IpPermission]:
    """Grouped by protocol and ports, in the order the rules came."""
    grouped: dict[tuple[str, int, int], ec2.IpPermission] = {}
    for rule in rules:
        if rule.egress is not egress:
            continue
        key = (rule.protocol, rule.from_port, rule.to_port)
        permission = grouped.setdefault(key, _bare_permission(rule))
        description = rule.description or None
        if rule.cidr_ipv4:
            permission.ip_ranges.add(cidr_ip=rule.cidr_ipv4, description=description)
        elif rule.cidr_ipv6:
            permission.ipv6_ranges.add(cidr_ipv6=rule.cidr_ipv6, description=description)
        else:
            permission.user_id_group_pairs.add(
                group_id=rule.group_id, user_id=rule.group_account_id, description=description
            )
    return list(grouped.values())


def _bare_permission(rule: Rule) -> ec2.IpPermission:
    if rule.protocol in _WITH_PORTS or rule.protocol in _ICMP:
        return ec2.IpPermission(ip_protocol=rule.protocol, from_port=rule.from_port, to_port=rule.to_port)
    return ec2.IpPermission(ip_protocol=rule.protocol)

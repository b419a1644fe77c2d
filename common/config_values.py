"""What single values of the configuration may be. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any, Final


def _port(value: int) -> None:
    if not 1 <= value <= 65535:
        raise ValueError(f"{value} is no port: expected 1 to 65535")


def _any_port(value: int) -> None:
    """0: any that is free."""
    if value:
        _port(value)


def _processes(value: int) -> None:
    if not 1 <= value <= MOST_PROCESSES:
        raise ValueError(f"{value}: expected 1 to {MOST_PROCESSES}")


def _endpoint(value: str) -> None:
    host, _, port = value.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]+", port):
        raise ValueError(f"{value!r}: expected host:port")
    _port(int(port))


def _cloud_id(value: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{4}", value):
        raise ValueError(f"{value!r}: expected four hex digits")


# Of one service on a host.
MOST_PROCESSES: Final = 16

# By key, in whichever table it stands; of a list, each entry.
CHECKS: Final[dict[str, Callable[[Any], object]]] = {
    "cloud_id": _cloud_id,
    "port": _port,
    "metrics_port": _any_port,
    "cc_port": _port,
    "cc_metrics_port": _any_port,
    "sc_port": _any_port,
    "sc_metrics_port": _any_port,
    "processes": _processes,
    "endpoints": _endpoint,
    "listen": ipaddress.ip_address,
    "trusted_proxies": ipaddress.ip_network,
    "management_address": ipaddress.IPv4Address,
    "address": ipaddress.IPv4Address,
    "guest_facade_address": ipaddress.IPv4Address,
    "resolvers": ipaddress.IPv4Address,
    "underlay_cidr": ipaddress.IPv4Network,
    "public_pool": ipaddress.IPv4Network,
    "default_vpc_cidr": ipaddress.IPv4Network,
}

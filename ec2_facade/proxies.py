"""Proxies in front of the facade that the operator trusts: what they say of the client stands for what they are."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    address: str
    # Over TLS, as far as the last proxy that is trusted.
    secure: bool


class Proxies:
    """`trusted`: addresses and networks. None: nobody's word counts."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._trusted = tuple(ipaddress.ip_network(network) for network in trusted)

    def __bool__(self) -> bool:
        """There are some."""
        return bool(self._trusted)

    def origin(self, peer: Origin, forwarded_for: Sequence[str], forwarded_proto: Sequence[str]) -> Origin:
        """`forwarded_*`: the values of X-Forwarded-For and X-Forwarded-Proto, to whose right end each proxy adds."""
        if not self._trusted or not self.trusts(peer.address):
            return peer
        address = peer.address
        for named in reversed(_items(forwarded_for)):
            if not _is_address(named):
                break
            address = named
            if not self.trusts(named):
                break
        schemes = _items(forwarded_proto)
        return Origin(address=address, secure=schemes[-1].lower() == "https" if schemes else peer.secure)

    def trusts(self, address: str) -> bool:
        """It is one of them."""
        return _is_address(address) and any(ipaddress.ip_address(address) in network for network in self._trusted)


def _items(values: Sequence[str]) -> list[str]:
    return [item.strip() for value in values for item in value.split(",") if item.strip()]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

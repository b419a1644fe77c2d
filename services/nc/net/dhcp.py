"""dnsmasq inside a VPC's namespace: DHCP for the interfaces plugged here and DNS for all of the VPC's members.

It outlives its node controller, which finds it again by pid file and checks that the process serves this very
namespace.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common import netns
from services.nc.net import names
from services.nc.net.policy import View
from services.nc.net.ruleset import RESOLVER_LINK_LOCAL, Card

_LEASE_S: Final = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What the guests of a VPC are told beside their addresses."""

    vpc_cidr: str
    subnets: tuple[str, ...]
    # Of private names; addresses have no public ones.
    domain: str
    facade_address: str
    mtu: int
    # Asked for what is not the VPC's.
    resolvers: tuple[str, ...] = ()


def configuration(scope: Scope, folder: Path) -> str:
    """dnsmasq.conf. Without resolvers a name that is not the VPC's is refused, and nothing is asked of the world."""
    lines = [
        "no-resolv",
        *(f"server={address}" for address in scope.resolvers),
        # Names and addresses that only the VPC could know are nobody else's to hear.
        "domain-needed",
        "bogus-priv",
        "no-hosts",
        "no-ping",
        "bind-dynamic",
        "interface=t*",
        f"listen-address={names.resolver_of(scope.vpc_cidr)},{RESOLVER_LINK_LOCAL}",
        "dhcp-authoritative",
        "dhcp-no-override",
        # A client's name for itself may be its neighbour's.
        "dhcp-ignore-clid",
        f"dhcp-leasefile={folder / 'leases'}",
        f"dhcp-hostsfile={folder / 'dhcp-hosts'}",
        f"addn-hosts={folder / 'dns-hosts'}",
        f"pid-file={folder / 'dnsmasq.pid'}",
        f"domain={scope.domain}",
        f"local=/{scope.domain}/",
        "local-ttl=5",
        "quiet-dhcp",
        f"dhcp-option=26,{scope.mtu}",
        f"dhcp-option=6,{names.resolver_of(scope.vpc_cidr)}",
        f"dhcp-option=15,{scope.domain}",
    ]
    for number, cidr in enumerate(scope.subnets):
        network = ipaddress.IPv4Network(cidr)
        gateway = names.gateway_of(cidr)
        # Clients that take option 121 ignore option 3, so the default route stands in both (RFC 3442).
        routes = [f"0.0.0.0/0,{gateway}", *(f"{a}/32,{gateway}" for a in (names.METADATA, scope.facade_address))]
        lines += [
            f"dhcp-range=set:s{number},{network.network_address},static,{network.netmask},{_LEASE_S}",
            f"dhcp-option=tag:s{number},3,{gateway}",
            f"dhcp-option=tag:s{number},121,{','.join(routes)}",
        ]
    return "\n".join(lines) + "\n"


def dhcp_hosts(cards: Iterable[Card]) -> str:
    """An address that two cards have for a moment goes to the later one; dnsmasq refuses both otherwise."""
    owners = {card.private: card.mac for card in cards}
    return "".join(f"{mac},{address},{names.private_host(address)}\n" for address, mac in owners.items())


def dns_hosts(view: View, cards: Iterable[Card], region: str) -> str:
    """Internal names of every member."""
    domain = names.internal_domain(region)
    known = {card.private for card in cards} | set(view.members)
    lines = []
    for address in sorted(known, key=ipaddress.IPv4Address):
        host_name = names.private_host(address)
        lines.append(f"{address} {host_name}.{domain} {host_name}\n")
    return "".join(lines)


class Dnsmasq:
    """The one dnsmasq of a VPC on a node."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self._folder = folder
        self._namespace = namespace

    def serve(self, config: str, hosts: str, dns: str) -> None:
        """Runs with exactly this on return; left alone if it already does."""
        stale_lease = self._holds_other_lease(hosts)
        reconfigured = _write(self._folder / "dnsmasq.conf", config)
        renamed = [_write(self._folder / "dhcp-hosts", hosts), _write(self._folder / "dns-hosts", dns)]
        pid = self._running()
        if pid and not reconfigured and not stale_lease:
            if any(renamed):
                os.kill(pid, signal.SIGHUP)
            return
        self.stop()
        self._folder.chmod(0o755)
        if stale_lease:
            # An address that changed hands stays with its old card until the lease ends. The guests' addresses are
            # all fixed, so a server without memory gives every one of them the same answer.
            (self._folder / "leases").unlink(missing_ok=True)
        netns.run(["dnsmasq", f"--conf-file={self._folder / 'dnsmasq.conf'}"], namespace=self._namespace)

    def stop(self) -> None:
        """Nothing of it runs on return."""
        if pid := self._running():
            self._end(pid)

    @staticmethod
    def _end(pid: int) -> None:
        if not netns.end_process(pid, signal.SIGTERM):
            netns.end_process(pid, signal.SIGKILL)

    def _running(self) -> int:
        """Its pid; 0 if none serves this namespace (pids are used again, namespaces are made again)."""
        try:
            pid = int((self._folder / "dnsmasq.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if f"--conf-file={self._folder / 'dnsmasq.conf'}".encode() not in command:
                return 0
            same = os.stat(f"/proc/{pid}/ns/net").st_ino == (netns.NETNS / self._namespace).stat().st_ino
        except (OSError, ValueError):
            return 0
        if not same:
            self._end(pid)
            return 0
        return pid

    def _holds_other_lease(self, hosts: str) -> bool:
        try:
            leases = (self._folder / "leases").read_text().splitlines()
        except FileNotFoundError:
            return False
        owner = {address: mac for mac, address, _ in (line.split(",") for line in hosts.splitlines())}
        held = [line.split() for line in leases if len(line.split()) >= 3]
        return any(owner.get(words[2], words[1]) != words[1] for words in held)


def _write(path: Path, text: str) -> bool:
    """Whether the file had to change. It changes at once, whole. dnsmasq reads it as its own user."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_text() == text:
            return False
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)
    return True

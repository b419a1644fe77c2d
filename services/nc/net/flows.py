"""Which tracked flows of a VPC are no longer allowed, and taking exactly those out of the kernel.

Deciding is pure. The ruleset already drops a revoked flow's further packets in its original direction; without its
entry the answers end too, and a connection picked up in the middle starts none (nf_conntrack_tcp_loose is off).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common import netns
from services.nc.net.policy import ICMP, Packet, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A conntrack entry. `target` and `back` are what address translation made of `destination` and `source`."""

    protocol: int
    source: str
    destination: str
    target: str
    back: str
    # Of the original direction; 0 where the protocol has none.
    source_port: int = 0
    port: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    icmp_id: int = 0

    @property
    def packet(self) -> Packet:
        if self.protocol == ICMP:
            return Packet(protocol=ICMP, port=self.icmp_type, code=self.icmp_code)
        return Packet(protocol=self.protocol, port=self.port)


def is_allowed(flow: Flow, view: View, facade_address: str) -> bool:
    """Whether the plan would let the flow begin today. Flows with the namespace's own services are not its matter."""
    leaves = view.is_local(flow.source)
    enters = view.is_local(flow.target)
    if flow.destination == facade_address:
        return leaves
    if flow.destination == flow.target and not enters and flow.target not in view.members and flow.back == flow.source:
        # Untranslated and to no member: the namespace's own DHCP, DNS and metadata, or a member that has gone.
        return leaves or flow.source not in view.members
    return (not leaves or _may_leave(flow, view)) and (not enters or _may_enter(flow, view)) and _is_known(flow, view)


def _may_leave(flow: Flow, view: View) -> bool:
    sender = view.members[flow.source]
    translated = flow.back != flow.source
    if translated and flow.back != sender.public:
        return False
    return view.may_leave(sender, flow.target, flow.packet)


def _may_enter(flow: Flow, view: View) -> bool:
    receiver = view.members[flow.target]
    translated = flow.destination != flow.target
    if translated and flow.destination != receiver.public:
        return False
    if not translated and flow.source not in view.members:
        return False
    return view.may_enter(receiver, flow.source, flow.packet)


def _is_known(flow: Flow, view: View) -> bool:
    """One end at least is a member here; else the entry belongs to an interface that was taken away."""
    return view.is_local(flow.source) or view.is_local(flow.target)


def parse(listing: str) -> list[Flow]:
    """From `conntrack -L`. Lines that are no flow are left out."""
    return [flow for line in listing.splitlines() if (flow := _parse_line(line))]


def _parse_line(line: str) -> Flow | None:
    words = line.split()
    pairs = [tuple(word.split("=", 1)) for word in words if "=" in word]
    forward: dict[str, str] = {}
    backward: dict[str, str] = {}
    for key, value in pairs:
        (backward if key in forward else forward)[key] = value
    if not {"src", "dst"} <= forward.keys() or not {"src", "dst"} <= backward.keys() or not words[1].isdigit():
        return None
    if ":" in forward["src"]:
        return None
    return Flow(
        protocol=int(words[1]),
        source=forward["src"],
        destination=forward["dst"],
        target=backward["src"],
        back=backward["dst"],
        source_port=int(forward.get("sport", 0)),
        port=int(forward.get("dport", 0)),
        icmp_type=int(forward.get("type", 0)),
        icmp_code=int(forward.get("code", 0)),
        icmp_id=int(forward.get("id", 0)),
    )


def cut_revoked(view: View, facade_address: str, *, namespace: str) -> int:
    """Cuts the flows that the plan no longer allows; how many they were."""
    listing = netns.run(["conntrack", "-L", "-f", "ipv4"], namespace=namespace)
    revoked = [flow for flow in parse(listing) if not is_allowed(flow, view, facade_address)]
    _delete((_selector(flow) for flow in revoked), namespace=namespace)
    return len(revoked)


def cut_address(address: str, *, namespace: str) -> None:
    """Cuts every flow from or to an address of the VPC."""
    _delete((f"-s {address}", f"-r {address}"), namespace=namespace)


def _selector(flow: Flow) -> str:
    ends = f"-p {flow.protocol} -s {flow.source} -d {flow.destination}"
    match flow.protocol:
        case 1:
            return f"{ends} --icmp-type {flow.icmp_type} --icmp-code {flow.icmp_code} --icmp-id {flow.icmp_id}"
        case 6 | 17:
            return f"{ends} --sport {flow.source_port} --dport {flow.port}"
        case _:
            return ends


def _delete(selectors: Iterable[str], *, namespace: str) -> None:
    """Entries that ended by themselves meanwhile are no error."""
    if script := "".join(f"-D {selector}\n" for selector in selectors):
        netns.run(["conntrack", "-R", "-"], script, namespace=namespace)

"""What is no longer allowed ends: conversations under way, of every protocol and in both directions, and no others."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from common import netns
from common.errors import CloudError
from common.ids import InterfaceId, VpcId
from mallee.clc.v1 import record_pb2
from mallee.ec2.v1 import security_group_pb2 as ec2
from mallee.nc.v1 import network_pb2
from services.clc.security_group.rules import rules_of
from services.clc.store import Stored, key_of
from services.clc.vpc.plan import PlanMaker
from tests.contract.netlab import Guest, Lab, group, rule
from tests.contract.network_fixtures import ALL, OPEN, lab, opened, whole_lab
from tests.contract.traffic import dial, echo_request, echoes

__all__ = ["lab", "whole_lab"]

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

WEB = "sg-0000000000000000b"
REST = "sg-0000000000000000c"
PORT = 80
SILENCE_S = 0.3
_IDENTS = itertools.count(1000)


@dataclass
class Talk:
    """A guest talks to another by TCP, UDP and ping, each a flow that the kernel knows."""

    client: Guest
    server: Guest
    tcp: tuple[socket.socket, socket.socket]
    udp: tuple[socket.socket, socket.socket]
    ping: socket.socket
    ident: int

    def goes_on(self) -> bool:
        self.ask()
        if self.asked(within_s=3.0) != {"tcp", "udp", "ping"}:
            return False
        self.answer()
        return self.answered(within_s=3.0) == {"tcp", "udp"}

    def ask(self) -> None:
        self.tcp[0].sendall(b"question")
        self.udp[0].send(b"question")
        self.ping.sendto(echo_request(self.ident), (self.server.private, 0))

    def asked(self, *, within_s: float) -> set[str]:
        """What arrives at the server, and the ping's echo at the client."""
        return self._arriving({"tcp": self.tcp[1], "udp": self.udp[1], "ping": self.ping}, within_s)

    def answer(self) -> None:
        self.tcp[1].sendall(b"answer")
        self.udp[1].sendto(b"answer", (self.client.private, self.udp[0].getsockname()[1]))

    def answered(self, *, within_s: float) -> set[str]:
        """What arrives at the client."""
        return self._arriving({"tcp": self.tcp[0], "udp": self.udp[0]}, within_s)

    def _arriving(self, wires: dict[str, socket.socket], within_s: float) -> set[str]:
        seen: set[str] = set()
        deadline = time.monotonic() + within_s
        while seen != wires.keys() and (left := deadline - time.monotonic()) > 0:
            waiting = [wire for name, wire in wires.items() if name not in seen]
            for wire in select.select(waiting, [], [], left)[0]:
                name = next(name for name, its in wires.items() if its is wire)
                piece = wire.recv(4096)
                # A raw socket hears every ICMP packet of its namespace: type 0 with our identity is the answer.
                if name != "ping" or (piece[20] == 0 and piece[24:26] == self.ident.to_bytes(2, "big")):
                    seen.add(name)
        return seen


@contextlib.contextmanager
def talk(client: Guest, server: Guest) -> Iterator[Talk]:
    def listen() -> socket.socket:
        made = socket.socket()
        made.bind((server.private, 0))
        made.listen()
        return made

    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(netns.inside(server.namespace, listen))
        speaking = stack.enter_context(client.dial(server.private, listener.getsockname()[1]))
        listening = stack.enter_context(listener.accept()[0])
        asking, hearing = stack.enter_context(client.udp()), stack.enter_context(server.udp())
        hearing.bind((server.private, 0))
        asking.connect(hearing.getsockname())
        ping = stack.enter_context(
            netns.inside(client.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
        )
        yield Talk(client, server, (speaking, listening), (asking, hearing), ping, next(_IDENTS))


def groups(
    *, web: tuple[network_pb2.PlanRule, ...] | None = None, clients_send: tuple[network_pb2.PlanRule, ...] | None = None
) -> dict[str, network_pb2.PlanGroup]:
    """WEB lets the clients' group in, and out nothing but answers; OPEN lets nothing in, REST everything."""
    return {
        WEB: group(WEB, *((rule("-1", peer=OPEN),) if web is None else web), egress=()),
        OPEN: group(OPEN, egress=clients_send),
        REST: group(REST, rule("-1")),
    }


async def test_whatever_takes_a_permission_away_ends_what_used_it(lab: Lab) -> None:
    vpc = VpcId.new()
    server = await lab.guest(vpc, "172.31.0.10", groups=(WEB,))
    near = await lab.guest(vpc, "172.31.0.11", groups=(OPEN,))
    far = await lab.guest(vpc, "172.31.0.12", node=1, groups=(OPEN,))
    others = [await lab.guest(vpc, f"172.31.0.{13 + node}", node=node, groups=(REST,)) for node in (0, 1)]
    clients = {near.interface_id, far.interface_id}

    def plan(revision: int, **changed: tuple[network_pb2.PlanRule, ...]) -> network_pb2.VpcPlan:
        return lab.plan(vpc, revision, groups(**changed))

    def moved(revision: int, who: set[InterfaceId], to: str) -> network_pb2.VpcPlan:
        made = plan(revision)
        for interface in made.interfaces:
            if interface.interface_id in who:
                interface.group_ids[:] = [to] if to else []
        return made

    revocations: dict[str, Callable[[int], network_pb2.VpcPlan]] = {
        "the rule": lambda n: plan(n, web=()),
        "the rule for this group, not one for all": lambda n: plan(n, web=(rule("-1", peer=REST),)),
        "all but a port of nobody": lambda n: plan(n, web=(rule("tcp", 81), rule("udp", 1, 2), rule("icmp", 13))),
        "the right to send": lambda n: plan(n, clients_send=()),
        "the clients' membership": lambda n: moved(n, clients, REST),
        "the clients' last membership": lambda n: moved(n, clients, ""),
        "the server's membership": lambda n: moved(n, {server.interface_id}, ""),
    }
    await lab.apply(plan(1))
    with talk(others[0], others[1]) as unconcerned:
        for number, (what, revoked) in enumerate(revocations.items(), 1):
            with talk(near, server) as beside, talk(far, server) as across:
                talks = (beside, across)
                assert all(each.goes_on() for each in talks), what
                await lab.apply(revoked(2 * number))
                for each in talks:
                    each.ask()
                assert [each.asked(within_s=SILENCE_S / 2) for each in talks] == [set(), set()], what
                for each in talks:
                    each.answer()
                assert [each.answered(within_s=SILENCE_S / 2) for each in talks] == [set(), set()], what
                assert unconcerned.goes_on(), what
            await lab.apply(plan(2 * number + 1))


async def test_an_interface_that_the_plan_does_not_name_is_alone(lab: Lab) -> None:
    """Not yet, or no more: its card and address are known here, and nobody answers for it."""
    vpc = VpcId.new()
    near, far = await opened(lab, vpc, 0, 1)
    unnamed = await lab.guest(vpc, "172.31.0.40", groups=(OPEN,))
    with near.listen(PORT) as at_near, far.listen(PORT) as at_far, unnamed.listen(PORT) as at_unnamed:
        assert near.reaches(far.private, PORT, within_s=3)
        for target in (near.private, far.private, near.public):
            assert not unnamed.reaches(target, PORT, within_s=SILENCE_S), target
        for source in (near, far):
            assert not source.reaches(unnamed.private, PORT, within_s=SILENCE_S), source.private
        assert (at_near.peers, at_far.peers, at_unnamed.peers) == ([], [near.private], [])
        await lab.apply(lab.plan(vpc, 2, ALL))
        for talker in (near, far):
            talker.run("ip", "neigh", "flush", "dev", "eth0")
            assert talker.reaches(unnamed.private, PORT, within_s=3), talker.private


async def test_connections_to_an_address_that_moved_end(lab: Lab) -> None:
    vpc = VpcId.new()
    a, b = await opened(lab, vpc, 0, 1)
    with a.listen(PORT) as at_a, b.listen(PORT), dial("", a.public, PORT) as moved, dial("", b.public, PORT) as kept:
        assert [echoes(flow) for flow in (moved, kept)] == [True, True]
        assert len(at_a.peers) == 1
        c = await lab.guest(vpc, "172.31.0.30", groups=(OPEN,))
        await lab.apply(lab.plan(vpc, 2, ALL, public={a.private: "", c.private: a.public}))
        assert not echoes(moved, within_s=SILENCE_S)
        assert echoes(kept)


async def test_every_rule_that_the_api_takes_is_in_force_on_a_node(lab: Lab) -> None:
    """One that a node refused would keep every later change of its VPC from all nodes."""
    vpc = VpcId.new()
    a, b = await opened(lab, vpc, 0, 1)
    protocols = ("tcp", "udp", "icmp", "icmpv6", "-1", "all", "6", "17", "1", "58", "50", "0", "255")
    permissions = [
        permission
        for protocol in protocols
        for low, high in ((-1, -1), (0, 0), (8, -1), (22, 22), (0, 65535), (13, 5))
        for permission in _accepted(protocol, low, high)
    ]
    assert {p.ip_protocol for p in permissions} == set(protocols)
    found = _find_group
    wide = [r for p in permissions for e in (False, True) for r in rules_of([p], egress=e, find_group=found)]
    six = rules_of(
        [ec2.IpPermission(ip_protocol="-1", ipv6_ranges=[ec2.Ipv6Range(cidr_ipv6="::/0")])],
        egress=False,
        find_group=found,
    )
    with b.listen(PORT):
        for revision, rules, passes in ((2, six, False), (3, wide, True)):
            out = rules_of([_all_of("0.0.0.0/0")], egress=True, find_group=found)
            await lab.apply(lab.plan(vpc, revision, _planned([*rules, *out])))
            assert a.reaches(b.private, PORT, within_s=3 if passes else SILENCE_S) is passes


def _find_group(pair: ec2.UserIdGroupPair) -> tuple[str, str]:
    return pair.group_id, "123456789012"


def _accepted(protocol: str, low: int, high: int) -> Iterator[ec2.IpPermission]:
    permission = ec2.IpPermission(
        ip_protocol=protocol,
        from_port=low,
        to_port=high,
        ip_ranges=[ec2.IpRange(cidr_ip=cidr) for cidr in ("0.0.0.0/0", "10.0.0.0/8", "172.31.0.10/32")],
        ipv6_ranges=[ec2.Ipv6Range(cidr_ipv6="2001:db8::/32")],
        user_id_group_pairs=[ec2.UserIdGroupPair(group_id=WEB)],
    )
    with contextlib.suppress(CloudError):
        rules_of([permission], egress=False, find_group=_find_group)
        yield permission


def _all_of(cidr: str) -> ec2.IpPermission:
    return ec2.IpPermission(ip_protocol="-1", ip_ranges=[ec2.IpRange(cidr_ip=cidr)])


def _planned(rules: list[record_pb2.SecurityGroupRuleRecord]) -> dict[str, network_pb2.PlanGroup]:
    """As the CLC would tell it to nodes."""
    record = record_pb2.SecurityGroupRecord(group_id=OPEN, rules=rules)
    member = record_pb2.InstanceRecord(instance_id="i-1")
    member.interface.security_group_ids.append(OPEN)
    vpc = record_pb2.VpcRecord(vpc_id="vpc-1")
    stored = Stored(key_of(record), record, 1, 1), Stored(key_of(member), member, 1, 1)
    made = PlanMaker().plan_of(vpc, subnets=[], groups=stored[:1], instances=stored[1:])
    return {its.group_id: its for its in made.groups}

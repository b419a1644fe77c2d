"""Throughput and latency of guests' traffic against bare namespaces: goals half of a bare veth pair's throughput within
a node, a third across nodes, latency at most three times the bare one, a plan of 100 members in force in 100 ms, a
public address moved to another node found there by a client within a second (bench.address: all the way from the API).

python -m bench.network     (as root)
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from bench.figures import report
from common import netns
from common.ids import InterfaceId, VpcId, mac_of
from tests.contract import netlab
from tests.contract.netlab import Guest, Lab, group, rule
from tests.contract.traffic import Server, dial, reaches

SECONDS: Final = 2.0
ROUND_TRIPS: Final = 2000
MEMBERS: Final = 100
SAME_NODE_GOAL: Final = 0.5
ACROSS_GOAL: Final = 1 / 3
LATENCY_GOAL: Final = 3.0
PLAN_GOAL_MS: Final = 100.0
MOVES: Final = 20
# Moves that follow each other this closely meet repeated announcements of the one before: those cost up to 250 ms.
MOVE_GOAL_MS: Final = 1000.0

OPEN: Final = "sg-0000000000000000a"
BARE: Final = (f"bare-{netlab.CLOUD}-a", f"bare-{netlab.CLOUD}-b")

SINK = """
import socket, sys, time
listener = socket.create_server(("0.0.0.0", 5001))
print("ready", flush=True)
connection, _ = listener.accept()
room, total = bytearray(1 << 20), 0
start = time.perf_counter()
while got := connection.recv_into(room):
    total += got
print(total / (time.perf_counter() - start))
"""
SOURCE = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 5001))
piece, end = bytes(1 << 20), time.perf_counter() + float(sys.argv[2])
while time.perf_counter() < end:
    connection.sendall(piece)
"""


@dataclass(frozen=True, slots=True)
class Path:
    name: str
    source: str  # namespace; empty: the host's
    target: str
    address: str


@dataclass(frozen=True, slots=True)
class Figures:
    gbit_s: float
    latency_us: float


def measure(path: Path) -> Figures:
    return Figures(throughput(path), latency(path))


def throughput(path: Path) -> float:
    sink = subprocess.Popen([*within(path.target), sys.executable, "-c", SINK], stdout=subprocess.PIPE, text=True)
    assert sink.stdout is not None
    sink.stdout.readline()
    subprocess.run([*within(path.source), sys.executable, "-c", SOURCE, path.address, str(SECONDS)], check=True)
    rate, _ = sink.communicate(timeout=30)
    return float(rate) * 8 / 1e9


def latency(path: Path) -> float:
    """Median of a TCP round trip of one byte, in microseconds."""
    with Server(path.target, 5002), dial(path.source, path.address, 5002) as connection:
        took = []
        for _ in range(ROUND_TRIPS):
            start = time.perf_counter()
            connection.sendall(b"x")
            connection.recv(1)
            took.append(time.perf_counter() - start)
    return statistics.median(took) * 1e6


def within(namespace: str) -> list[str]:
    return ["nsenter", f"--net={netns.NETNS / namespace}", "--"] if namespace else []


def bare_pair() -> Path:
    for name in BARE:
        netns.delete_namespace(name)
        netns.ensure_namespace(name)
    netns.links([f"link add eth0 type veth peer name eth0 netns {BARE[1]}"], namespace=BARE[0])
    for number, name in enumerate(BARE):
        netns.links([f"addr add 10.0.0.{number + 1}/24 dev eth0", "link set eth0 up"], namespace=name)
    return Path("bare veth pair", BARE[0], BARE[1], "10.0.0.2")


async def plan_time_ms(lab: Lab, vpc: VpcId) -> float:
    """Median time to put a changed plan of MEMBERS members in force on one node."""
    plan = lab.plan(vpc, 10, {OPEN: group(OPEN, rule("-1"))})
    for number in range(MEMBERS - len(plan.interfaces)):
        interface = InterfaceId.new()
        plan.interfaces.add(
            interface_id=interface,
            mac=mac_of(interface),
            private_ipv4=f"172.31.8.{number}",
            node_address=lab.nodes[number % 2].address,
            group_ids=[OPEN],
        )
    network = lab.networks[lab.nodes[0].name]
    took = []
    for port in range(7):
        plan.revision += 1
        plan.groups[0].ingress.append(rule("tcp", 1000 + port))
        took.append(await timed(lambda: network.apply_plan(plan)))
    return statistics.median(took[1:]) * 1000


async def move_times_ms(lab: Lab, vpc: VpcId, holders: tuple[Guest, Guest]) -> list[float]:
    """From a changed plan at both nodes until its new holder answers the host, which knew the address elsewhere."""
    address, took = lab.public(), []
    with holders[0].listen(5003) as first, holders[1].listen(5003) as second:
        for number in range(MOVES):
            holder, server = ((holders[0], first), (holders[1], second))[number % 2]
            seen = len(server.peers)
            plan = lab.plan(vpc, 100 + number, {OPEN: group(OPEN, rule("-1"))}, public={holder.private: address})

            def found(server: Server = server, seen: int = seen) -> None:
                while len(server.peers) == seen:
                    reaches("", address, 5003, within_s=0.02)

            start = time.perf_counter()
            applied = [asyncio.ensure_future(network.apply_plan(plan)) for network in lab.networks.values()]
            await asyncio.to_thread(found)
            took.append((time.perf_counter() - start) * 1000)
            await asyncio.gather(*applied)
    # At first nobody had it.
    return took[1:]


async def timed(work: Callable[[], Awaitable[None]]) -> float:
    start = time.perf_counter()
    await work()
    return time.perf_counter() - start


async def run() -> bool:
    try:
        bare = bare_pair()
        async with netlab.laboratory() as lab:
            vpc = VpcId.new()
            a, b, c = [
                await lab.guest(vpc, f"172.31.0.{10 + n}", node=node, public="new", groups=(OPEN,))
                for n, node in enumerate((0, 0, 1))
            ]
            await lab.apply(lab.plan(vpc, 1, {OPEN: group(OPEN, rule("-1"))}))
            paths = [
                bare,
                Path("one VPC, one node", a.namespace, b.namespace, b.private),
                Path("one VPC, two nodes (VXLAN)", a.namespace, c.namespace, c.private),
                Path("host to a public address", "", a.namespace, a.public),
            ]
            figures = [await asyncio.to_thread(measure, path) for path in paths]
            plan_ms = await plan_time_ms(lab, vpc)
            moves_ms = await move_times_ms(lab, vpc, (b, c))
    finally:
        for name in BARE:
            netns.delete_namespace(name)
    return tell(paths, figures, plan_ms, moves_ms)


def tell(paths: list[Path], figures: list[Figures], plan_ms: float, moves_ms: list[float]) -> bool:
    bare = figures[0]
    met = []
    for path, seen in zip(paths, figures, strict=True):
        print(f"{path.name}: {seen.gbit_s:.2f} Gbit/s, {seen.latency_us:.1f} µs")
    for path, seen, goal in zip(paths[1:3], figures[1:3], (SAME_NODE_GOAL, ACROSS_GOAL), strict=True):
        met.append(report(f"{path.name}: throughput of bare", seen.gbit_s / bare.gbit_s, "", least=round(goal, 2)))
        met.append(report(f"{path.name}: latency of bare", seen.latency_us / bare.latency_us, "", most=LATENCY_GOAL))
    met.append(report(f"a changed plan of {MEMBERS} members in force", plan_ms, "ms", most=PLAN_GOAL_MS))
    print(f"a public address moved to another node and found there: median {statistics.median(moves_ms):.0f} ms")
    met.append(report("a public address moved to another node, worst", max(moves_ms), "ms", most=MOVE_GOAL_MS))
    return all(met)


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(run()) else 1)

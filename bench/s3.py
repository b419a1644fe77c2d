"""S3 through the facade beside Ceph's RGW: op/s of small objects, MB/s of large ones, listings, and the CPU they take.

python -m bench.s3 [--seconds S] [--rounds N] [--only GROUP …] [--beside rgw|packaged-rgw|nothing]

One run on one machine: a fake cloud and a Ceph of its own (`bench/rgw.py`) are asked the same by the same generator,
in turns, each round the other one first; who is not asked idles, and what that takes is told. Medians are held against
each other, of those rounds in which nobody else took half a core. Where Ceph is not installed, the figures of one that
ran elsewhere stand in.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import rgw
from bench.figures import report
from bench.s3_load import Signer
from bench.s3_rounds import DISTURBED, LINES, Asked, Group, Line, Sample, Server, machine_cpu_s, resident_mb
from tests.cloud_fixture import RunningCloud, new_home
from tests.ports import free_port_base

GROWTH_GOAL_MB: Final = 100
# Processes that may not grow, by the beginning of their names.
_WATCHED: Final = ("facade-", "walrus-", "clc-")
_REGION: Final = "us-east-1"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each line of small objects")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[group.value for group in Group], help="some of the lines")
    known = ["rgw", "packaged-rgw", "nothing"]
    parser.add_argument("--beside", choices=known, help="rgw, where it is installed; or one that nobody has tuned")
    arguments = parser.parse_args()
    if (arguments.beside or "").endswith("rgw") and not rgw.is_installed():
        parser.error(f"there is no Ceph here: {rgw.HOW_TO_INSTALL}")
    beside = arguments.beside != "nothing" and rgw.is_installed()
    # Who is told to end removes what it made.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    groups = [Group(name) for name in arguments.only or [group.value for group in Group]]
    lines = [line for line in LINES if line.group in groups]
    with ExitStack() as stack:
        servers = [stack.enter_context(mallee())]
        if beside:
            servers.append(stack.enter_context(ceph(tuned=arguments.beside != "packaged-rgw")))
        else:
            advice = "" if rgw.is_installed() else f"; to measure here: {rgw.HOW_TO_INSTALL}"
            print(f"beside figures of another machine{advice}")
        print(f"load of this machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        met = measure([Asked(server, arguments.seconds) for server in servers], arguments.rounds, lines)
    print(f"load of this machine after: {os.getloadavg()[0]:.1f}")
    return 0 if met else 1


def measure(asked: Sequence[Asked], rounds: int, lines: Sequence[Line]) -> bool:
    for one in asked:
        one.prepare(lines)
    mallee = asked[0]

    def strangers_cpu_s() -> float:
        return machine_cpu_s() - time.process_time() - sum(one.cpu_s() for one in asked)

    before = {name: resident_mb(pid) for name, pid in mallee.server.pids.items() if name.startswith(_WATCHED)}
    idle = {one.server.name: Share() for one in asked}
    strangers = Share()
    for number in range(rounds):
        for one in asked if number % 2 == 0 else asked[::-1]:
            with ExitStack() as watching:
                for other in asked:
                    if other is not one:
                        watching.enter_context(idle[other.server.name].of(other.cpu_s))
                watching.enter_context(strangers.of(strangers_cpu_s))
                one.round(number, lines, strangers_cpu_s)
    shares = [f"{name} took {share} of a core while it was not asked" for name, share in idle.items() if share.wall_s]
    print("; ".join([*shares, f"what is no part of this took {strangers}"]))
    met = [compare(line, mallee, asked[1] if asked[1:] else None) for line in lines]
    for name, then in before.items():
        grown = resident_mb(mallee.server.pids[name]) - then
        met.append(report(f"S3: {name} has grown by", grown, "MB", most=GROWTH_GOAL_MB))
    return all(met)


@dataclass(slots=True)
class Share:
    """Of one core, over all times that are watched."""

    cpu_s: float = 0.0
    wall_s: float = 0.0

    @contextmanager
    def of(self, cpu_s: Callable[[], float]) -> Iterator[None]:
        spent, began = cpu_s(), time.monotonic()
        yield
        self.cpu_s += cpu_s() - spent
        self.wall_s += time.monotonic() - began

    def __str__(self) -> str:
        return f"{self.cpu_s / self.wall_s:.0%}"


def compare(line: Line, ours: Asked, theirs: Asked | None) -> bool:
    """One row: how many times as good, by the medians, and what they are."""
    mine, other = ours.median(line), theirs.median(line) if theirs else Sample(line.elsewhere)
    beside = f"  {mine.figure:,.0f} and {other.figure:,.0f} {line.unit}"
    if theirs:
        beside += f", best {ours.best(line):,.0f} and {theirs.best(line):,.0f}"
        beside += f"; CPU {mine.cpu_ms_per_request:.2f} and {other.cpu_ms_per_request:.2f} ms"
    if max(mine.strangers, other.strangers) >= DISTURBED:
        beside += "; disturbed"
    return report(f"S3: {line}", line.times_of(mine.figure, other.figure), "x", least=line.times, beside=beside)


@contextmanager
def mallee() -> Iterator[Server]:
    options = ["--hypervisor", "fake", "--nodes", "1", "--no-image", "--port-base", str(free_port_base())]
    cloud = RunningCloud(home=new_home(Path(tempfile.gettempdir()) / "mallee-bench-s3"), options=options)
    try:
        cloud.up()
        keys = cloud.account()
        signer = Signer(cloud.endpoint_url, keys.access_key_id, keys.secret_access_key, cloud.config.region)
        pids = {member: pid for member in cloud.members if (pid := cloud.pid(member))}
        yield Server("Mallee", signer, pids)
    finally:
        cloud.destroy()


@contextmanager
def ceph(*, tuned: bool) -> Iterator[Server]:
    with rgw.rgw(tuned=tuned) as running:
        signer = Signer(running.endpoint_url, running.access_key, running.secret_key, _REGION)
        yield Server("RGW", signer, running.pids)


if __name__ == "__main__":
    sys.exit(main())

"""EC2's control plane on fake nodes: how many calls a second, how long a page takes, what each service holds in memory.

The load generator runs on the same machine, so a figure is what is left beside it. Goals are for 2 cores. Of a rate
the best of some rounds is held against its goal, since other work on the machine only ever takes away, and the median
stands beside it; times are medians.

python -m bench.ec2     (--instances 1000 ends before the large account is made)
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.figures import report
from bench.query_client import QueryClient, Signed, at_once, numbered, values
from tests.cloud_fixture import RunningCloud, new_home
from tests.ports import free_port_base

ROUNDS: Final = 3
TYPE: Final = "t2.nano"
PAGE: Final = 1000
# Ids in one request: a filter or a list may have no more values.
BATCH: Final = 200
GIVEN_UP_S: Final = 900.0
# Each default subnet has room for 4,091 instances.
ZONES: Final = 7

REGIONS, REGION_CLIENTS, REGIONS_GOAL = 4000, 32, 2000.0
GROUPS, CLIENTS, GROUPS_GOAL = 300, 16, 300.0
LAUNCHES, LAUNCHES_GOAL = 100, 300.0
ACCEPTED_GOAL_S, RUNNING_GOAL_S = 0.1, 2.0
SHOWN, SHOWN_GOAL_MS = 1000, 100.0
GROWERS: Final = 3
MANY, FIRST_GOAL_S, AGAIN_GOAL_S = 25_000, 2.5, 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=MANY, help="in the large account")
    arguments = parser.parse_args()
    print(f"load of this machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with fake_cloud() as cloud:
        met = asyncio.run(measure(cloud, arguments.instances))
    print(f"load of this machine after: {os.getloadavg()[0]:.1f}")
    return 0 if met else 1


@contextmanager
def fake_cloud() -> Iterator[RunningCloud]:
    """Pretended nodes: they have room for everything and use nothing of this machine."""
    options = ["--hypervisor", "fake", "--zones", str(ZONES), "--no-image", "--port-base", str(free_port_base())]
    cloud = RunningCloud(home=new_home(Path(tempfile.gettempdir()) / "mallee-bench-fake"), options=options)
    with tempfile.TemporaryDirectory(prefix="mallee-bench-nodes-", dir="/dev/shm") as memory:
        try:
            cloud.up()
            cloud.down()
            give_disks(cloud.home / "nodes", Path(memory))
            cloud.up()
            yield cloud
        finally:
            cloud.destroy()


def give_disks(nodes: Path, memory: Path) -> None:
    """They stand for other machines, with disks of their own: this one's is left to the control plane and its etcd."""
    subprocess.run(["mv", nodes, memory], check=True)
    memory.chmod(0o755)
    nodes.symlink_to(memory / nodes.name)


async def measure(cloud: RunningCloud, instances: int) -> bool:
    keys, image_id = cloud.account(), cloud.image_id
    async with QueryClient(
        cloud.endpoint_url, keys.access_key_id, keys.secret_access_key, cloud.config.region
    ) as client:
        bench = Bench(client, image_id)
        met = [await bench.regions(), await bench.groups(), await bench.shown()]
        met += [*await bench.one_launch(), await bench.launches()]
        if instances > SHOWN:
            met += await bench.pages(instances)
        memory(cloud)
    return all(met)


class Bench:
    def __init__(self, client: QueryClient, image_id: str) -> None:
        self._client = client
        self._launch = {"ImageId": image_id, "InstanceType": TYPE}
        self._living: list[str] = []

    async def regions(self) -> bool:
        calls = [self._client.sign("DescribeRegions")] * REGIONS
        rates = [await at_once(REGION_CLIENTS, calls, self._client.send) for _ in range(ROUNDS)]
        return _rate(f"DescribeRegions, {REGION_CLIENTS} clients", rates, least=REGIONS_GOAL)

    async def groups(self) -> bool:
        rates = []
        for number in range(ROUNDS):
            names = [f"bench-{number}-{index}" for index in range(GROUPS)]
            calls = {name: self._group_calls(name) for name in names}

            async def make(name: str, calls: dict[str, Sequence[Signed]] = calls) -> None:
                for call in calls[name]:
                    await self._client.send(call)

            rates.append(await at_once(CLIENTS, names, make))
            gone = [self._client.sign("DeleteSecurityGroup", GroupName=name) for name in names]
            await at_once(CLIENTS, gone, self._client.send)
        return _rate(f"CreateSecurityGroup and Authorize, {CLIENTS} clients", rates, least=GROUPS_GOAL)

    async def one_launch(self) -> Sequence[bool]:
        accepted, running = [], []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            ids = await self._run(LAUNCHES)
            accepted.append(time.perf_counter() - began)
            await self._wait("running", ids)
            running.append(time.perf_counter() - began)
            await self._end()
        what = f"RunInstances 1 x {LAUNCHES}"
        return [
            report(f"{what} accepted, median", statistics.median(accepted), "s", most=ACCEPTED_GOAL_S),
            report(f"{what} all running, median", statistics.median(running), "s", most=RUNNING_GOAL_S),
        ]

    async def launches(self) -> bool:
        rates = []
        for _ in range(ROUNDS):
            calls = [self._client.sign("RunInstances", MinCount=1, MaxCount=1, **self._launch)] * LAUNCHES
            answers: list[str] = []

            async def launch(call: Signed, answers: list[str] = answers) -> None:
                answers.append(await self._client.send(call))

            rates.append(await at_once(CLIENTS, calls, launch))
            self._living += [instance_id for answer in answers for instance_id in values(answer, "instanceId")]
            await self._wait("running", self._living)
            await self._end()
        return _rate(f"RunInstances {LAUNCHES} x 1 accepted, {CLIENTS} clients", rates, least=LAUNCHES_GOAL)

    async def shown(self) -> bool:
        await self._grow(SHOWN)
        took = []
        for _ in range(10):
            call = self._client.sign("DescribeInstances")
            began = time.perf_counter()
            answer = await self._client.send(call)
            took.append(time.perf_counter() - began)
            assert answer.count("<instanceState>") == SHOWN
        await self._end()
        what = f"DescribeInstances of {SHOWN:,}, median"
        return report(what, statistics.median(took) * 1000, "ms", most=SHOWN_GOAL_MS)

    async def pages(self, instances: int) -> Sequence[bool]:
        began = time.perf_counter()
        await self._grow(instances)
        print(f"{instances:,} instances run after {time.perf_counter() - began:.0f} s")
        first = await self._read_pages(instances)
        again = statistics.median([await self._read_pages(instances) for _ in range(ROUNDS)])
        what = f"DescribeInstances of {instances:,} in pages of {PAGE:,}"
        return [
            report(f"{what}, first", first, "s", most=FIRST_GOAL_S),
            report(f"{what}, again", again, "s", most=AGAIN_GOAL_S),
        ]

    async def _read_pages(self, instances: int) -> float:
        began = time.perf_counter()
        seen, token = 0, [""]
        while token:
            more = {"NextToken": token[0]} if token[0] else {}
            answer = await self._client.ask("DescribeInstances", MaxResults=PAGE, **more)
            seen += answer.count("<instanceState>")
            token = values(answer, "nextToken")
        took = time.perf_counter() - began
        assert seen >= instances, f"{seen} shown"
        return took

    async def _run(self, count: int) -> list[str]:
        answer = await self._client.ask("RunInstances", MinCount=count, MaxCount=count, **self._launch)
        ids = values(answer, "instanceId")
        self._living += ids
        return ids

    async def _grow(self, instances: int) -> None:
        """A few launches at a time, as each goes to one zone."""
        missing = instances - len(self._living)
        counts = [min(PAGE, missing - begun) for begun in range(0, missing, PAGE)]

        async def run(count: int) -> None:
            await self._wait("running", await self._run(count))

        await at_once(GROWERS, counts, run)

    async def _end(self) -> None:
        ids, self._living = self._living, []
        for start in range(0, len(ids), BATCH):
            await self._client.ask("TerminateInstances", **numbered("InstanceId", ids[start : start + BATCH]))
        await self._wait("terminated", ids)

    async def _wait(self, state: str, ids: Sequence[str]) -> None:
        deadline = time.monotonic() + GIVEN_UP_S
        for start in range(0, len(ids), BATCH):
            some = numbered("InstanceId", ids[start : start + BATCH])
            asked = {"Filter__1__Name": "instance-state-name", "Filter__1__Value__1": state}
            while True:
                answer = await self._client.ask("DescribeInstances", **some, **asked)
                if answer.count("<instanceState>") == len(some):
                    break
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not all are {state} after {GIVEN_UP_S:.0f} s")
                await asyncio.sleep(0.02)

    def _group_calls(self, name: str) -> Sequence[Signed]:
        return (
            self._client.sign("CreateSecurityGroup", GroupName=name, GroupDescription="bench"),
            self._client.sign(
                "AuthorizeSecurityGroupIngress",
                GroupName=name,
                IpPermissions__1__IpProtocol="tcp",
                IpPermissions__1__FromPort=22,
                IpPermissions__1__ToPort=22,
                IpPermissions__1__IpRanges__1__CidrIp="10.0.0.0/8",
            ),
        )


def _rate(what: str, rates: Sequence[float], *, least: float) -> bool:
    return report(what, max(rates), "/s", least=least, median=statistics.median(rates))


def memory(cloud: RunningCloud) -> None:
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    for member in sorted(cloud.members):
        pages = int(Path(f"/proc/{cloud.pid(member)}/statm").read_text().split()[1])
        print(f"memory of {member:48} {pages * page_bytes / (1 << 20):10.0f} MiB")


if __name__ == "__main__":
    sys.exit(main())

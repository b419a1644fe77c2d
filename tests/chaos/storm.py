"""Clients at work, faults one after the other and at once, and an audit whenever the cloud has been left in peace.

The order of events comes from a seed. What is found wrong is a violation; a storm without any proves nothing, with one
it proves a bug.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from tests.chaos import faults, records, store_files
from tests.chaos.clients import Client
from tests.chaos.promises import broken_promises, instances, unsettled
from tests.chaos.small_disk import SmallDisk
from tests.chaos.volumes import give_back
from tests.cloud_fixture import RunningCloud
from tests.eventually import until

BUCKET = "chaos"
# Of a fault's end: until somebody is answered, until every instance is in a final state, until nothing is left over.
ANSWER_S, SETTLED_S, SWEPT_S = 60.0, 120.0, 30.0
# Longer than a lease (10 s) lasts.
_LONG_S = (11.0, 15.0)
_SHORT_S = (0.2, 3.0)
# How often to look whether a VM runs twice.
_LOOK_S = 0.25


class Engines(Protocol):
    def running(self) -> list[tuple[str, str]]:
        """(instance, where) of each VM that runs now."""

    def faults(self, records: records.Records) -> list[str]:
        """One line for each place where the engines and the records do not say the same."""


@dataclass(kw_only=True)
class Figures:
    faults: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    unanswered: int = 0
    refused: int = 0
    audits: int = 0
    instances: int = 0
    longest_silence_s: float = 0.0
    longest_settling_s: float = 0.0


@dataclass(kw_only=True)
class Storm:
    cloud: RunningCloud
    engines: Engines
    dice: random.Random
    clients: list[Client]
    stop: threading.Event
    # Some faults need one that may be filled.
    disk: SmallDisk | None = None
    figures: Figures = field(default_factory=Figures)
    violations: list[str] = field(default_factory=list)
    # Those that were killed, with the pids that they had.
    _dead: dict[str, int] = field(default_factory=dict)
    # Ways to hurt, the next one last.
    _deck: list[str] = field(default_factory=list)
    # Of each instance that was seen running in peace: which process it was.
    _ran: dict[str, str] = field(default_factory=dict)

    def blow(self, *, count: int = 0, seconds: float = 0.0) -> None:
        """So many faults, or for so long, while clients work; then peace, and an audit."""
        end = time.monotonic() + seconds
        with self._clients_at_work(), self._watching():
            self._progress(3)
            number = 0
            while number < count or time.monotonic() < end:
                self._hurt()
                self._progress(2)
                number += 1
        self.audit()

    def audit(self) -> None:
        """Raises AssertionError with all that is wrong."""
        ec2 = self.cloud.client("ec2")
        began = time.monotonic()
        until(lambda: self._settled(ec2), within_s=SETTLED_S, every_s=0.5, what="a final state of every instance")
        self.figures.longest_settling_s = max(self.figures.longest_settling_s, time.monotonic() - began)
        self.violations += broken_promises(self.cloud, self.clients)
        # Nodes let go of things a moment after the records do.
        with contextlib.suppress(AssertionError):
            until(lambda: not self._left_over(), within_s=SWEPT_S, every_s=1.0)
        self.violations += self._left_over()
        self.violations += self._restarted()
        self.figures.audits += 1
        self._count()
        assert self.violations == [], "\n".join(self.violations)

    def calm(self) -> None:
        """Everything that the clients have is given back, and then nothing is left of it anywhere."""
        ec2 = self.cloud.client("ec2", retries={"total_max_attempts": 5, "mode": "standard"})
        running = [
            instance_id
            for instance_id, i in instances(ec2).items()
            if i["State"]["Name"] != "terminated" and any(client.mine(i) for client in self.clients)
        ]
        if running:
            ec2.terminate_instances(InstanceIds=running)
        for client in self.clients:
            client.maybe_terminated |= set(running)
            client.alive.clear()
        until(lambda: self._settled(ec2), within_s=SETTLED_S, every_s=0.5, what="the last are terminated")
        for address in ec2.describe_addresses()["Addresses"]:
            if not address.get("AssociationId"):
                ec2.release_address(AllocationId=address["AllocationId"])
        give_back(ec2)
        until(lambda: self._settled(ec2), within_s=SETTLED_S, every_s=0.5, what="the last volumes are gone")
        for client in self.clients:
            client.addresses.clear()
            client.volumes.clear()
            client.unmade.clear()
        self._ran.clear()
        self.audit()
        self.figures.instances += sum(client.forget_instances() for client in self.clients)

    # Hurting.

    def _hurt(self) -> None:
        """One fault, or two at once."""
        chosen = [self._choose() for _ in range(self.dice.choice((1, 1, 2)))]
        with contextlib.ExitStack() as mended:
            for name, fault, seconds in chosen:
                print(f"{time.strftime('%X')} {name}, {seconds:.1f} s", flush=True)
                self.figures.faults[name.partition(" ")[0]] += 1
                mended.enter_context(fault)
            faults.hold(max(seconds for _, _, seconds in chosen), self._wrong)
        faults.wait_for_others(self.cloud, self._dead)
        faults.wait_ready(self.cloud, self.cloud.members)
        self._dead.clear()

    def _choose(self) -> tuple[str, AbstractContextManager[None], float]:
        """(what it is called, the fault, how long it holds)."""
        short, long = self.dice.uniform(*_SHORT_S), self.dice.uniform(*_LONG_S)
        if not self._deck:
            self._shuffle()
        way, victims = self._deck.pop(), self._victims()
        match way:
            case "kill-twice":
                return f"{way} {victims[0]}", faults.killed(self.cloud, victims[:1], self._dead, twice=True), 0.0
            case "kill-several":
                return f"{way} {' '.join(victims)}", faults.killed(self.cloud, victims, self._dead), 0.0
            case "kill-all":
                return way, faults.killed(self.cloud, self.cloud.members, self._dead), 0.0
            case "pause":
                return f"{way} {victims[0]}", faults.paused(self.cloud, victims[:1]), short
            case "pause-long":
                return f"{way} {' '.join(victims[:2])}", faults.paused(self.cloud, victims[:2]), long
            case "fill-disk" if self.disk is not None:
                return way, self.disk.filled(), 2 * short
            case "cut-link":
                namespace = self.dice.choice(self._namespaces)
                return f"{way} {namespace}", faults.link_down(namespace), self.dice.choice((short, long))
            case _:
                return f"{way} {victims[0]}", faults.killed(self.cloud, victims[:1], self._dead), 0.0

    def _shuffle(self) -> None:
        """Each way once, then those that hit one of many again: a short storm has some of everything."""
        ways = ["kill", "kill-twice", "kill-several", "kill-all", "pause", "pause-long"]
        ways += ["fill-disk"] * (self.disk is not None) + ["cut-link"] * bool(self._namespaces)
        again = ["kill", "kill", "kill", "pause"] + ["cut-link"] * bool(self._namespaces)
        self._deck = [*self.dice.sample(again, len(again)), *self.dice.sample(ways, len(ways))]

    def _victims(self) -> list[str]:
        """Of different kinds, each kind as likely as the other."""
        by_kind = defaultdict(list)
        for member in self.cloud.members:
            by_kind[faults.kind_of(member)].append(member)
        kinds = self.dice.sample(sorted(by_kind), self.dice.randint(2, 4))
        return [self.dice.choice(by_kind[kind]) for kind in kinds]

    @property
    def _namespaces(self) -> list[str]:
        return [node.namespace for zone in self.cloud.config.zones for node in zone.nodes if node.namespace]

    # Looking.

    def _settled(self, ec2: Any) -> bool:
        try:
            return not unsettled(ec2)
        except (ClientError, BotoCoreError):
            return False

    def _left_over(self) -> list[str]:
        seen = records.read(self.cloud.config)
        return records.faults(seen) + self.engines.faults(seen) + store_files.faults(self.cloud.config)

    def _restarted(self) -> list[str]:
        """Those that ran in peace once, and are another process now."""
        now = dict(self.engines.running())
        found = [f"{i} was {was} and is {now[i]}" for i, was in self._ran.items() if i in now and now[i] != was]
        self._ran.update(now)
        return found

    def _wrong(self) -> list[str]:
        return self.violations + [words for client in self.clients for words in client.wrong]

    def _progress(self, calls: int) -> None:
        """Until the cloud has answered so many calls since now."""
        start, began = sum(client.answered for client in self.clients), time.monotonic()

        def enough() -> bool:
            return sum(client.answered for client in self.clients) >= start + calls or bool(self._wrong())

        until(enough, within_s=ANSWER_S, what=f"{calls} answers")
        assert self._wrong() == []
        self.figures.longest_silence_s = max(self.figures.longest_silence_s, time.monotonic() - began)

    @contextlib.contextmanager
    def _clients_at_work(self) -> Iterator[None]:
        self.stop.clear()
        with ThreadPoolExecutor(len(self.clients)) as pool:
            works = [pool.submit(client.work) for client in self.clients]
            try:
                yield
            finally:
                self.stop.set()
                for work in works:
                    work.result()

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """No VM runs twice, at any moment: neither on two nodes nor as two processes."""
        ended = threading.Event()

        def watch() -> None:
            before: set[str] = set()
            while not ended.wait(_LOOK_S):
                places = defaultdict(set)
                for instance_id, where in self.engines.running():
                    places[instance_id].add(where)
                # A process that forks looks double for a moment.
                twice = {f"{i} runs twice: {sorted(at)}" for i, at in places.items() if len(at) > 1}
                self.violations += sorted(twice & before)
                before = twice - before

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _count(self) -> None:
        self.figures.answered = sum(client.answered for client in self.clients)
        self.figures.unanswered = sum(client.unanswered for client in self.clients)
        self.figures.refused = sum(client.refused for client in self.clients)

    def __str__(self) -> str:
        shown = {
            name: round(value, 1) if isinstance(value, float) else value for name, value in vars(self.figures).items()
        }
        return json.dumps(shown)


def storm_over(
    cloud: RunningCloud,
    engines: Engines,
    *,
    seed: int,
    disk: SmallDisk | None,
    clients: int,
    most_instances: int,
) -> Storm:
    """With a bucket and clients of its own."""
    dice, stop = random.Random(seed), threading.Event()
    cloud.client("s3").create_bucket(Bucket=BUCKET)
    make = functools.partial(
        Client, cloud=cloud, image_id=cloud.image_id, bucket=BUCKET, stop=stop, most_instances=most_instances
    )
    return Storm(
        cloud=cloud,
        engines=engines,
        dice=dice,
        clients=[make(name=f"client-{n}", dice=random.Random(dice.random())) for n in range(clients)],
        stop=stop,
        disk=disk,
    )

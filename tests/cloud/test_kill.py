"""Processes of a whole cloud are killed while clients launch, tag, terminate and upload: what was promised holds.

The order of events comes from a seed, which is printed; MALLEE_SEED sets it, MALLEE_KILL_ROUNDS the number of rounds.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deploy.names import ETCD
from tests.cloud.kill_clients import Client
from tests.cloud.witness import faults, look
from tests.cloud_fixture import RunningCloud
from tests.e2e.guest_ssh import until

pytestmark = pytest.mark.timeout(400)

CLIENTS = 3
ROUNDS = int(os.environ.get("MALLEE_KILL_ROUNDS") or 9)
BUCKET = "killed"
# On a busy machine: between a kill and a process that says it is ready again, and until every launch has ended.
BACK_S = 60.0
SETTLED_S = 60.0


@pytest.fixture(scope="module")
def dice() -> random.Random:
    seed = int(os.environ.get("MALLEE_SEED") or random.randrange(1 << 32))
    print(f"MALLEE_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="module")
def ec2(fake_cloud: RunningCloud) -> Any:
    return fake_cloud.client("ec2")


@pytest.fixture
def _slow_nodes(fake_cloud: RunningCloud) -> Iterator[None]:
    """So that many a kill falls into the middle of a launch."""
    folders = list((fake_cloud.home / "nodes").glob("*/fake-network"))

    def delay(seconds: float) -> None:
        for folder in folders:
            new = folder / "faults.new"
            new.write_text(json.dumps({"prepare_delay_s": seconds, "apply_delay_s": seconds / 4}))
            new.replace(folder / "faults.json")

    delay(0.4)
    yield
    delay(0)


@contextlib.contextmanager
def clients_of(cloud: RunningCloud, dice: random.Random, name: str) -> Iterator[list[Client]]:
    """At work inside the `with`; their accounts may be read after it. What they launched is terminated in the end."""
    stop, image_id = threading.Event(), cloud.image_id
    clients = [
        Client(
            cloud=cloud, name=f"{name}-{number}", image_id=image_id, bucket=BUCKET,
            dice=random.Random(dice.random()), stop=stop,
        )
        for number in range(CLIENTS)
    ]  # fmt: skip
    with ThreadPoolExecutor(CLIENTS) as pool:
        works = [pool.submit(client.work) for client in clients]
        try:
            yield clients
        finally:
            stop.set()
            for work in works:
                work.result()


@pytest.mark.usefixtures("_slow_nodes")
def test_what_was_promised_holds_whatever_is_killed_and_whenever(
    fake_cloud: RunningCloud, ec2: Any, dice: random.Random
) -> None:
    fake_cloud.client("s3").create_bucket(Bucket=BUCKET)
    with clients_of(fake_cloud, dice, "one") as clients:
        for number in range(ROUNDS):
            # Every fourth time several at once.
            victims = dice.sample(fake_cloud.members, 1 if number % 4 else dice.randint(2, 4))
            _progress(clients, dice.randint(1, 5))
            pids = kill(fake_cloud, victims)
            if number % 3 == 1:
                # Again, some of them on their way up.
                until(functools.partial(_is_another, fake_cloud, victims[0], pids[victims[0]]), what="its successor")
                pids = kill(fake_cloud, victims)
            wait_for_others(fake_cloud, pids)
        _progress(clients, 3)
    check(fake_cloud, ec2, clients)


def test_all_processes_killed_at_once_lose_nothing(fake_cloud: RunningCloud, ec2: Any, dice: random.Random) -> None:
    with clients_of(fake_cloud, dice, "all") as clients:
        for _ in range(2):
            _progress(clients, 10)
            wait_for_others(fake_cloud, kill(fake_cloud, fake_cloud.members))
        _progress(clients, 3)
    check(fake_cloud, ec2, clients)
    assert fake_cloud.json("status")["State"] == "up"


def test_supervisors_that_are_killed_take_their_services_with_them_and_bring_them_back(
    fake_cloud: RunningCloud, ec2: Any
) -> None:
    """Else two of one service would run."""
    before = {member: fake_cloud.pid(member) for member in fake_cloud.members}
    for pid in supervisors(fake_cloud):
        os.kill(pid, signal.SIGKILL)
    wait_for_others(fake_cloud, before)
    until(lambda: not unsettled(ec2), within_s=SETTLED_S, what="the API answers")
    # Nobody looks after the first of them; the command does.
    before = {member: fake_cloud.pid(member) for member in fake_cloud.members}
    os.kill(fake_cloud.supervisor.pid(), signal.SIGKILL)
    assert not unsettled(ec2)
    fake_cloud.up()
    assert len(supervisors(fake_cloud)) == 2 * len(before)
    for pid in before.values():
        assert not Path(f"/proc/{pid}").exists()
    assert not unsettled(ec2)


def supervisors(cloud: RunningCloud) -> list[int]:
    """The s6-supervise of each service and of its log."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (entry / "comm").read_text() == "s6-supervise\n":
                folder = Path(os.readlink(entry / "cwd"))
                found += [int(entry.name)] if folder.is_relative_to(cloud.supervisor.folder) else []
    return found


def kill(cloud: RunningCloud, victims: list[str]) -> dict[str, int]:
    """Returns the pids that they had; 0 for one that had not come back yet."""
    print(f"killing {' '.join(victims)}")
    pids = {victim: cloud.pid(victim) for victim in victims}
    for pid in pids.values():
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return pids


def wait_for_others(cloud: RunningCloud, pids: dict[str, int]) -> None:
    for victim, pid in pids.items():
        until(functools.partial(_is_another, cloud, victim, pid), within_s=BACK_S, what=f"another {victim}")
        if victim != ETCD:
            cloud.wait_ready(victim, BACK_S)


def _is_another(cloud: RunningCloud, member: str, pid: int) -> bool:
    return cloud.pid(member) not in (0, pid)


def _progress(clients: list[Client], calls: int) -> None:
    """Until the cloud has answered so many calls since now."""
    start = sum(client.answered for client in clients)
    until(
        lambda: sum(client.answered for client in clients) >= start + calls or any(c.wrong for c in clients),
        within_s=BACK_S,
        what=f"{calls} answers",
    )
    assert not [client.wrong for client in clients if client.wrong]


def check(cloud: RunningCloud, ec2: Any, clients: list[Client]) -> None:
    print("answered", [c.answered for c in clients], "unanswered", [c.unanswered for c in clients])
    assert not [client.wrong for client in clients if client.wrong]
    until(lambda: not unsettled(ec2), within_s=SETTLED_S, what="every launch and termination ends")
    described = instances(ec2)
    for client in clients:
        check_instances(client, described)
        check_things(cloud, ec2, client)
    # A node lets go of a name a moment after the record does.
    check_engines(cloud)
    mine = [i["InstanceId"] for i in described.values() if i["State"]["Name"] == "running" and _mine(clients, i)]
    if mine:
        ec2.terminate_instances(InstanceIds=mine)
    until(lambda: not unsettled(ec2), within_s=SETTLED_S, what="the last are terminated")
    check_engines(cloud)


def check_engines(cloud: RunningCloud) -> None:
    """A node lets go of a file a moment after the record does."""
    with contextlib.suppress(AssertionError):
        until(lambda: not faults(look(cloud.config)), within_s=20, every_s=0.5)
    assert faults(look(cloud.config)) == []


def instances(ec2: Any) -> dict[str, Any]:
    pages = ec2.get_paginator("describe_instances").paginate()
    return {i["InstanceId"]: i for page in pages for r in page["Reservations"] for i in r["Instances"]}


def unsettled(ec2: Any) -> list[str]:
    return [key for key, i in instances(ec2).items() if i["State"]["Name"] not in ("running", "terminated")]


def _mine(clients: list[Client], instance: Any) -> bool:
    return any(instance.get("ClientToken") in client.tokens for client in clients)


def check_instances(client: Client, described: dict[str, Any]) -> None:
    by_token: dict[str, set[str]] = {}
    for instance_id, instance in described.items():
        by_token.setdefault(instance.get("ClientToken", ""), set()).add(instance_id)
    for token, count in client.tokens.items():
        found = by_token.get(token, set())
        assert found == set(client.launched[token]) if token in client.launched else len(found) in (0, count), token
    for instance_id in (i for ids in client.launched.values() for i in ids):
        instance = described[instance_id]
        state = instance["State"]["Name"]
        if instance_id in client.terminated:
            assert state == "terminated"
            assert instance["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
        elif instance_id not in client.maybe_terminated:
            assert state == "running", instance.get("StateReason")
        if instance_id in client.tags:
            value = next((tag["Value"] for tag in instance.get("Tags", ()) if tag["Key"] == "value"), None)
            assert value in client.tags[instance_id].values


def check_things(cloud: RunningCloud, ec2: Any, client: Client) -> None:
    groups = {group["GroupName"] for group in ec2.describe_security_groups()["SecurityGroups"]}
    key_pairs = {pair["KeyName"] for pair in ec2.describe_key_pairs()["KeyPairs"]}
    for names, there in ((client.groups, groups), (client.key_pairs, key_pairs)):
        assert {name for name, sure in names.items() if sure} <= there
    s3 = cloud.client("s3")
    listed = {entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET).get("Contents", ())}
    for key, possible in client.objects.items():
        bodies = {None if value is None else client.body(value) for value in possible.values}
        found = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() if key in listed else None
        assert found in bodies, key

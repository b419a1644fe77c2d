"""Several facades at one address: each serves, one that dies takes nothing with it but its connections, and `mallee up`
makes them more or fewer."""

from __future__ import annotations

import dataclasses
import http.client
import re
import signal
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from deploy.config_file import write
from tests.cloud_fixture import FAKE_HOMES, RunningCloud, new_home, running
from tests.eventually import until
from tests.ports import free_port_base

pytestmark = pytest.mark.timeout(300)

FACADES = ["facade-1", "facade-2", "facade-3"]
ROUNDS = 40


@pytest.fixture(scope="module")
def cloud() -> Iterator[RunningCloud]:
    home = new_home(FAKE_HOMES.with_name(f"{FAKE_HOMES.name}-facades"))
    options = ["--hypervisor", "fake", "--no-image", "--port-base", str(free_port_base())]
    for made in running(RunningCloud(home=home, options=options)):
        resize(made, len(FACADES))
        yield made


def resize(cloud: RunningCloud, processes: int) -> None:
    """As an operator does it."""
    config = cloud.config
    facade = dataclasses.replace(config.facade, processes=processes)
    write(cloud.home / "mallee.toml", dataclasses.replace(config, facade=facade))
    cloud.up()


def client(cloud: RunningCloud) -> Any:
    """Of the kind that users have: it tries again what met a process that died."""
    return cloud.client("s3", retries={"total_max_attempts": 8, "mode": "standard"})


def answered(cloud: RunningCloud) -> dict[str, int]:
    """How many requests each facade has answered."""
    return {member: _requests(cloud.config.facade.metrics_port_of(member)) for member in cloud.config.facade.members}


def _requests(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        found = re.findall(r"^mallee_http_requests_total\{.*\} (\S+)$", answer.read().decode(), re.MULTILINE)
    return sum(int(float(count)) for count in found)


def ask_anew(cloud: RunningCloud) -> bool:
    """By a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", cloud.config.facade.port, timeout=30)
    connection.request("GET", "/", headers={"Connection": "close"})
    with connection.getresponse() as answer:
        answer.read()
    connection.close()
    return answer.status < 500


def facades_shown(cloud: RunningCloud) -> list[str]:
    return [member["Id"] for member in cloud.json("status")["Members"] if member["Role"] == "facade"]


def test_each_of_them_serves_and_is_shown(cloud: RunningCloud) -> None:
    before = answered(cloud)
    assert list(before) == FACADES

    def all_have_served() -> bool:
        assert ask_anew(cloud)
        return all(count > before[member] for member, count in answered(cloud).items())

    until(all_have_served, every_s=0, what="a request at each facade")
    shown = cloud.json("status")
    assert shown["State"] == "up"
    assert {service["Name"] for service in shown["Services"]} >= set(FACADES)
    members = [member for member in shown["Members"] if member["Role"] == "facade"]
    assert facades_shown(cloud) == FACADES
    assert len({member["Address"] for member in members}) == 1
    assert len({member["Metrics"] for member in members}) == len(FACADES)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_clients_outlive_one_of_them(cloud: RunningCloud, number: signal.Signals) -> None:
    bucket, workers = f"outlives-{number.name.lower()}", range(3)
    client(cloud).create_bucket(Bucket=bucket)
    half = threading.Barrier(len(workers) + 1)

    def work(worker: int) -> None:
        s3 = client(cloud)
        for count in range(ROUNDS):
            if count == ROUNDS // 2:
                half.wait(60)
            s3.put_object(Bucket=bucket, Key=f"{worker}/{count}", Body=b"x" * count)
            assert s3.get_object(Bucket=bucket, Key=f"{worker}/{count}")["Body"].read() == b"x" * count

    with ThreadPoolExecutor(len(workers)) as threads:
        done = threads.map(work, workers)
        half.wait(60)
        pid = cloud.kill("facade-2", number)
        assert list(done) == [None] * len(workers)
    assert client(cloud).list_objects_v2(Bucket=bucket)["KeyCount"] == len(workers) * ROUNDS
    # Nobody is sent to the one that is gone, and the next of its name serves like the others.
    until(lambda: cloud.pid("facade-2") not in (0, pid), what="another process")
    cloud.wait_ready("facade-2")
    assert all(ask_anew(cloud) for _ in range(ROUNDS))


def test_there_may_be_fewer_again(cloud: RunningCloud) -> None:
    resize(cloud, 1)
    assert {name for name in cloud.members if name.startswith("facade")} == {"facade-1"}
    assert cloud.json("status")["State"] == "up"
    # One that could not say goodbye is a member until its lease ends.
    until(lambda: facades_shown(cloud) == ["facade-1"], what="one member")
    assert client(cloud).list_buckets()["Buckets"]

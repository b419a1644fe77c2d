"""The supervisor: s6 as this repository drives it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.s6 import Service, Supervisor, SupervisorError
from tests import processes
from tests.chaos.small_disk import small_disk
from tests.eventually import eventually

READY = 'echo >&"$MALLEE_NOTIFY_FD"; exec sleep 1000'


def shell(name: str, script: str, **more: object) -> Service:
    return Service(name=name, command=["/bin/sh", "-c", script], **more)  # type: ignore[arg-type]


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    for folder in ("run", "log"):
        (tmp_path / folder).mkdir()
    supervisor = Supervisor(tmp_path)
    yield supervisor
    supervisor.stop()


def pid_of(supervisor: Supervisor, name: str) -> int:
    return next(state.pid for state in supervisor.states() if state.name == name)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_service_is_waited_for_until_it_says_that_it_is_ready(supervisor: Supervisor) -> None:
    supervisor.ensure([shell("a", READY), shell("b", READY)])
    supervisor.wait_ready("a", 10)
    supervisor.wait_ready("b", 10)
    assert [(s.name, s.up, s.ready) for s in supervisor.states()] == [("a", True, True), ("b", True, True)]


async def test_what_is_killed_comes_back(supervisor: Supervisor) -> None:
    supervisor.ensure([shell("a", READY)])
    supervisor.wait_ready("a", 10)
    first = pid_of(supervisor, "a")
    processes.kill(first)
    await eventually(lambda: pid_of(supervisor, "a") not in (0, first))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_it_knows_what_came_back_while_its_disk_was_full() -> None:
    with small_disk(Path("/var/lib/mallee-test-supervisor")) as disk:
        supervisor = Supervisor(disk.home)
        supervisor.ensure([shell("a", READY)])
        try:
            supervisor.wait_ready("a", 10)
            first = pid_of(supervisor, "a")
            with disk.filled():
                processes.kill(first)
                await eventually(lambda: pid_of(supervisor, "a") not in (0, first))
                supervisor.wait_ready("a", 10)
            assert not gone(pid_of(supervisor, "a"))
        finally:
            supervisor.stop()


def test_one_that_cannot_start_is_reported_with_its_last_words(supervisor: Supervisor) -> None:
    supervisor.ensure([shell("a", "echo the cable is out; exit 1")])
    with pytest.raises(SupervisorError, match="the cable is out"):
        supervisor.wait_ready("a", 30)


def test_repeating_ensure_restarts_only_what_changed(supervisor: Supervisor, tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text("one")
    services = [shell("a", READY, reads=[file]), shell("b", READY)]
    supervisor.ensure(services)
    supervisor.wait_ready("a", 10)
    supervisor.wait_ready("b", 10)
    before = [pid_of(supervisor, name) for name in "ab"]
    supervisor.ensure(services)
    assert [pid_of(supervisor, name) for name in "ab"] == before

    file.write_text("two")
    supervisor.ensure(services)
    supervisor.wait_ready("a", 10)
    after = [pid_of(supervisor, name) for name in "ab"]
    assert after[0] != before[0]
    assert after[1] == before[1]


async def test_nothing_of_a_killed_supervisor_runs_beside_its_successor(supervisor: Supervisor) -> None:
    supervisor.ensure([shell("a", READY)])
    supervisor.wait_ready("a", 10)
    old = pid_of(supervisor, "a")
    processes.kill(supervisor.pid())
    await eventually(lambda: not supervisor.pid())
    supervisor.ensure([shell("a", READY)])
    supervisor.wait_ready("a", 10)
    assert gone(old)


def guardian_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_a_service_follows_its_guardian_into_death_and_is_started_once(supervisor: Supervisor) -> None:
    supervisor.ensure([shell("a", READY)])
    supervisor.wait_ready("a", 10)
    old = pid_of(supervisor, "a")
    processes.kill(guardian_of(old))
    await eventually(lambda: gone(old))
    await eventually(lambda: pid_of(supervisor, "a") not in (0, old))


def test_stop_ends_everything_and_a_stubborn_one_too(supervisor: Supervisor) -> None:
    supervisor.ensure([shell("a", READY), shell("b", f"trap '' TERM; {READY}", stop_s=1)])
    supervisor.wait_ready("a", 10)
    supervisor.wait_ready("b", 10)
    pids = [pid_of(supervisor, name) for name in "ab"]
    supervisor.stop()
    assert all(gone(pid) for pid in pids)
    assert supervisor.pid() == 0


def test_a_service_that_is_dropped_is_gone(supervisor: Supervisor) -> None:
    supervisor.ensure([shell("a", READY), shell("b", READY)])
    supervisor.wait_ready("b", 10)
    old = pid_of(supervisor, "b")
    supervisor.drop({"a"})
    assert gone(old)
    assert supervisor.names() == ["a"]


def test_a_service_sees_no_variable_of_the_shell_that_started_it(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of somebody else")
    supervisor.ensure([shell("a", f"env >{tmp_path}/seen; {READY}", environment={"COLOUR": "green"})])
    supervisor.wait_ready("a", 10)
    seen = (tmp_path / "seen").read_text()
    assert "COLOUR=green" in seen
    assert "AWS_" not in seen

"""What the README promises: five printed lines, typed into a new shell, end in a login; and the commands around it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import fabric
from deploy.guests import end_all_processes
from tests.cloud_fixture import REAL_HOMES, RunningCloud, command, free_ranges, new_home
from tests.e2e.host_traces import host_traces, processes
from tests.ports import free_port_base

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cloud() -> Iterator[RunningCloud]:
    """One of its own: these tests take it down and remove it."""
    homes = REAL_HOMES.with_name(f"{REAL_HOMES.name}-first")
    cloud = RunningCloud(home=new_home(homes), options=["--port-base", str(free_port_base()), *free_ranges()])
    yield cloud
    if (cloud.home / "mallee.toml").exists() and not os.environ.get("MALLEE_KEEP"):
        cloud.destroy()


class Shell:
    """A new login shell of a user with an empty folder; it keeps nothing but that folder between commands."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, script: str) -> str:
        path = f"{Path(command()).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        done = subprocess.run(
            ["/bin/bash", "-e", "-c", script],
            env={"HOME": str(self._folder), "PATH": path, "LANG": "C.UTF-8"},
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="module")
def lines(cloud: RunningCloud) -> list[str]:
    return cloud.mallee("up", *cloud.options).stdout.strip().splitlines()[-5:]


def test_five_lines_start_a_machine_and_log_in(lines: list[str], shell: Shell) -> None:
    said = shell.run("\n".join(lines) + ' "hostname; cat /proc/uptime"')
    assert "ip-172-31-" in said


def log_in(lines: list[str], shell: Shell, what: str) -> str:
    """By the key and to the machine that the five lines made."""
    find = "id=$(aws ec2 describe-instances --query 'Reservations[0].Instances[0].InstanceId' --output text)"
    return shell.run("\n".join([lines[0], find, f"{lines[4]} '{what}'"]))


def test_a_machine_runs_on_while_the_services_rest(cloud: RunningCloud, lines: list[str], shell: Shell) -> None:
    log_in(lines, shell, "touch /tmp/since-then")
    cloud_id = cloud.config.cloud_id
    cloud.down()
    assert any("qemu-system" in process for process in processes(cloud_id, cloud.home))
    cloud.up("--no-image")
    assert "since-then" in log_in(lines, shell, "ls /tmp")


def test_a_machine_that_was_powered_off_with_the_cloud_boots_with_it(
    cloud: RunningCloud, lines: list[str], shell: Shell
) -> None:
    cloud_id = cloud.config.cloud_id
    log_in(lines, shell, "echo kept > /root/kept; sync; touch /run/since-then")
    cloud.down("--vms")
    assert not any("qemu-system" in process for process in processes(cloud_id, cloud.home))
    cloud.up("--no-image")
    said = log_in(lines, shell, "cat /root/kept; ls /run")
    assert "kept" in said
    assert "since-then" not in said


def test_a_machine_boots_again_after_the_host_did(cloud: RunningCloud, lines: list[str], shell: Shell) -> None:
    log_in(lines, shell, "echo kept > /root/kept; sync; touch /run/since-then")
    # As a reboot leaves it: no process, no namespace, no link, no rule; the files of /run on disk.
    config = cloud.config
    cloud.supervisor.stop()
    end_all_processes(config)
    fabric.destroy(config)
    for note in cloud.home.glob("nodes/*/run/boot-id"):
        note.write_text("another boot")
    cloud.up("--no-image")
    said = log_in(lines, shell, "cat /root/kept; ls /run")
    assert "kept" in said
    assert "since-then" not in said


def test_nothing_is_left_when_the_cloud_is_removed(cloud: RunningCloud, lines: list[str]) -> None:
    cloud_id, home = cloud.config.cloud_id, cloud.home
    assert host_traces(cloud_id, home)
    cloud.destroy()
    assert host_traces(cloud_id, home) == []

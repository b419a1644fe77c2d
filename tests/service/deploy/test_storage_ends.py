"""What serves volumes outlives its controller and its supervisor, and ends with its cloud."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from common.config import CloudConfig
from deploy.guests import end_storage


def _started(pid_file: Path) -> int:
    pid_file.parent.mkdir(parents=True)
    subprocess.run(["qemu-storage-daemon", "--daemonize", "--pidfile", str(pid_file)], check=True, cwd="/")
    return int(pid_file.read_text())


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("place", ["run/sc-us-east-1a/1.pid", "volumes/sc-us-east-1a/engine/1.pid"])
def test_the_storage_daemons_of_a_cloud_end_and_no_others(tmp_path: Path, place: str) -> None:
    mine, other = _started(tmp_path / "one" / place), _started(tmp_path / "two" / place)
    try:
        end_storage(CloudConfig(cloud_id="0000", home=str(tmp_path / "one")))
        until = time.monotonic() + 10
        while _lives(mine) and time.monotonic() < until:
            os.sched_yield()
        assert not _lives(mine)
        assert _lives(other)
    finally:
        end_storage(CloudConfig(cloud_id="0000", home=str(tmp_path / "two")))
        assert not _lives(other)

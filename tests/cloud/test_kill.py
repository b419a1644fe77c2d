"""The supervisors of a cloud are killed: what they look after goes with them and comes back.

That nothing is lost whatever else is killed, and whenever, is shown by test_chaos.py.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from tests import processes
from tests.chaos.faults import wait_for_others
from tests.chaos.promises import unsettled
from tests.cloud_fixture import RunningCloud
from tests.eventually import until

pytestmark = pytest.mark.timeout(400)

SETTLED_S = 60.0


def test_supervisors_that_are_killed_take_their_services_with_them_and_bring_them_back(
    fake_cloud: RunningCloud,
) -> None:
    """Else two of one service would run."""
    ec2 = fake_cloud.client("ec2")
    before = {member: fake_cloud.pid(member) for member in fake_cloud.members}
    for pid in supervisors(fake_cloud):
        processes.kill(pid)
    wait_for_others(fake_cloud, before)
    until(lambda: not unsettled(ec2), within_s=SETTLED_S, what="the API answers")
    # Nobody looks after the first of them; the command does.
    before = {member: fake_cloud.pid(member) for member in fake_cloud.members}
    processes.kill(fake_cloud.supervisor.pid())
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

"""Ways to hurt a cloud. Each is a context: the fault holds inside, and is mended on the way out.

What was hurt gets well only after that, and when nothing else is hurt: the caller waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator

from common.netns import UNDERLAY
from tests import processes
from tests.cloud_fixture import RunningCloud
from tests.eventually import until

# On a busy machine: between a kill and a process that says it is ready again.
BACK_S = 90.0
_SILENT = ("etcd", "libvirtd", "virtlogd")


def kind_of(member: str) -> str:
    """nc-us-east-1a-1 → nc."""
    return member.partition("-")[0]


def kill(cloud: RunningCloud, victims: Iterable[str]) -> dict[str, int]:
    """Returns the pids that they had; 0 for one that had not come back yet."""
    pids = {victim: cloud.pid(victim) for victim in victims}
    for pid in pids.values():
        if pid:
            with contextlib.suppress(ProcessLookupError):
                processes.kill(pid)
    return pids


def wait_for_others(cloud: RunningCloud, pids: dict[str, int]) -> None:
    """Until each has come back by itself."""
    for victim, pid in pids.items():
        until(lambda: cloud.pid(victim) not in (0, pid), within_s=BACK_S, what=f"another {victim}")  # noqa: B023
    wait_ready(cloud, pids)


def wait_ready(cloud: RunningCloud, members: Iterable[str]) -> None:
    for member in members:
        if kind_of(member) not in _SILENT:
            cloud.wait_ready(member, BACK_S)


@contextlib.contextmanager
def killed(cloud: RunningCloud, victims: list[str], dead: dict[str, int], *, twice: bool = False) -> Iterator[None]:
    """Their pids come into `dead`. `twice`: again on their way up."""
    dead |= kill(cloud, victims)
    if twice:
        until(lambda: cloud.pid(victims[0]) not in (0, dead[victims[0]]), within_s=BACK_S, what="its successor")
        dead |= kill(cloud, victims)
    yield


@contextlib.contextmanager
def paused(cloud: RunningCloud, victims: list[str]) -> Iterator[None]:
    """SIGSTOP, and SIGCONT in the end. Nobody else's process is meant if one ended meanwhile."""
    descriptors = []
    try:
        for victim in victims:
            with contextlib.suppress(ProcessLookupError, OSError):
                descriptors.append(os.pidfd_open(cloud.pid(victim)))
        _send(descriptors, signal.SIGSTOP)
        yield
    finally:
        _send(descriptors, signal.SIGCONT)
        for descriptor in descriptors:
            os.close(descriptor)


def _send(descriptors: list[int], number: signal.Signals) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, number)


@contextlib.contextmanager
def link_down(namespace: str) -> Iterator[None]:
    """The node's leg on the underlay."""
    _set_link(namespace, "down")
    try:
        yield
    finally:
        _set_link(namespace, "up")


def _set_link(namespace: str, way: str) -> None:
    subprocess.run(["ip", "-n", namespace, "link", "set", UNDERLAY, way], check=True)


def hold(seconds: float, stop: Callable[[], object]) -> None:
    """Lets a fault last, unless something is wrong already."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stop():
        time.sleep(0.05)

"""Whole clouds for tests, made by `mallee up` as any user makes one, and removed by `mallee destroy`.

    fake_cloud   every service, fake drivers; in the tests' own user
    real_cloud   two zones of two nodes with real machines; root. It has ports and ranges of its own, beside a user's.

What a killed run left is found by its folder's name and removed first.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from common.config import CloudConfig, load
from deploy.s6 import Supervisor
from tests import processes
from tests.eventually import until
from tests.ports import free_port_base

CHECKOUT = Path(__file__).parents[1]
FAKE_HOMES, REAL_HOMES = Path(tempfile.gettempdir()) / "mallee-test-fake", Path("/var/lib/mallee-test-real")
_ROOT = os.geteuid() == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """An account's way in."""

    account_id: str
    canonical_user_id: str
    access_key_id: str
    secret_access_key: str


@dataclass(kw_only=True)
class RunningCloud:
    home: Path
    options: list[str]
    _accounts: dict[str, Keys] = field(default_factory=dict)

    # The command.

    def mallee(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `mallee ARGUMENTS --home …`; what it printed is captured."""
        return mallee(*arguments, "--home", str(self.home), check=check)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.mallee(*arguments, "--json").stdout)

    def up(self, *more: str) -> None:
        """Returns when every service is ready and every node has joined."""
        self.mallee("up", *self.options, *more)

    def down(self, *more: str) -> None:
        self.mallee("down", *more)

    def destroy(self) -> None:
        self.mallee("destroy", "--yes")

    # What it is made of.

    @property
    def config(self) -> CloudConfig:
        return load(self.home / "mallee.toml")

    @property
    def supervisor(self) -> Supervisor:
        return Supervisor(self.home)

    @property
    def members(self) -> list[str]:
        """Names of all supervised processes: clc-1, nc-us-east-1a-1, libvirtd-nc-us-east-1a-1 …"""
        return self.supervisor.names()

    def pid(self, member: str) -> int:
        """0 while it is down."""
        return next(state.pid for state in self.supervisor.states() if state.name == member)

    def kill(self, member: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Kills the process as soon as there is one; the supervisor starts another. Returns the pid that it had."""
        pid = until(lambda: self.pid(member), what=f"a process of {member}")
        processes.kill(pid, number)
        return pid

    def wait_ready(self, member: str, deadline_s: float = 60) -> None:
        """After a kill: until the next process of that name says that it is ready."""
        self.supervisor.wait_ready(member, deadline_s)

    def log(self, member: str) -> str:
        return (self.home / "log" / member / "current").read_text(errors="replace")

    # The public API.

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.config.facade.port}"

    def account(self, name: str = "admin") -> Keys:
        """Makes it the first time it is asked for."""
        if name not in self._accounts:
            self._accounts[name] = self._find(name) if name == "admin" else self._create(name)
        return self._accounts[name]

    def client(self, service: str, account: str = "admin", **config: Any) -> Any:
        """A boto3 client of that account, which tries once; `config` goes to botocore's Config."""
        keys = self.account(account)
        tries: dict[str, Any] = {"retries": {"total_max_attempts": 1}, "read_timeout": 60}
        settings = Config(**(tries | config))
        return boto3.Session(
            aws_access_key_id=keys.access_key_id,
            aws_secret_access_key=keys.secret_access_key,
            region_name=self.config.region,
        ).client(service, endpoint_url=self.endpoint_url, config=settings)  # type: ignore[call-overload]

    def environment(self, account: str = "admin") -> dict[str, str]:
        """For a subprocess that is a user: the AWS CLI of the virtual environment comes first on its PATH."""
        keys = self.account(account)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return kept | {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": keys.access_key_id,
            "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
            "AWS_DEFAULT_REGION": self.config.region,
            "AWS_REGION": self.config.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "PATH": f"{Path(sys.executable).parent}:{kept.get('PATH', '')}",
        }

    @cached_property
    def image_id(self) -> str:
        """The small image (with the fake hypervisor a stand-in), owned by admin; kernel and ramdisk come with it."""
        installed: str = self.json("images", "install")["ImageId"]
        return installed

    def _create(self, name: str) -> Keys:
        made = self.json("accounts", "create", name)
        return Keys(
            account_id=made["AccountId"],
            canonical_user_id=made["CanonicalUserId"],
            access_key_id=made["AccessKeyId"],
            secret_access_key=made["SecretAccessKey"],
        )

    def _find(self, name: str) -> Keys:
        shown = self.json("credentials", name)
        listed = {account["Name"]: account for account in self.json("accounts", "list")}
        return Keys(
            account_id=shown["AccountId"],
            canonical_user_id=listed[name]["CanonicalUserId"],
            access_key_id=shown["AWS_ACCESS_KEY_ID"],
            secret_access_key=shown["AWS_SECRET_ACCESS_KEY"],
        )


@cache
def command() -> str:
    """`mallee` of this checkout; for root of a snapshot, which unprivileged services can read."""
    if _ROOT:
        setup = [str(CHECKOUT / "deploy" / "setup.sh"), "code"]
        return subprocess.run(setup, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    script = Path(tempfile.mkdtemp(prefix="mallee-command-")) / "mallee"
    search_path = f"{CHECKOUT}:{CHECKOUT / 'gen'}"
    script.write_text(f'#!/bin/sh\nexec env PYTHONPATH={search_path} {shlex.quote(sys.executable)} -m cli.main "$@"\n')
    script.chmod(0o755)
    return str(script)


def mallee(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [command(), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
    )
    assert not check or done.returncode == 0, f"mallee {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="session")
def fake_cloud() -> Iterator[RunningCloud]:
    """One zone of two nodes with fake drivers."""
    cloud = RunningCloud(
        home=new_home(FAKE_HOMES),
        options=["--hypervisor", "fake", "--nodes", "2", "--no-image", "--port-base", str(free_port_base())],
    )
    yield from running(cloud)


@pytest.fixture(scope="session")
def real_cloud() -> Iterator[RunningCloud]:
    """Two zones of two nodes with real machines, with one Walrus on any machine."""
    if not _ROOT:
        pytest.skip("needs root")
    shape = ["--zones", "2", "--nodes", "2", "--walrus-processes", "1"]
    cloud = RunningCloud(
        home=new_home(REAL_HOMES),
        options=[*shape, "--no-image", "--port-base", str(free_port_base()), *free_ranges()],
    )
    yield from running(cloud)


def free_ranges() -> list[str]:
    """Options for ranges that nothing on this machine uses: shared address space and RFC 2544's, never documentation
    ranges, by which the machine that tests may reach its registries."""
    routes = subprocess.run(["ip", "route", "show"], capture_output=True, text=True, check=True).stdout
    for number in random.sample(range(100, 250), 100):
        underlay, pool = f"100.64.{number}.0/24", f"198.18.{number}.0/24"
        if underlay not in routes and pool not in routes:
            return ["--underlay", underlay, "--public-pool", pool]
    raise AssertionError("no free range of addresses")


def running(cloud: RunningCloud) -> Iterator[RunningCloud]:
    try:
        cloud.up()
        yield cloud
    finally:
        if os.environ.get("MALLEE_KEEP"):
            print(f"kept: {cloud.home}")
        elif (cloud.home / "mallee.toml").exists():
            cloud.destroy()
        else:
            shutil.rmtree(cloud.home, ignore_errors=True)


def new_home(homes: Path) -> Path:
    """A folder named after this process; those of processes that are gone are clouds that nobody will remove."""
    for left in homes.parent.glob(f"{homes.name}-*"):
        pid = left.name.removeprefix(f"{homes.name}-")
        if not pid.isdigit() or Path(f"/proc/{pid}").exists() or not os.access(left, os.W_OK):
            continue
        mallee("destroy", "--yes", "--home", str(left), check=False)
        shutil.rmtree(left, ignore_errors=True)
    return Path(f"{homes}-{os.getpid()}")

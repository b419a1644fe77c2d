"""Real etcd servers for tests: plain and single, or three with TLS that can be killed, frozen and restarted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.etcd.client import Etcd
from etcdrpc import rpc_pb2
from tests.ports import free_ports

ETCD = shutil.which("etcd") or "/usr/bin/etcd"


class EtcdServer:
    """One member. `address` is host:port of its client side."""

    def __init__(self, name: str, folder: Path, *, tls: Path | None = None, quota_bytes: int = 0) -> None:
        self.name = name
        self._quota_bytes = quota_bytes
        self._folder = folder
        self._tls = tls
        self.port, self.peer_port, self._metrics_port = free_ports(3)
        self.address = f"127.0.0.1:{self.port}"
        self.cluster = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def peer_url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.peer_port}"

    @property
    def _scheme(self) -> str:
        return "https" if self._tls else "http"

    def start(self) -> None:
        client = f"{self._scheme}://{self.address}"
        command = [ETCD, "--name", self.name, "--data-dir", str(self._folder / self.name)]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url]
        command += ["--initial-cluster", self.cluster or f"{self.name}={self.peer_url}"]
        command += ["--listen-metrics-urls", f"http://127.0.0.1:{self._metrics_port}", "--max-txn-ops", "4096"]
        command += ["--logger", "zap", "--log-level", "error", "--quota-backend-bytes", str(self._quota_bytes)]
        if self._tls:
            certificate, key = self._tls / f"{self.name}.pem", self._tls / f"{self.name}-key.pem"
            for side in ("", "peer-"):
                command += [f"--{side}cert-file", str(certificate), f"--{side}key-file", str(key)]
                command += [f"--{side}trusted-ca-file", str(self._tls / "ca.pem"), f"--{side}client-cert-auth"]
        with (self._folder / f"{self.name}.log").open("ab") as log:
            # Dies with the test process, however that ends.
            self._process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log)

    def wait_healthy(self, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/health", timeout=2) as answer,
            ):
                if b'"true"' in answer.read():
                    return
            time.sleep(0.02)
        raise TimeoutError(f"{self.name} did not become healthy: {(self._folder / f'{self.name}.log').read_text()}")

    def kill(self) -> None:
        """As a crash does it."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Its connections stand, and it answers nothing. Returns when all its threads have stopped."""
        self._signal(signal.SIGSTOP)
        assert self._process
        threads = Path(f"/proc/{self._process.pid}/task")
        while not all((t / "stat").read_text().rpartition(") ")[2].startswith("T") for t in threads.iterdir()):
            time.sleep(0.001)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)


async def compact(etcd: Etcd, revision: int) -> None:
    """Forgets what was before `revision`."""
    await etcd.write(lambda e: e.kv.Compact, rpc_pb2.CompactionRequest(revision=revision))


@contextlib.contextmanager
def running_etcd(folder: Path, *, quota_bytes: int = 0) -> Iterator[EtcdServer]:
    """`quota_bytes`: 0 is etcd's own default."""
    server = EtcdServer("etcd-1", folder, quota_bytes=quota_bytes)
    server.start()
    try:
        server.wait_healthy()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def running_cluster(folder: Path, tls: Path) -> Iterator[list[EtcdServer]]:
    """Three members; `tls` holds ca.pem and etcd-1.pem, etcd-1-key.pem …"""
    servers = [EtcdServer(f"etcd-{n}", folder, tls=tls) for n in (1, 2, 3)]
    for server in servers:
        server.cluster = ",".join(f"{s.name}={s.peer_url}" for s in servers)
        server.start()
    try:
        for server in servers:
            server.wait_healthy()
        yield servers
    finally:
        for server in servers:
            server.kill()


@pytest.fixture(scope="session")
def _shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture
def etcd_server(_shared_etcd: EtcdServer) -> Iterator[EtcdServer]:
    """A plain member, empty, shared by the tests of one process: do not kill it, use `own_etcd_server` for that."""
    yield _shared_etcd
    subprocess.run(
        ["etcdctl", "--endpoints", _shared_etcd.address, "del", "", "--from-key"],
        env={**os.environ, "ETCDCTL_API": "3"}, check=True, capture_output=True,
    )  # fmt: skip


@pytest.fixture
def own_etcd_server(tmp_path: Path) -> Iterator[EtcdServer]:
    """A plain member of the test's own, to be killed, stopped and restarted."""
    with running_etcd(tmp_path) as server:
        yield server

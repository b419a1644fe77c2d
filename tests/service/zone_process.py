"""A zone's controller as a process, on an etcd with TLS and users, which both service's tests of it want."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from common import pki
from common.etcd.auth import EtcdUser, ensure_auth
from common.etcd.client import Etcd
from common.pki import Identity
from tests.etcd_fixture import EtcdServer


def make_pki(folder: Path, users: Sequence[EtcdUser]) -> Path:
    """With etcd's own certificate and its administrator's."""
    pki.create_authority(folder)
    for member, role in (("etcd-1", "etcd"), ("admin", "admin"), *((user.member_id, user.role) for user in users)):
        pki.issue(folder, member, role, ips=["127.0.0.1"])
    return folder


@asynccontextmanager
async def etcd_of(folder: Path, pki_folder: Path, users: Sequence[EtcdUser]) -> AsyncIterator[EtcdServer]:
    server = EtcdServer("etcd-1", folder, tls=pki_folder)
    server.start()
    try:
        server.wait_healthy()
        async with Etcd([server.address], Identity.load(pki_folder, "admin")) as admin:
            await ensure_auth(admin, users)
        yield server
    finally:
        server.kill()


@contextmanager
def running(module: str, config: Path, member: str) -> Iterator[subprocess.Popen[bytes]]:
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", module]
    process = subprocess.Popen(
        [*command, "--config", str(config), "--member", member], env={**os.environ, "PYTHONPATH": ".:gen"}
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()

"""etcd and Walrus as processes with certificates, for tests of what speaks to both."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from common import pki
from common.keyring import OBJECT_KEYS, new_line
from tests.etcd_fixture import EtcdServer
from tests.ports import free_port

ROOT: Final = Path(__file__).parents[2]
ENVIRONMENT: Final = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"}


@contextmanager
def etcd_of(home: Path) -> Iterator[EtcdServer]:
    folder = home / "pki"
    pki.create_authority(folder)
    for member, role in (("walrus-1", "walrus"), ("facade-1", "facade"), ("sc-a", "sc"), ("etcd-1", "etcd")):
        pki.issue(folder, member, role, ips=["127.0.0.1"])
    pki.create_self_signed(folder, pki.BUNDLE_OPENER)
    server = EtcdServer("etcd-1", home, tls=folder)
    server.cluster = f"etcd-1={server.peer_url}"
    server.start()
    try:
        server.wait_healthy()
        yield server
    finally:
        server.kill()


def configured(home: Path, etcd: EtcdServer) -> Path:
    """The configuration's file."""
    (home / "pki" / "ticket.key").write_bytes(secrets.token_bytes(32))
    (home / "pki" / OBJECT_KEYS).write_bytes(new_line())
    path = home / "mallee.toml"
    path.write_text(
        f'cloud_id = "abcd"\nhome = "{home}"\n[etcd]\nendpoints = ["{etcd.address}"]\n'
        f"[walrus]\nport = {free_port()}\nmetrics_port = {free_port()}\nreserve_bytes = 1\n"
        "[sc]\nreserve_bytes = 1\n"
    )
    return path


@asynccontextmanager
async def walrus(home: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.walrus.main", "--config", str(home / "mallee.toml"), "--member", "walrus-1"),
        cwd=ROOT,
        env=ENVIRONMENT,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()

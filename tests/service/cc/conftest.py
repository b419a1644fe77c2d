"""A zone: real etcd, cluster controllers over gRPC, pretended nodes, and a client with the CLC's certificate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from common import pki
from common.etcd.client import Etcd
from common.pki import Identity
from tests.etcd_fixture import EtcdServer
from tests.service.cc.stage import Stage


@pytest.fixture(scope="package")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    pki.create_authority(folder)
    for member, role in (
        ("clc-1", "clc"), ("cc-1", "cc"), ("cc-2", "cc"), ("nc-1", "nc"), ("nc-2", "nc"), ("nc-3", "nc")
    ):  # fmt: skip
        pki.issue(folder, member, role, ips=["127.0.0.1"])
    return folder


@pytest.fixture
async def stage(etcd_server: EtcdServer, certificates: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(Etcd([etcd_server.address], None))
        yield Stage(
            stack,
            etcd,
            etcd_address=etcd_server.address,
            identities={m: Identity.load(certificates, m) for m in ("clc-1", "cc-1", "cc-2", "nc-1", "nc-2", "nc-3")},
        )

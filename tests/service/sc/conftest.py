"""A zone's storage: real etcd, the storage controller over gRPC, the fake driver."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from common import pki
from common.etcd.client import Etcd
from common.pki import Identity
from tests.etcd_fixture import EtcdServer
from tests.service.sc.stage import ZONE, Stage

MEMBERS = (("clc-1", "clc"), ("sc-1", "sc"), ("nc-1", "nc"), ("nc-2", "nc"))


@pytest.fixture(scope="package")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    pki.create_authority(folder)
    for member, role in MEMBERS:
        pki.issue(folder, member, role, ips=["127.0.0.1"])
    return folder


@pytest.fixture
async def stage(etcd_server: EtcdServer, certificates: Path, tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(
            stack,
            etcd_address=etcd_server.address,
            identities={member: Identity.load(certificates, member) for member, _ in MEMBERS},
            folder=tmp_path,
        )
    async with Etcd([etcd_server.address], None) as etcd:
        await etcd.delete_prefix(f"/mallee/sc/{ZONE}/")

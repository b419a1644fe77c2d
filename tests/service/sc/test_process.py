"""The storage controller as a process, on etcd with TLS and users: killed, it is back at once and knows everything."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common.config import CloudConfig
from common.errors import Unavailable
from common.etcd.auth import EtcdUser
from common.etcd.client import Etcd
from common.etcd.election import Leaders
from common.etcd.membership import Membership
from common.host import host_id
from common.pki import Identity
from common.rpc.peers import Peers
from deploy.guests import end_storage
from mallee.sc.v1 import service_pb2 as sc
from mallee.sc.v1 import volume_pb2
from mallee.sc.v1.service_pb2_grpc import StorageControllerServiceStub
from tests.etcd_fixture import EtcdServer
from tests.ports import free_ports
from tests.service.sc.stage import AVAILABLE, ZONE, spec, volume_id
from tests.service.zone_process import etcd_of, make_pki, running

if TYPE_CHECKING:
    from mallee.sc.v1.service_pb2_grpc import StorageControllerServiceAsyncStub as Stub

SC = f"sc-{ZONE}"
NC = f"nc-{ZONE}-1"
USERS = [
    EtcdUser(member_id=member, role=role, zone=ZONE) for member, role in (("clc-1", "clc"), (SC, "sc"), (NC, "nc"))
]


@pytest.fixture(scope="module")
def pki_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pki(tmp_path_factory.mktemp("home") / "pki", USERS)


@pytest.fixture
async def etcd_with_users(tmp_path: Path, pki_folder: Path) -> AsyncIterator[EtcdServer]:
    async with etcd_of(tmp_path, pki_folder, USERS) as server:
        yield server


class _Caller:
    """A member that looks for the leader until it is answered."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def leader(self) -> Stub:
        async with asyncio.timeout(30):
            while True:
                try:
                    stub: Stub = self._peers.leader_stub(StorageControllerServiceStub)
                    await stub.EnsureVolume(sc.EnsureVolumeRequest(spec=spec(1)))
                    return stub
                except Unavailable:
                    await asyncio.sleep(0.02)


@pytest.fixture
def home(pki_folder: Path) -> Iterator[Path]:
    """Short: sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="mallee-sc-"))
    (folder / "pki").symlink_to(pki_folder)
    yield folder
    end_storage(CloudConfig(cloud_id="0000", home=str(folder)))
    shutil.rmtree(folder)


@pytest.mark.parametrize("driver", ["fake", "qsd"])
async def test_killed_and_started_again_it_leads_and_knows_its_volumes(
    etcd_with_users: EtcdServer, pki_folder: Path, home: Path, driver: str
) -> None:
    (metrics_port,) = free_ports(1)
    config = home / "mallee.toml"
    config.write_text(
        f'cloud_id = "0000"\nhome = "{home}"\n'
        f'[sc]\ndriver = "{driver}"\nreserve_bytes = 0\n[etcd]\nendpoints = ["{etcd_with_users.address}"]\n'
        f'[[zones]]\nname = "{ZONE}"\ncc_port = 1\ncc_metrics_port = 1\nsc_metrics_port = {metrics_port}\n'
    )
    async with AsyncExitStack() as stack:
        clc, nc = Identity.load(pki_folder, "clc-1"), Identity.load(pki_folder, NC)
        etcd = await stack.enter_async_context(Etcd([etcd_with_users.address], clc))
        membership = await stack.enter_async_context(Membership(etcd))
        leaders = await stack.enter_async_context(Leaders(etcd))
        caller = _Caller(await stack.enter_async_context(Peers(membership, clc, "sc", ZONE, leaders=leaders)))
        node = await stack.enter_async_context(Peers(membership, nc, "sc", ZONE, leaders=leaders))
        request = sc.RedeemExportRequest(volume_id=volume_id(1), generation=1, host_id=host_id(home))
        with running("services.sc.main", config, SC):
            stub = await caller.leader()
            grant = volume_pb2.Grant(generation=1, node=NC, instance_id="i-1")
            await stub.GrantExport(sc.GrantExportRequest(volume_id=volume_id(1), grant=grant))
            first = await node.leader_stub(StorageControllerServiceStub).RedeemExport(request)
        daemons = _storage_daemons(home)
        assert len(daemons) == (driver == "qsd")
        with running("services.sc.main", config, SC):
            stub = await caller.leader()
            known = await stub.DescribeStorage(sc.DescribeStorageRequest())
            assert [(v.volume_id, v.state, v.grant) for v in known.volumes] == [(volume_id(1), AVAILABLE, grant)]
            assert await node.leader_stub(StorageControllerServiceStub).RedeemExport(request) == first
        assert _storage_daemons(home) == daemons


def _storage_daemons(home: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[0] == b"qemu-storage-daemon" and any(str(home).encode() in word for word in words):
                found.append(int(process.name))
    return found

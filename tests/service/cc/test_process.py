"""The cluster controller as a process, on etcd with TLS and users: killed, it is back at once and knows everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from common.errors import Unavailable
from common.etcd.auth import EtcdUser
from common.etcd.client import Etcd
from common.etcd.election import Leaders
from common.etcd.membership import Membership
from common.pki import Identity
from common.rpc.peers import Peers
from mallee.cc.v1 import service_pb2 as cc
from mallee.cc.v1.service_pb2_grpc import ClusterControllerServiceStub
from tests.etcd_fixture import EtcdServer
from tests.eventually import eventually
from tests.ports import free_ports
from tests.service.cc.fake_node import ZONE, FakeNode, NodeProcess
from tests.service.cc.stage import spec
from tests.service.zone_process import etcd_of, make_pki, running

CC = f"cc-{ZONE}"
NC = f"nc-{ZONE}-1"
USERS = [
    EtcdUser(member_id="clc-1", role="clc"),
    EtcdUser(member_id=CC, role="cc", zone=ZONE),
    EtcdUser(member_id=NC, role="nc"),
]


@pytest.fixture(scope="module")
def pki_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pki(tmp_path_factory.mktemp("home") / "pki", USERS)


@pytest.fixture
async def etcd_with_users(tmp_path: Path, pki_folder: Path) -> AsyncIterator[EtcdServer]:
    async with etcd_of(tmp_path, pki_folder, USERS) as server:
        yield server


async def _ensure(peers: Peers) -> cc.Placed | None:
    try:
        stub = peers.leader_stub(ClusterControllerServiceStub)
        (placed,) = (await stub.EnsureInstances(cc.EnsureInstancesRequest(specs=[spec(1)]))).placed
    except Unavailable:
        return None
    return placed if not placed.error_code else None


async def test_killed_and_started_again_it_leads_and_knows_its_placements(
    etcd_with_users: EtcdServer, pki_folder: Path, tmp_path: Path
) -> None:
    port, metrics_port = free_ports(2)
    config = tmp_path / "mallee.toml"
    config.write_text(
        f'cloud_id = "0000"\nhome = "{pki_folder.parent}"\n'
        f'[etcd]\nendpoints = ["{etcd_with_users.address}"]\n'
        f'[[zones]]\nname = "{ZONE}"\ncc_port = {port}\ncc_metrics_port = {metrics_port}\n'
    )
    async with AsyncExitStack() as stack:
        clc = Identity.load(pki_folder, "clc-1")
        etcd = await stack.enter_async_context(Etcd([etcd_with_users.address], clc))
        node_etcd = await stack.enter_async_context(Etcd([etcd_with_users.address], Identity.load(pki_folder, NC)))
        membership = await stack.enter_async_context(Membership(etcd))
        leaders = await stack.enter_async_context(Leaders(etcd))
        peers = await stack.enter_async_context(Peers(membership, clc, "cc", ZONE, leaders=leaders))
        process = NodeProcess(FakeNode(NC), Identity.load(pki_folder, NC), node_etcd)
        stack.push_async_callback(process.stop)
        await process.start()

        answers: list[cc.Placed] = []

        async def answered() -> cc.Placed:
            while (placed := await _ensure(peers)) is None:
                await eventually(lambda: membership.members("cc"))
            answers.append(placed)
            return placed

        with running("services.cc.main", config, CC):
            await answered()
        first_epoch = process.node.epoch
        process.node.specs.clear()
        with running("services.cc.main", config, CC):
            await answered()
        assert answers[0] == answers[1]
        assert process.node.epoch > first_epoch
        assert process.node.specs
        assert not process.node.terminated

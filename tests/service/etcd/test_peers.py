"""Peers: channels follow the membership, and the leader's channel the election."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common import pki
from common.background import Background
from common.errors import Unavailable
from common.etcd.client import Etcd
from common.etcd.election import Election, Leaders, Leadership
from common.etcd.membership import Membership
from common.pki import Identity
from common.rpc.peers import Peers
from common.rpc.server import RpcServer
from mallee.common.v1.caller_pb2 import Member
from tests.eventually import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    pki.create_authority(folder)
    for member, role in (("clc-1", "clc"), ("clc-2", "clc"), ("facade-1", "facade")):
        pki.issue(folder, member, role, ips=["127.0.0.1"])
    return folder


@pytest.fixture
async def membership(etcd: Etcd) -> AsyncIterator[Membership]:
    async with Membership(etcd) as membership:
        yield membership


class Process:
    """A server with a membership of its own."""

    def __init__(self, member_id: str, folder: Path, etcd: Etcd) -> None:
        self.member_id = member_id
        self._identity = Identity.load(folder, member_id)
        self._etcd = etcd
        self._stack = AsyncExitStack()
        self._server: RpcServer | None = None

    async def start(self) -> None:
        self._server = server = await self._stack.enter_async_context(RpcServer(self._identity))
        membership = await self._stack.enter_async_context(Membership(self._etcd))
        address = f"127.0.0.1:{server.ports[0]}"
        await membership.register(Member(id=self.member_id, role="clc", address=address))

    async def crash(self) -> None:
        """Nobody listens any more, and the membership stands until its lease ends."""
        assert self._server is not None
        await self._server.stop(0.0)

    async def stop(self) -> None:
        await self._stack.aclose()


async def _answers(peers: Peers, member_id: str | None = None) -> bool:
    stub = peers.stub(health_pb2_grpc.HealthStub, member_id)
    return bool((await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING)


async def test_channels_come_and_go_with_their_members(etcd: Etcd, membership: Membership, folder: Path) -> None:
    async with Peers(membership, Identity.load(folder, "facade-1"), "clc") as peers:
        with pytest.raises(Unavailable):
            peers.channel()
        first, second = Process("clc-1", folder, etcd), Process("clc-2", folder, etcd)
        await first.start()
        await second.start()
        await eventually(lambda: len(peers.members) == 2)
        # Round robin: two calls reach both.
        assert peers.channel() is not peers.channel()
        assert await _answers(peers)
        assert await _answers(peers)
        await first.stop()
        await eventually(lambda: [member.id for member in peers.members] == ["clc-2"])
        assert await _answers(peers)
        with pytest.raises(Unavailable):
            peers.channel("clc-1")
        # Back at another address.
        await first.start()
        await eventually(lambda: len(peers.members) == 2)
        assert await _answers(peers, "clc-1")
        await first.stop()
        await second.stop()


async def test_the_leaders_stub_follows_the_election(etcd: Etcd, membership: Membership, folder: Path) -> None:
    async def lead(leadership: Leadership) -> None:
        await leadership.lost.wait()

    async with (
        Leaders(etcd) as leaders,
        Peers(membership, Identity.load(folder, "facade-1"), "clc", leaders=leaders) as peers,
        Background() as tasks,
    ):
        processes = [Process(name, folder, etcd) for name in ("clc-1", "clc-2")]
        for process in processes:
            await process.start()
        await eventually(lambda: len(peers.members) == 2)
        with pytest.raises(Unavailable):
            peers.leader_stub(health_pb2_grpc.HealthStub)
        term = tasks.start(Election(etcd, "clc", "clc-1").run(lead))
        await eventually(lambda: leaders.leader("clc") == "clc-1")
        assert peers.leader_stub(health_pb2_grpc.HealthStub) is peers.stub(health_pb2_grpc.HealthStub, "clc-1")
        tasks.start(Election(etcd, "clc", "clc-2").run(lead))
        term.cancel()
        await eventually(lambda: leaders.leader("clc") == "clc-2")
        assert peers.leader_stub(health_pb2_grpc.HealthStub) is peers.stub(health_pb2_grpc.HealthStub, "clc-2")
        for process in processes:
            await process.stop()


async def test_a_dead_member_is_passed_over_before_its_lease_ends(
    etcd: Etcd, membership: Membership, folder: Path
) -> None:
    async with Peers(membership, Identity.load(folder, "facade-1"), "clc") as peers:
        first, second = Process("clc-1", folder, etcd), Process("clc-2", folder, etcd)
        for process in (first, second):
            await process.start()
        await eventually(lambda: len(peers.members) == 2)
        await first.crash()
        with pytest.raises(Unavailable):
            await _answers(peers, "clc-1")
        for _ in range(4):
            assert await _answers(peers)
        assert len(peers.members) == 2
        for process in (first, second):
            await process.stop()

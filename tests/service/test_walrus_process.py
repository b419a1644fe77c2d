"""Walrus as its own process: joins the cloud, serves S3, counts, and is there again after kill -9."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession

from common import pki
from common.etcd.client import Etcd
from common.etcd.membership import Membership
from common.pki import Identity
from common.rpc.channel import connect
from mallee.s3.v1 import bucket_pb2, object_pb2
from mallee.s3.v1.service_pb2_grpc import S3ServiceStub
from tests.etcd_fixture import EtcdServer
from tests.eventually import eventually
from tests.ports import free_port
from tests.service.walrus_stage import said_by
from tests.walrus_store import ALICE, stream

ROOT = Path(__file__).parents[2]


@pytest.fixture
def etcd_server(tmp_path: Path) -> Iterator[EtcdServer]:
    folder = tmp_path / "pki"
    pki.create_authority(folder)
    for member, role in (("walrus-1", "walrus"), ("facade-1", "facade"), ("etcd-1", "etcd")):
        pki.issue(folder, member, role, ips=["127.0.0.1"])
    server = EtcdServer("etcd-1", tmp_path, tls=folder)
    server.cluster = f"etcd-1={server.peer_url}"
    server.start()
    try:
        server.wait_healthy()
        yield server
    finally:
        server.kill()


@pytest.fixture
def home(tmp_path: Path, etcd_server: EtcdServer) -> Path:
    pki.create_self_signed(tmp_path / "pki", pki.BUNDLE_OPENER)
    (tmp_path / "pki" / "ticket.key").write_bytes(secrets.token_bytes(32))
    (tmp_path / "mallee.toml").write_text(
        f'cloud_id = "abcd"\nhome = "{tmp_path}"\n[etcd]\nendpoints = ["{etcd_server.address}"]\n'
        f"[walrus]\nport = {free_port()}\nmetrics_port = {free_port()}\nreserve_bytes = 1\n"
    )
    return tmp_path


@asynccontextmanager
async def walrus(home: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.walrus.main", "--config", str(home / "mallee.toml"), "--member", "walrus-1"),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"},
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def test_it_joins_serves_and_comes_back_after_kill_9(home: Path, etcd_server: EtcdServer) -> None:
    identity = Identity.load(home / "pki", "facade-1")
    async with Etcd([etcd_server.address], identity) as etcd, Membership(etcd) as membership:
        async with walrus(home) as child:
            await eventually(lambda: membership.members("walrus"), within_s=60)
            member = membership.members("walrus")[0]
            async with connect(member.address, identity, "walrus-1") as channel:
                s3 = S3ServiceStub(channel)
                await s3.CreateBucket(bucket_pb2.CreateBucketRequest(bucket="bucket"), metadata=said_by(ALICE))
                header = object_pb2.PutObjectRequest(bucket="bucket", key="k")
                messages = stream(object_pb2.PutObjectStream, header, bytes(100_000))
                await s3.PutObject(messages, metadata=said_by(ALICE))
            assert 'mallee_rpc_requests_total{code="OK",method="/mallee.s3.v1.S3Service/PutObject"} 1.0' in (
                await _metrics(member.metrics_address)
            )
            child.send_signal(signal.SIGKILL)
            await child.wait()
        async with walrus(home) as child:
            await eventually(lambda: _restarted(membership, member.boot_id), within_s=60)
            async with connect(member.address, identity, "walrus-1") as channel:
                request = object_pb2.GetObjectRequest(bucket="bucket", key="k")
                answers = S3ServiceStub(channel).GetObject(request, metadata=said_by(ALICE))
                assert b"".join([answer.chunk async for answer in answers]) == bytes(100_000)
            child.terminate()
            assert await child.wait() == 0


def _restarted(membership: Membership, boot_id: str) -> bool:
    return any(member.boot_id != boot_id for member in membership.members("walrus"))


async def _metrics(address: str) -> str:
    async with ClientSession() as session, session.get(f"http://{address}/metrics") as answer:
        return await answer.text()

"""Walrus as its own process: joins the cloud, serves S3, counts, and is there again after kill -9."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from common.etcd.client import Etcd
from common.etcd.membership import Membership
from common.pki import Identity
from common.rpc.channel import connect
from mallee.s3.v1 import bucket_pb2, object_pb2
from mallee.s3.v1.service_pb2_grpc import S3ServiceStub
from tests.etcd_fixture import EtcdServer
from tests.eventually import eventually
from tests.service.walrus_process import configured, etcd_of, walrus
from tests.service.walrus_stage import said_by
from tests.walrus_store import ALICE, stream


@pytest.fixture
def etcd_server(tmp_path: Path) -> Iterator[EtcdServer]:
    with etcd_of(tmp_path) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, etcd_server: EtcdServer) -> Path:
    return configured(tmp_path, etcd_server).parent


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


async def test_a_store_that_is_another_share_of_the_buckets_is_not_served(home: Path) -> None:
    (home / "walrus").mkdir()
    (home / "walrus" / "shard").write_text("1 of 2\n")
    async with walrus(home) as child:
        assert await child.wait() == 1
    assert not (home / "walrus" / "index.sqlite").exists()


def _restarted(membership: Membership, boot_id: str) -> bool:
    return any(member.boot_id != boot_id for member in membership.members("walrus"))


async def _metrics(address: str) -> str:
    async with ClientSession() as session, session.get(f"http://{address}/metrics") as answer:
        return await answer.text()

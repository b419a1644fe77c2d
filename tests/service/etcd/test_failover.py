"""Three members with TLS: whichever dies or freezes, reads go on, watches and leaderships survive, nothing is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from common.background import Background
from common.errors import Unavailable
from common.etcd.client import Etcd
from common.etcd.election import Election, Leadership
from common.etcd.replica import Replica
from common.etcd.sync import connected
from common.etcd.types import OutcomeUnknown
from common.pki import Identity
from etcdrpc import rpc_pb2
from tests.etcd_fixture import EtcdServer
from tests.eventually import eventually


async def _leader(etcd: Etcd, cluster: list[EtcdServer], identity: Identity) -> EtcdServer:
    """Asked of each, for a status does not name the member by its address."""
    for server in cluster:
        async with Etcd([server.address], identity) as one:
            status = await one.read(lambda e: e.maintenance.Status, rpc_pb2.StatusRequest())
            if status.leader == status.header.member_id:
                return server
    raise AssertionError("nobody leads")


@pytest.fixture
def identity(pki_folder: Path) -> Identity:
    return Identity.load(pki_folder, "clc-1")


async def test_a_client_without_certificate_gets_nothing(cluster: list[EtcdServer]) -> None:
    async with Etcd([s.address for s in cluster], None, patience_s=1.0) as stranger:
        with pytest.raises(Unavailable):
            await stranger.get("/mallee/x/a")


async def test_the_witness_speaks_tls_too(cluster: list[EtcdServer], cluster_etcd: Etcd, identity: Identity) -> None:
    await cluster_etcd.put("/mallee/x/a", b"1")
    with connected(cluster[0].address, identity) as witness:
        assert witness.get("/mallee/x/a")[0] == b"1"


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_the_leader_goes_and_nothing_acknowledged_is_lost(
    cluster: list[EtcdServer], cluster_etcd: Etcd, identity: Identity, how: str
) -> None:
    acknowledged: dict[str, bytes] = {}
    stop = asyncio.Event()

    async def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            try:
                await cluster_etcd.put(f"/mallee/x/{n}", b"1")
            except OutcomeUnknown:
                continue
            acknowledged[f"/mallee/x/{n}"] = b"1"

    async with Replica(cluster_etcd, "/mallee/x/") as replica, Background() as tasks:
        writer = tasks.start(write())
        await eventually(lambda: len(acknowledged) > 50)
        leader = await _leader(cluster_etcd, cluster, identity)
        leader.kill() if how == "kill" else leader.freeze()
        before = len(acknowledged)
        await eventually(lambda: len(acknowledged) > before + 50, within_s=30)
        stop.set()
        await writer
        await eventually(lambda: all(replica.get(key) for key in acknowledged))
        assert {item.key for item in (await cluster_etcd.range("/mallee/x/")).items} >= acknowledged.keys()
        leader.restart() if how == "kill" else leader.thaw()


async def test_a_leadership_survives_the_death_of_any_one_member(
    cluster: list[EtcdServer], cluster_etcd: Etcd, identity: Identity
) -> None:
    terms: list[Leadership] = []

    async def lead(leadership: Leadership) -> None:
        terms.append(leadership)
        await leadership.lost.wait()

    async with Background() as tasks:
        tasks.start(Election(cluster_etcd, "clc", "clc-1").run(lead))
        await eventually(lambda: terms)
        (await _leader(cluster_etcd, cluster, identity)).kill()
        for n in range(30):
            await asyncio.wait_for(_put(cluster_etcd, n), 15)
        assert len(terms) == 1
        assert not terms[0].lost.is_set()


async def _put(etcd: Etcd, n: int) -> None:
    while True:
        try:
            await etcd.put("/mallee/x/a", str(n).encode())
        except OutcomeUnknown:
            continue
        return

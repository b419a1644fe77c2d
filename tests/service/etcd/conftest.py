"""etcd for these tests: a shared plain member, one of the test's own, or a cluster of three with TLS and users."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from common import pki
from common.etcd.client import Etcd
from common.pki import Identity
from tests.etcd_fixture import EtcdServer, running_cluster


@pytest.fixture
async def etcd(etcd_server: EtcdServer) -> AsyncIterator[Etcd]:
    async with Etcd([etcd_server.address], None) as client:
        yield client


@pytest.fixture(scope="module")
def pki_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    pki.create_authority(folder)
    for member in ("etcd-1", "etcd-2", "etcd-3"):
        pki.issue(folder, member, "etcd", ips=["127.0.0.1"])
    for member, role in (
        ("admin", "admin"), ("clc-1", "clc"), ("cc-us-east-1a", "cc"), ("sc-us-east-1a", "sc"),
        ("nc-us-east-1a-1", "nc"), ("walrus-1", "walrus")
    ):  # fmt: skip
        pki.issue(folder, member, role)
    return folder


@pytest.fixture
def cluster(tmp_path: Path, pki_folder: Path) -> Iterator[list[EtcdServer]]:
    with running_cluster(tmp_path, pki_folder) as servers:
        yield servers


@pytest.fixture
async def cluster_etcd(cluster: list[EtcdServer], pki_folder: Path) -> AsyncIterator[Etcd]:
    async with Etcd([s.address for s in cluster], Identity.load(pki_folder, "clc-1")) as client:
        yield client

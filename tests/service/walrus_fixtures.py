"""Walrus for a test: in the test's own process, or as a process beside etcd. A test module imports what it asks for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.sc.source_files import SourceFiles
from services.walrus.drivers.fake import FakeIndex
from services.walrus.drivers.fake_blobs import FakeBlobs
from services.walrus.store import Store
from tests import processes
from tests.etcd_fixture import EtcdServer
from tests.service.walrus_process import configured, etcd_of
from tests.service.walrus_stage import WalrusStage, make_certificates, walrus_stage
from tests.walrus_store import KEYRING, LIMITS, make_bucket, opened_store


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def stage(tmp_path: Path, certificates: Path) -> AsyncIterator[WalrusStage]:
    async with walrus_stage(tmp_path / "walrus", certificates) as stage:
        yield stage


@pytest.fixture(params=["embedded", "fake"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """With ALICE's bucket in it, on either engine."""
    if request.param == "fake":
        fake = Store(index=FakeIndex(), blobs=FakeBlobs(), limits=LIMITS, keyring=KEYRING)
        await make_bucket(fake)
        yield fake
        await fake.close()
        return
    async with opened_store(tmp_path / "walrus") as embedded:
        await make_bucket(embedded)
        yield embedded


@pytest.fixture
def etcd_server(tmp_path: Path) -> Iterator[EtcdServer]:
    with etcd_of(tmp_path) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, etcd_server: EtcdServer) -> Iterator[Path]:
    """Configured, and cleared of a server of snapshots."""
    yield configured(tmp_path, etcd_server).parent
    files = SourceFiles(tmp_path / "sources")
    if files.folder.exists() and (pid := files.holder()) is not None:
        processes.kill(pid)
